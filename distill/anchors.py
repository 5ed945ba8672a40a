"""Anchors of every start and duration, and what they have to learn (G-TAD, BMN).

The targets of gtad_lib/dataset.py of Frostinassiky/gtad at 6deb5b1, in grid steps.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from tad_distill.distill.heads import Targets
from tad_distill.distill.losses import iou

# A step is at a boundary if half of it lies within so many steps of the annotated time.
BOUNDARY_REACH = 1.5


@dataclass
class Goal:
    """What a batch has to learn.

    Attributes:
        overlap: ``(B, K, D, T)`` largest IoU of each anchor with a segment of each label; zero
            where the anchor is not valid.
        start: ``(B, T)`` share of each step's slot that is near the start of a segment.
        end: ``(B, T)`` the same of the ends.
    """

    overlap: Tensor
    start: Tensor
    end: Tensor


# Cached tensors are made outside inference mode: training may use them after a validation.
@lru_cache(maxsize=64)
@torch.inference_mode(False)
def points(num_steps: int, max_duration: int, offset: float, device: torch.device) -> Tensor:
    """``(D * T, 4)`` centre, start, end and length of all anchors, durations outer.

    Args:
        num_steps: T.
        max_duration: D.
        offset: Where the anchors of step 0 start, in grid steps.
        device: Where to.
    """
    length = torch.arange(1.0, max_duration + 1).repeat_interleave(num_steps)
    start = torch.arange(float(num_steps)).repeat(max_duration) + offset
    return torch.stack([start + length / 2, start, start + length, length], -1).to(device)


def valid(mask: Tensor, max_duration: int) -> Tensor:
    """``(B, D, T)`` bool: the anchors that end within the video.

    Args:
        mask: ``(B, T)`` bool, true where real.
        max_duration: D.
    """
    steps = torch.arange(mask.shape[1], device=mask.device)
    durations = torch.arange(max_duration, device=mask.device).unsqueeze(1)
    return mask.unsqueeze(1) & (steps + durations < lengths(mask)[:, None, None])


def lengths(mask: Tensor) -> Tensor:
    """``(B,)`` steps up to the last real one of each video, of ``(B, T)`` masks."""
    steps = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (mask * steps).amax(1)


def goal(
    anchors: Tensor,
    inside: Tensor,
    targets: list[Targets],
    *,
    num_labels: int,
    slot: float,
    shift: float = 0.0,
) -> Goal:
    """Hold the anchors of B videos against what is annotated.

    As in the official code segments are cut at the video's first and last anchor before the IoU,
    and not cut for the boundaries.

    Args:
        anchors: ``(D * T, 4)`` of :func:`points`.
        inside: ``(B, D, T)`` bool of :func:`valid`.
        targets: Of the B videos.
        num_labels: K; 1 takes all labels for one.
        slot: Width of the slot of a step, in grid steps, around the step's time.
        shift: Added to the segments before the IoU, in grid steps.
    """
    first, last = anchors[0, 1], anchors[0, 1] + lengths(inside[:, 0])
    times = torch.arange(inside.shape[2], device=anchors.device)
    overlaps, starts, ends = [], [], []
    for video, end_of_video in zip(targets, last, strict=True):
        segments = video.segments.to(anchors)
        labels = video.labels if num_labels > 1 else torch.zeros_like(video.labels)
        cut = (segments + shift).clamp(first, end_of_video)
        found = iou(anchors[:, 1:3], cut.unsqueeze(1))  # (M, D * T)
        index = labels.unsqueeze(1).expand(found.shape)
        none = found.new_zeros(num_labels, len(anchors))
        overlaps.append(none.scatter_reduce(0, index, found, "amax"))
        starts.append(_near(times, segments[:, 0], slot))
        ends.append(_near(times, segments[:, 1], slot))
    overlap = torch.stack(overlaps).unflatten(-1, inside.shape[1:])
    return Goal(overlap * inside.unsqueeze(1), torch.stack(starts), torch.stack(ends))


def _near(times: Tensor, boundaries: Tensor, slot: float) -> Tensor:
    """``(T,)`` largest share of each step's slot that lies near one of ``(M,)`` boundaries."""
    first = torch.maximum(times - slot / 2, (boundaries - BOUNDARY_REACH).unsqueeze(1))
    last = torch.minimum(times + slot / 2, (boundaries + BOUNDARY_REACH).unsqueeze(1))
    share = (last - first).clamp(min=0) / slot
    # A row of zeros, so that a video without segments has a maximum.
    return torch.cat([share, share.new_zeros(1, len(times))]).amax(0)
