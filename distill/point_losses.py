"""The loss of heads that detect at points: ActionFormer's own and the paper's."""

import torch
from torch import Tensor

from tad_distill.distill import losses
from tad_distill.distill.assignment import Assignment
from tad_distill.distill.heads import Predictions


def official(
    predictions: Predictions,
    goal: Assignment,
    positive: Tensor,
    *,
    normalizer: Tensor,
    weight: float,
    label_smoothing: float,
) -> dict[str, Tensor]:
    """Focal and DIoU loss over a running number of positives (ActionFormer at 61ea7eb).

    Args:
        predictions: Of B videos; the regression is the distances to start and end, in strides.
        goal: What each point should say.
        positive: ``(B, N)`` bool, the points that should detect, real ones only.
        normalizer: Scalar that both terms are divided by.
        weight: Of the regression.
        label_smoothing: See ``losses.smooth_labels``.

    Returns:
        ``cls`` and ``reg``.
    """
    offsets = _regressed(predictions, positive)
    classes = losses.smooth_labels(goal.classes, label_smoothing)
    cls = losses.balanced_focal(predictions.logits.float(), classes)
    cls = torch.where(predictions.mask.unsqueeze(-1), cls, 0.0)
    reg = losses.diou(as_segments(offsets), as_segments(goal.offsets))
    reg = torch.where(positive, reg, 0.0)
    return {"cls": cls.sum() / normalizer, "reg": weight * reg.sum() / normalizer}


def paper(
    predictions: Predictions, goal: Assignment, positive: Tensor, weights: losses.PaperWeights
) -> dict[str, Tensor]:
    """Eq. 1 to 3 of the distillation paper.

    Args:
        predictions: As for :func:`official`.
        goal: What each point should say.
        positive: ``(B, N)`` bool.
        weights: Of the terms.

    Returns:
        ``cls``, ``reg`` and ``comp``.
    """
    offsets, logits = _regressed(predictions, positive), predictions.logits.float()
    ends, goal_ends = as_segments(offsets), as_segments(goal.offsets)
    cls = losses.paper_cls(logits, goal.classes, positive, predictions.mask, weights)
    return {
        "cls": weights.cls * cls,
        "reg": weights.reg * losses.paper_reg(offsets, goal.offsets, positive),
        "comp": weights.comp * losses.paper_comp(ends, goal_ends, positive),
    }


def as_segments(offsets: Tensor) -> Tensor:
    """Distances to the start and end as the segment around a point at 0."""
    return torch.stack([-offsets[..., 0], offsets[..., 1]], -1)


def _regressed(predictions: Predictions, positive: Tensor) -> Tensor:
    # Where there is nothing to regress, any value with finite gradients will do.
    return torch.where(positive.unsqueeze(-1), predictions.regression.float(), 1.0)
