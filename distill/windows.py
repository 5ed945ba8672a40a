"""How a long video is cut into windows, and how what is found in them becomes one."""

import numpy as np
import torch
from torch import Tensor

from tad_distill.distill.config import PredictConfig
from tad_distill.distill.heads import Candidates
from tad_distill.distill.losses import iou


def windows(num_steps: int, config: PredictConfig) -> list[tuple[int, int]]:
    """How a video is cut into windows.

    Args:
        num_steps: Of the video.
        config: Length and overlap.

    Returns:
        For each window its first step and the step after its last one. All are of one length; the
        last one may overlap more.
    """
    if num_steps <= config.window:
        return [(0, num_steps)]
    advance = config.window - config.overlap
    starts = [*range(0, num_steps - config.window, advance), num_steps - config.window]
    return [(start, start + config.window) for start in starts]


def merge(parts: list[Candidates], cut: list[tuple[int, int]], config: PredictConfig) -> Candidates:
    """What is found in a video.

    Args:
        parts: The candidates of each window, in steps of the video.
        cut: The windows.
        config: The rule.

    Returns:
        All that is kept, window by window.
    """
    if config.merge == "centres":
        parts = [
            _chosen(part, _between(part, *own)) for part, own in zip(parts, _own(cut), strict=True)
        ]
    found = Candidates(
        torch.cat([part.segments for part in parts]),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.labels for part in parts]),
    )
    if config.merge == "suppress":
        return _chosen(found, _kept_in_overlaps(found, cut, config.merge_iou))
    return found


def _own(cut: list[tuple[int, int]]) -> list[tuple[float, float]]:
    """Between which centres candidates of a window count; these parts touch and cover all."""
    middles = [(stop + start) / 2 for (_, stop), (start, _) in zip(cut[:-1], cut[1:], strict=True)]
    bounds = [-np.inf, *middles, np.inf]
    return list(zip(bounds[:-1], bounds[1:], strict=True))


def _between(part: Candidates, first: float, last: float) -> Tensor:
    centre = part.segments.mean(1)
    return (centre >= first) & (centre < last)


def _chosen(found: Candidates, which: Tensor) -> Candidates:
    return Candidates(found.segments[which], found.scores[which], found.labels[which])


def _kept_in_overlaps(found: Candidates, cut: list[tuple[int, int]], most: float) -> Tensor:
    """``(N,)`` bool: touches no overlap, or stays in one of those that it touches.

    As TADEvaluator.cross_window_fusion in datasets/tad_eval.py of xlliu7/TadTR at 983ae14, which
    says twice what stays in two overlaps.
    """
    starts, ends = found.segments.unbind(1)
    touching = torch.zeros(len(starts), dtype=torch.bool)
    kept = touching.clone()
    for (_, stop), (start, _) in zip(cut[:-1], cut[1:], strict=True):
        # A window reaches from half a step before its first one to half a step after its last.
        touched = ends.clamp(max=stop - 0.5) > starts.clamp(min=start - 0.5)
        touching |= touched
        rows = touched.nonzero().squeeze(1)
        kept[rows[_best(_chosen(found, rows), most)]] = True
    return kept | ~touching


def _best(found: Candidates, most: float) -> Tensor:
    """``(N,)`` bool: no better one of the same label lies over it by more than ``most``."""
    left = torch.ones(len(found.scores), dtype=torch.bool)
    for row in found.scores.argsort(descending=True, stable=True).tolist():
        if left[row]:
            over = iou(found.segments, found.segments[row]) > most
            over &= found.labels == found.labels[row]
            over[row] = False
            left &= ~over
    return left
