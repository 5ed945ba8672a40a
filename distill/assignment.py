"""Which point of a feature pyramid answers for which annotated segment (ActionFormer)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Segments whose lengths differ by less, in grid steps, count as equally short: a point that lies
# in both gets both labels (CliffDiving and Diving annotate the same seconds).
SAME_LENGTH = 1e-3


@dataclass
class Assignment:
    """What each point has to learn.

    Attributes:
        classes: ``(B, N, K)`` float multi-hot; all zero where not positive.
        offsets: ``(B, N, 2)`` distances to the start and end in units of the point's stride; zero
            where not positive.
        positive: ``(B, N)`` bool.
    """

    classes: Tensor
    offsets: Tensor
    positive: Tensor


def pad(segments: list[Tensor], labels: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack the annotations of B videos.

    Args:
        segments: B times ``(M_b, 2)``; M_b may be 0.
        labels: B times ``(M_b,)``.

    Returns:
        ``(B, M, 2)`` and ``(B, M)`` int64, M >= 1, padded with segments from 0 to 0: no point lies
        inside them.
    """
    most = max(1, *(len(item) for item in labels))
    return (
        torch.stack([F.pad(item.float(), (0, 0, 0, most - len(item))) for item in segments]),
        torch.stack([F.pad(item.long(), (0, most - len(item))) for item in labels]),
    )


def assign(
    points: Tensor, segments: Tensor, labels: Tensor, *, num_labels: int, center_radius: float
) -> Assignment:
    """Give each point the shortest segment that it may answer for.

    The rule of ActionFormer (libs/modeling/meta_archs.py at 61ea7eb): a point answers for a
    segment when it lies strictly inside it and within ``center_radius`` strides of its centre, and
    when its distance to the farther end is within the point's range, both ends of the range
    included. All segments as short as the shortest give their labels.

    Args:
        points: ``(N, 4)`` time, lower and upper range, stride, in grid steps.
        segments: ``(B, M, 2)`` in grid steps.
        labels: ``(B, M)`` int64.
        num_labels: K.
        center_radius: In strides; ``inf`` allows the whole segment.
    """
    time, low, high, stride = (column.unsqueeze(-1) for column in points.unbind(-1))  # (N, 1)
    start, end = (column.unsqueeze(1) for column in segments.unbind(-1))  # (B, 1, M)
    center, reach = (start + end) / 2, center_radius * stride
    left, right = time - start, end - time  # (B, N, M)
    inside = (time > torch.maximum(center - reach, start)) & (
        time < torch.minimum(center + reach, end)
    )
    farther = torch.maximum(left, right)
    answers = inside & (farther >= low) & (farther <= high)

    lengths = torch.where(answers, end - start, torch.inf)
    shortest, index = lengths.min(-1)
    positive = shortest < torch.inf
    equally_short = answers & (lengths <= shortest.unsqueeze(-1) + SAME_LENGTH)
    one_hot = F.one_hot(labels, num_labels).to(points.dtype)
    offsets = torch.stack([left, right], -1).take_along_dim(index[..., None, None], 2).squeeze(2)
    return Assignment(
        classes=(equally_short.to(points.dtype) @ one_hot).clamp(max=1),
        offsets=torch.where(positive.unsqueeze(-1), offsets / stride, 0.0),
        positive=positive,
    )
