"""Losses of anchor maps: those of G-TAD's gtad_lib/loss_function.py at 6deb5b1, its quirks named.

The official code divides by counts that can be zero and then is NaN; here such a term is 0.
"""

import torch
from torch import Tensor

# Added to probabilities before the logarithm, as in the official code.
TINY = 1e-6
# Anchors count as good, fair or poor by their IoU with a segment.
GOOD, FAIR = 0.7, 0.3


def balanced_entropy(
    probs: Tensor, positive: Tensor, negative: Tensor, extra: float = 0.0
) -> Tensor:
    """Cross-entropy in which positives weigh as much as negatives, a scalar.

    Args:
        probs: Any shape, in [0, 1].
        positive: The same shape, bool.
        negative: The same shape, bool; what is neither counts nothing.
        extra: Added to the number of positives, and twice to the number of all (official: 10 for
            the map of THUMOS'14, 0 elsewhere).
    """
    num_positive = positive.sum() + extra
    num_all = num_positive + negative.sum() + extra
    weight_positive = 0.5 * num_all / num_positive.clamp(min=1)
    weight_negative = 0.5 * num_all / (num_all - num_positive).clamp(min=1)
    cost = torch.where(positive, weight_positive * (probs + TINY).log(), 0.0)
    cost = cost + torch.where(negative, weight_negative * (1 - probs + TINY).log(), 0.0)
    return -cost.sum() / num_all.clamp(min=1)


def boundary_loss(logits: Tensor, share: Tensor, real: Tensor) -> Tensor:
    """:func:`balanced_entropy` of ``(B, T)`` starts or ends, a scalar.

    Args:
        logits: Before the sigmoid.
        share: Of each step's slot near an annotated boundary; positive above one half.
        real: Bool, true where a step is real.
    """
    near = share > 0.5
    return balanced_entropy(logits.float().sigmoid(), near & real, ~near & real)


def overlap_weights(overlap: Tensor, within: Tensor, noise: Tensor, whole_map: bool) -> Tensor:
    """How often each anchor counts in :func:`overlap_loss`: all good ones, and as many others.

    Fair and poor anchors are drawn with the share that makes them, on average, as many as the good
    ones. Where there are fewer of them than good ones, the official threshold is negative and
    takes every cell of the map.

    Args:
        overlap: ``(B, D, T)`` IoU of each anchor, 0 where not valid.
        within: ``(B, D, T)`` bool, the cells of the map: all durations of all real starts.
        noise: ``(2, B, D, T)`` uniform in [0, 1), for the fair and for the poor.
        whole_map: Take every cell in that case, as the official code does; or all fair or poor
            ones, which is what was meant.

    Returns:
        ``(B, D, T)`` 0 to 3.
    """
    good = overlap > GOOD
    fair = (overlap <= GOOD) & (overlap > FAIR)
    poor = (overlap <= FAIR) & (overlap > 0)
    weight = good.to(overlap.dtype)
    for chosen, drawn in zip((fair, poor), noise, strict=True):
        share = good.sum() / chosen.sum()  # NaN and infinity are fine: compared, not computed with
        picked = chosen * drawn > 1 - share
        weight = weight + (picked & (within if whole_map else chosen))
    return weight


def overlap_loss(predicted: Tensor, overlap: Tensor, weight: Tensor) -> Tensor:
    """Half the squared error of predicted IoUs, weighted as the official code weights, a scalar.

    Args:
        predicted: ``(B, D, T)`` in [0, 1].
        overlap: ``(B, D, T)`` IoU.
        weight: ``(B, D, T)`` of :func:`overlap_weights`; squared in the sum, plain in the count.
    """
    error = (weight * (predicted - overlap)).square().sum()
    return 0.5 * error / weight.sum().clamp(min=1)
