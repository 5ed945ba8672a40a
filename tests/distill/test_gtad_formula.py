"""The G-TAD head on a small case whose weights and features come from formulas.

The numbers are those of the official code (CPU, float32) on the same case.
"""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tad_distill.distill import anchors, official
from tad_distill.distill.anchor_losses import (
    balanced_entropy,
    boundary_loss,
    overlap_loss,
    overlap_weights,
)
from tad_distill.distill.heads import Predictions, Targets
from tad_distill.distill.heads.gtad import Config


def as_map(predictions: Predictions, max_duration: int) -> Tensor:
    """The official ``(B, 2, D, T)``."""
    both = torch.cat([predictions.regression, predictions.logits.sigmoid()], -1)
    return both.unflatten(1, (max_duration, -1)).movedim(-1, 1)


def hashed(count: int, rank: int) -> Tensor:
    steps = torch.arange(1, count + 1, dtype=torch.float64)
    return 2 * torch.frac(torch.sin(12.9898 * steps + 78.233 * (rank + 1)) * 43758.5453 + 1e5) - 1


def noise() -> Tensor:
    fractions = torch.arange(1, 2 * 5 * 12 + 1, dtype=torch.float64) * 0.6180339887498949
    return fractions.frac().float().reshape(2, 5, 12).expand(2, 2, 5, 12)


def formula_predictions() -> Predictions:
    head = Config(max_duration=5).build(8, 1).eval()
    shapes = official.to_official(head)
    state = {}
    for rank, name in enumerate(sorted(shapes)):
        shape = shapes[name].shape
        scale = math.sqrt(3 / math.prod(shape[1:])) if len(shape) > 1 else 0.1
        state[name] = (hashed(shapes[name].numel(), rank) * scale).reshape(shape).float()
    official.load_official(head, state, "formula")
    feats = hashed(2 * 8 * 12, 1000).reshape(2, 8, 12).float().transpose(1, 2)
    with torch.inference_mode():
        predictions: Predictions = head(feats, torch.ones(2, 12, dtype=torch.bool))
    return predictions


def official_overlap(segments: list[tuple[float, float]]) -> NDArray[np.float64]:
    """In fractions of the window, as the official code computes it: an IoU of 0.9 is above 0.9."""
    overlap = np.zeros((5, 12))
    for duration, start in np.ndindex(5, 12):
        first = start * (1 / 12)
        last = first + (1 / 12) * (duration + 1)
        for segment in segments:
            low, high = (bound * (1 / 12) for bound in segment)
            shared = max(min(last, high) - max(first, low), 0)
            iou = shared / ((last - first) - shared + high - low)
            overlap[duration, start] = max(overlap[duration, start], iou)
    return overlap


def formula_overlap() -> tuple[Tensor, Tensor]:
    """Twice: in the official arithmetic, and ours."""
    segments = [[(2.3, 5.9), (7.0, 8.0)], [(7.0, 8.0)]]
    inside = anchors.valid(torch.ones(2, 12, dtype=torch.bool), 5)
    goal = anchors.goal(
        anchors.points(12, 5, 0.0, inside.device),
        inside,
        [Targets(torch.tensor(s), torch.zeros(len(s), dtype=torch.int64)) for s in segments],
        num_labels=1,
        slot=1.0,
    )
    official = torch.from_numpy(np.stack([official_overlap(s) for s in segments]))
    return official.float() * inside, goal.overlap.squeeze(1)


def test_formula_weights_give_the_published_outputs() -> None:
    predictions = formula_predictions()
    found = as_map(predictions, 5)
    assert found.sum().item() == pytest.approx(120.0117, abs=1e-3)
    assert found[0, 0, 0, :6].tolist() == pytest.approx(
        [0.50537, 0.50208, 0.53385, 0.52284, 0.51674, 0.50390], abs=1e-5
    )
    assert found[0, 1, 4, :6].tolist() == pytest.approx(
        [0.46017, 0.46461, 0.47456, 0.46816, 0.47934, 0.47725], abs=1e-5
    )
    for name, total, first in (
        ("start", 16.5056, [0.61831, 0.61239, 0.71093]),
        ("end", 13.8857, [0.59526, 0.58905, 0.50908]),
    ):
        scores = predictions.extra[name].sigmoid()
        assert scores.sum().item() == pytest.approx(total, abs=1e-4)
        assert scores[0, :3].tolist() == pytest.approx(first, abs=1e-5)


def test_formula_weights_give_the_published_losses() -> None:
    predictions = formula_predictions()
    start, end = torch.zeros(2, 12), torch.zeros(2, 12)
    start[0, 2], start[0, 3], start[1, 7] = 1, 0.6, 0.9
    end[0, 6], end[1, 8] = 1, 0.7
    every = torch.ones(2, 12, dtype=torch.bool)
    boundary = boundary_loss(predictions.extra["start"], start, every)
    boundary += boundary_loss(predictions.extra["end"], end, every)
    assert boundary.item() == pytest.approx(1.538872, abs=1e-6)

    found = as_map(predictions, 5)
    overlap, ours = formula_overlap()
    torch.testing.assert_close(ours, overlap, atol=1e-6, rtol=0)
    inside = anchors.valid(torch.ones(2, 12, dtype=torch.bool), 5)
    weight = overlap_weights(overlap, torch.ones_like(inside), noise(), whole_map=True)
    assert overlap_loss(found[:, 0], overlap, weight).item() == pytest.approx(0.0364190, abs=1e-6)
    positive = overlap > 0.9
    cls = balanced_entropy(found[:, 1], positive, ~positive & inside, extra=10.0)
    assert cls.item() == pytest.approx(0.3728362, abs=1e-6)


def test_too_few_others_make_the_official_code_take_the_whole_map() -> None:
    """Six good anchors, one fair, three poor: every cell is taken once for each of the latter."""
    overlap = torch.zeros(1, 5, 12)
    overlap[0, 0, :6], overlap[0, 1, 0], overlap[0, 2, :3] = 0.95, 0.5, 0.1
    predicted, every = torch.full((1, 5, 12), 0.5), torch.ones(1, 5, 12, dtype=torch.bool)
    drawn = noise()[:, :1]
    weight = overlap_weights(overlap, every, drawn, whole_map=True)
    assert weight.unique().tolist() == [2, 3]
    assert overlap_loss(predicted, overlap, weight).item() == pytest.approx(0.2494246, abs=1e-6)
    meant = overlap_weights(overlap, every, drawn, whole_map=False)
    assert torch.equal(meant, (overlap > 0).float())
