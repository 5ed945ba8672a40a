"""Losses as pure functions: the forms of the official heads and of the paper's Eq. 1 to 3.

Segments are ``(..., 2)`` start and end in any common unit; distances to the left and right of a
point are the segment ``(-left, right)``. Nothing here reduces unless its name says so.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Below this a length counts as zero: ratios of lengths stay finite, with finite gradients.
TINY = 1e-8


@dataclass(frozen=True, kw_only=True)
class PaperWeights:
    """The weights of the paper's detection loss; the paper names but does not give them.

    Attributes:
        alpha_pos: Of the positives in Eq. 1.
        alpha_neg: Of the negatives in Eq. 1.
        cls: lambda_cls, of the classification loss (Eq. 1).
        reg: lambda_reg, of the regression loss (Eq. 2).
        comp: lambda_comp, of the completeness loss (Eq. 3).
    """

    alpha_pos: float = 1.0
    alpha_neg: float = 1.0
    cls: float = 1.0
    reg: float = 1.0
    comp: float = 1.0


def focal(logits: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss without class balance (Lin et al. 2017), also for soft targets.

    With ``p_t = p y + (1 - p)(1 - y)`` it is ``(1 - p_t)^gamma`` times the cross-entropy, as in
    ActionFormer's libs/modeling/losses.py.

    Args:
        logits: Any shape, before the sigmoid.
        targets: The same shape, in [0, 1].
        gamma: How much well-classified examples are discounted; 0 gives the cross-entropy.

    Returns:
        The same shape.
    """
    probs = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return entropy * (probs + targets - 2 * probs * targets) ** gamma


def balanced_focal(
    logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """:func:`focal` times ``alpha y + (1 - alpha)(1 - y)``, the form of the official heads."""
    return focal(logits, targets, gamma) * (alpha * targets + (1 - alpha) * (1 - targets))


def smooth_labels(targets: Tensor, epsilon: float) -> Tensor:
    """Multi-hot ``(..., K)`` targets pulled towards ``1 / (K + 1)``, as ActionFormer does."""
    return targets * (1 - epsilon) + epsilon / (targets.shape[-1] + 1)


def smooth_l1(values: Tensor, targets: Tensor) -> Tensor:
    """Quadratic below a distance of 1, linear above; any shape."""
    return F.smooth_l1_loss(values, targets, reduction="none")


def iou(segments: Tensor, targets: Tensor) -> Tensor:
    """Intersection over union of paired segments, ``(...,)``; 0 where both are points."""
    first = torch.maximum(segments[..., 0], targets[..., 0])
    last = torch.minimum(segments[..., 1], targets[..., 1])
    shared = (last - first).clamp(min=0)
    lengths = segments[..., 1] - segments[..., 0] + targets[..., 1] - targets[..., 0]
    return shared / (lengths - shared).clamp(min=TINY)


def diou(segments: Tensor, targets: Tensor) -> Tensor:
    """Distance IoU loss in one dimension (Zheng et al. 2020), ActionFormer's regression loss.

    One minus the IoU plus the squared distance of the centres, in lengths of the enclosing
    segment.
    """
    distance = 0.5 * (segments.sum(-1) - targets.sum(-1))
    first = torch.minimum(segments[..., 0], targets[..., 0])
    last = torch.maximum(segments[..., 1], targets[..., 1])
    return 1 - iou(segments, targets) + (distance / (last - first).clamp(min=TINY)) ** 2


def mean_over(values: Tensor, chosen: Tensor) -> Tensor:
    """The mean of the chosen values, a scalar; 0, with zero gradients, where none is chosen.

    Args:
        values: Any shape.
        chosen: The same shape, bool.
    """
    return torch.where(chosen, values, 0.0).sum() / chosen.sum().clamp(min=1)


def paper_cls(
    logits: Tensor, targets: Tensor, positive: Tensor, valid: Tensor, weights: PaperWeights
) -> Tensor:
    """The paper's Eq. 1: focal loss averaged over positives and, separately, over negatives.

    Args:
        logits: ``(B, N, K)``.
        targets: ``(B, N, K)`` multi-hot; all zero for negatives.
        positive: ``(B, N)`` bool, the set P.
        valid: ``(B, N)`` bool; the set N of negatives is what is valid and not positive.
        weights: Of the two sets.
    """
    cost = focal(logits, targets).sum(-1)
    return weights.alpha_pos * mean_over(cost, positive) + weights.alpha_neg * mean_over(
        cost, valid & ~positive
    )


def paper_reg(values: Tensor, targets: Tensor, positive: Tensor) -> Tensor:
    """The paper's Eq. 2 in its smooth form: smooth L1 summed over ``(B, N, 2)``, over ``|P|``."""
    return mean_over(smooth_l1(values, targets).sum(-1), positive)


def paper_comp(segments: Tensor, targets: Tensor, positive: Tensor) -> Tensor:
    """The paper's Eq. 3: one minus the IoU of ``(B, N, 2)`` segments, averaged over P."""
    return mean_over(1 - iou(segments, targets), positive)
