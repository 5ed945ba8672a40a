"""One-to-one matching of predictions that have no place of their own (queries).

The costs are TadTR's (models/matcher.py of xlliu7/TadTR at 983ae14), for all decoder layers at
once. Spans are ``(..., 2)`` centre and width in any common unit.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tad_distill.distill.losses import iou


@dataclass(frozen=True, kw_only=True)
class MatchWeights:
    """What counts in the cost of a match.

    Attributes:
        label: How much less the focal loss of the score is as a positive than as a negative;
            between two predictions, the summed difference of their scores.
        span: The L1 distance of centre and width, in lengths of the video.
        iou: The IoU, negative.
    """

    label: float = 6.0
    span: float = 5.0
    iou: float = 2.0


def as_segments(spans: Tensor) -> Tensor:
    """Centre and width to start and end."""
    centre, half = spans[..., 0], spans[..., 1] / 2
    return torch.stack([centre - half, centre + half], -1)


def as_spans(segments: Tensor) -> Tensor:
    """Start and end to centre and width."""
    return torch.stack([segments.mean(-1), segments[..., 1] - segments[..., 0]], -1)


@torch.no_grad()
def match_targets(
    logits: Tensor, spans: Tensor, goals: Tensor, labels: Tensor, num: Tensor, weights: MatchWeights
) -> Tensor:
    """Give each annotated segment the prediction that fits it best, one each.

    Args:
        logits: ``(B, L, N, K)`` of L independent sets of predictions.
        spans: ``(B, L, N, 2)``.
        goals: ``(B, M, 2)`` the annotated spans, padded.
        labels: ``(B, M)`` their labels, padded.
        num: ``(B,)`` how many of the M there are. Of more than N, N are matched.
        weights: Of the cost.

    Returns:
        ``(B, L, N)`` int64: which of the M a prediction is matched to; -1 for none.
    """
    scores = logits.float().sigmoid()
    # The focal loss as a positive less that as a negative, with alpha 1/4 and gamma 2.
    positive = -0.25 * (1 - scores).square() * (scores + 1e-8).log()
    negative = -0.75 * scores.square() * (1 - scores + 1e-8).log()
    chosen = labels[:, None, None].expand(*scores.shape[:3], -1)
    cost = weights.label * (positive - negative).gather(-1, chosen)
    cost = cost + _span_cost(spans.float(), goals[:, None].float(), weights)
    return _assign(cost, num)


@torch.no_grad()
def match_predictions(
    logits: tuple[Tensor, Tensor], spans: tuple[Tensor, Tensor], weights: MatchWeights
) -> Tensor:
    """Give each prediction of a student the teacher's that is most like it, one each.

    Args:
        logits: ``(B, N, K)`` the student's and the teacher's.
        spans: ``(B, N, 2)`` the student's and the teacher's.
        weights: Of the cost.

    Returns:
        ``(B, N)`` int64: for each of the student's, which of the teacher's.
    """
    student, teacher = (scores.float().sigmoid() for scores in logits)
    cost = weights.label * torch.cdist(student, teacher, p=1)
    cost = cost + _span_cost(spans[0].float(), spans[1].float(), weights)
    num = torch.full((len(cost),), cost.shape[-1])
    return _assign(cost.unsqueeze(1), num).squeeze(1)


def _span_cost(spans: Tensor, goals: Tensor, weights: MatchWeights) -> Tensor:
    """``(..., N, M)`` of ``(..., N, 2)`` predicted and ``(..., M, 2)`` wanted spans."""
    distance = torch.cdist(spans, goals.expand(*spans.shape[:-2], -1, -1), p=1)
    overlap = iou(as_segments(spans).unsqueeze(-2), as_segments(goals).unsqueeze(-3))
    return weights.span * distance - weights.iou * overlap


def _assign(cost: Tensor, num: Tensor) -> Tensor:
    """``(B, L, N)``: for each of N the assigned of the first ``num`` of M, or -1."""
    # Predictions that are not numbers are for the trainer to report, not for the assignment.
    costs = cost.nan_to_num().cpu().numpy()
    found = np.full(costs.shape[:3], -1)
    for video, count in enumerate(num.tolist()):
        if count:
            for layer, layer_cost in enumerate(costs[video, ..., :count]):
                rows, columns = linear_sum_assignment(layer_cost)
                found[video, layer, rows] = columns
    return torch.from_numpy(found).to(cost.device)
