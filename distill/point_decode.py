"""Candidates of heads that detect at points: libs/modeling/meta_archs.py at 61ea7eb."""

import torch
from torch import Tensor

from tad_distill.distill.heads import Candidates


def decode(
    scores: Tensor,
    segments: Tensor,
    lengths: list[int],
    *,
    top_k: int,
    min_score: float,
    min_steps: float,
) -> Candidates:
    """Level by level, each level's candidates by falling score (equal ones by point, label).

    Args:
        scores: ``(N, K)`` of one video's points, 0 where not real.
        segments: ``(N, 2)`` in grid steps.
        lengths: Points of each level; their sum is N.
        top_k: At most so many candidates per level.
        min_score: Candidates have a higher score.
        min_steps: Candidates are longer.
    """
    parts = []
    for level_scores, ends in zip(scores.split(lengths), segments.split(lengths), strict=True):
        flat = level_scores.flatten()
        chosen = (flat > min_score).nonzero().squeeze(1)
        chosen = chosen[flat[chosen].argsort(descending=True, stable=True)[:top_k]]
        found = ends[chosen // scores.shape[1]]
        long = found[:, 1] - found[:, 0] > min_steps
        chosen = chosen[long]
        parts.append((found[long], flat[chosen], chosen % scores.shape[1]))
    return Candidates(*(torch.cat(part).cpu() for part in zip(*parts, strict=True)))
