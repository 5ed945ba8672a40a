"""The alignment of anchors against the official kernel written as loops."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tad_distill.distill.align1d import AnchorAlign, plan, sample

Array = NDArray[np.float64]


def interpolated(steps: Array, at: float) -> Array:
    """The kernel's linear_interpolate: beyond one step before and after there is nothing."""
    if at < -1 or at > len(steps):
        return np.zeros_like(steps[0])
    at = max(at, 0.0)
    low = int(at)
    if low >= len(steps) - 1:
        return np.asarray(steps[-1])
    return np.asarray((1 - (at - low)) * steps[low] + (at - low) * steps[low + 1])


def aligned(steps: Array, start: float, end: float, bins: int) -> Array:
    """Align1D of one region: ``(bins, D)``."""
    length = max(end - start, 1.0)
    size = length / bins
    count = math.ceil(size)
    return np.stack(
        [
            sum(
                interpolated(steps, start + b * size + (k + 0.5) * size / count)
                for k in range(count)
            )
            / count
            for b in range(bins)
        ]
    )


def region(start: int, duration: int, num_steps: int) -> tuple[float, float]:
    """The official anchors: half their length is added on either side; (0, 0) where none fits."""
    if start + duration >= num_steps:
        return 0.0, 0.0
    length = duration + 1
    return start - 0.5 * length, start + duration + 0.5 * length


def test_the_loops_give_what_the_official_code_prints() -> None:
    steps = np.arange(1.0, 11.0)[:, None]
    assert aligned(steps, -0.5, 9.5, 10).squeeze() == pytest.approx(np.arange(1, 11))
    assert aligned(steps, 0.1, 0.9, 10).squeeze() == pytest.approx(np.arange(1.15, 2.1, 0.1))


@pytest.mark.parametrize(
    ("num_steps", "max_duration", "bins"),
    [(12, 5, 16), (12, 12, 16), (1, 4, 16), (2, 3, 4), (24, 24, 4), (5, 12, 32), (20, 3, 1)],
)
def test_every_anchor_reads_what_the_official_kernel_reads(
    num_steps: int, max_duration: int, bins: int
) -> None:
    table = np.random.default_rng(0).normal(size=(num_steps, bins, 3))
    found = sample(torch.from_numpy(table).float(), max_duration, bins)
    expected = np.zeros((max_duration, num_steps, 3))
    for duration in range(max_duration):
        for start in range(num_steps):
            start_at, end_at = region(start, duration, num_steps)
            for b in range(bins):
                expected[duration, start] += aligned(table[:, b], start_at, end_at, bins)[b]
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)


def test_gradients_are_those_of_the_same_matrix_transposed() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(9, 4, 5, generator=generator, requires_grad=True)
    weight = torch.randn(6, 9, 5, generator=generator)
    (sample(table, 6, 4) * weight).sum().backward()
    assert table.grad is not None
    eye = torch.eye(36).unflatten(0, (9, 4))
    matrix = sample(eye, 6, 4).flatten(0, 1)  # (D * T, T * bins)
    expected = (matrix.T @ weight.flatten(0, 1)).unflatten(0, (9, 4))
    torch.testing.assert_close(table.grad, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("context_bins", [0, 4, 6])
def test_the_layer_equals_aligning_first(context_bins: int) -> None:
    """The official order: all aligned features of an anchor, then a linear layer on them."""
    torch.manual_seed(0)
    align = AnchorAlign(3, 7, max_duration=5, bins=4, context_bins=context_bins)
    feats = torch.randn(1, 8, 3)
    context = torch.randn(1, 8, 3) if context_bins else None
    [*tables] = align.tables(feats, context)
    own = [(table[0], bins) for table, bins in tables]
    found = torch.cat([align.align(own, block) for block in ((0, 3), (3, 5))])
    for duration in range(5):
        for start in range(8):
            where = region(start, duration, 8)
            bins: list[Tensor] = [torch.from_numpy(aligned(feats[0].double().numpy(), *where, 4))]
            if context is not None:
                around = aligned(context[0].double().numpy(), *where, context_bins)
                bins.append(torch.from_numpy(around))
            vector = torch.einsum("bd,bod->o", torch.cat(bins).float(), align.weight) + align.bias
            torch.testing.assert_close(found[duration, start], vector, atol=1e-5, rtol=1e-5)


def test_no_step_gives_no_anchor() -> None:
    assert sample(torch.zeros(0, 16, 3), 4, 16).shape == (4, 0, 3)


def test_an_anchor_reads_no_more_rows_than_its_region_has() -> None:
    """64 durations of 256 steps: the plan holds 1.2 million weights, not 64 x 256 x 256 x 16."""
    with torch.device("meta"):
        blocks = AnchorAlign(1, 1, max_duration=64, bins=16, context_bins=0).blocks(256)
    made = [plan(256, 64, 16, block, torch.device("cpu")) for block in blocks]
    assert [end - first for first, end in blocks] == [16, 16, 16, 16]
    assert sum(len(part.anchors.weight) for part in made) < 1.3e6
    for part in made:
        assert len(part.anchors.weight) == len(part.steps.weight)
        assert part.anchors.index.dtype == part.steps.index.dtype == torch.int32


@pytest.mark.parametrize(("num_steps", "num_blocks"), [(0, 1), (1, 1), (100, 3), (5000, 100)])
def test_blocks_cover_all_durations_once(num_steps: int, num_blocks: int) -> None:
    align = AnchorAlign(1, 1, max_duration=100, bins=1, context_bins=0)
    blocks = align.blocks(num_steps)
    assert len(blocks) == num_blocks
    assert [d for first, end in blocks for d in range(first, end)] == list(range(100))


def test_a_block_is_the_same_anchors_as_the_whole() -> None:
    table = torch.randn(9, 4, 5, generator=torch.Generator().manual_seed(0))
    whole = sample(table, 6, 4)
    assert torch.equal(sample(table, 6, 4, (2, 5)), whole[2:5])
