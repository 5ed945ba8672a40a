"""Target assignment against a loop over points and segments."""

import math

import pytest
import torch
from torch import Tensor

from tad_distill.distill.assignment import assign, pad
from tad_distill.distill.pyramid import points

RANGES = ((0.0, 4.0), (4.0, 8.0), (8.0, 10000.0))
CPU = torch.device("cpu")


def by_loop(
    grid: Tensor, segments: Tensor, labels: Tensor, radius: float
) -> dict[int, tuple[set[int], tuple[float, float]]]:
    """Positive points with their labels and their offsets in strides."""
    found = {}
    for n, (time, low, high, stride) in enumerate(grid.tolist()):
        candidates = []
        for (start, end), label in zip(segments.tolist(), labels.tolist(), strict=True):
            center = (start + end) / 2
            inside = max(center - radius * stride, start) < time
            inside = inside and time < min(center + radius * stride, end)
            if inside and low <= max(time - start, end - time) <= high:
                candidates.append((end - start, time - start, end - time, label))
        if candidates:
            shortest = min(candidates)
            names = {c[3] for c in candidates if c[0] <= shortest[0] + 1e-3}
            found[n] = names, (shortest[1] / stride, shortest[2] / stride)
    return found


@pytest.mark.parametrize("radius", [1.5, 0.5, math.inf])
def test_assignment_equals_a_loop(radius: float) -> None:
    generator = torch.Generator().manual_seed(1)
    grid = points((40, 20, 10), RANGES, CPU)
    segments, labels = [], []
    for count in (0, 1, 12, 5):
        # Halves, so that points fall exactly on edges of segments and ranges; some lie outside.
        starts = torch.randint(-20, 80, (count,), generator=generator) / 2
        lengths = torch.randint(0, 40, (count,), generator=generator) / 2
        segments.append(torch.stack([starts, starts + lengths], -1))
        labels.append(torch.randint(0, 3, (count,), generator=generator))
    result = assign(grid, *pad(segments, labels), num_labels=3, center_radius=radius)
    num_positive = 0
    for b in range(4):
        wanted = by_loop(grid, segments[b], labels[b], radius)
        num_positive += len(wanted)
        assert result.positive[b].nonzero().flatten().tolist() == sorted(wanted)
        for n, (names, offsets) in wanted.items():
            assert set(result.classes[b, n].nonzero().flatten().tolist()) == names
            assert sum(result.offsets[b, n].tolist()) == sum(offsets)  # equal lengths may tie
        assert not result.classes[b][~result.positive[b]].any()
    assert num_positive > 10


def test_assignment_gives_the_official_positives() -> None:
    grid = points((32, 16, 8), RANGES, CPU)
    targets = pad(
        [torch.tensor([[3.2, 9.7], [3.2, 9.7], [12, 30.5]]), torch.tensor([[5.0, 6.5]])],
        [torch.tensor([0, 2, 1]), torch.tensor([1])],
    )
    result = assign(grid, *targets, num_labels=3, center_radius=1.5)
    assert result.positive[0].nonzero().flatten().tolist() == [6, 7, 34, 36, 52, 53, 54]
    assert result.positive[1].nonzero().flatten().tolist() == [6]
    expected = [
        [2.8, 3.7],
        [3.8, 2.7],
        [0.4, 2.85],
        [2.4, 0.85],
        [1, 3.625],
        [2, 2.625],
        [3, 1.625],
    ]
    torch.testing.assert_close(result.offsets[0][result.positive[0]], torch.tensor(expected))
    assert result.classes[0, 6].tolist() == [1, 0, 1]
    assert result.classes[0, 52].tolist() == [0, 1, 0]


def test_equal_segments_with_two_labels_give_both_labels() -> None:
    grid = points((16,), ((0.0, 10000.0),), CPU)
    segments = torch.tensor([[2.0, 9.0], [2.0, 9.0005], [1.0, 12.0]])
    result = assign(
        grid, *pad([segments], [torch.tensor([0, 1, 2])]), num_labels=3, center_radius=1.5
    )
    assert result.classes[0, 5].tolist() == [1, 1, 0]


def test_segments_past_the_ends_are_learned_inside() -> None:
    grid = points((16,), ((0.0, 10000.0),), CPU)
    targets = pad([torch.tensor([[-4.0, 3.0], [14.0, 30.0]])], [torch.tensor([0, 1])])
    result = assign(grid, *targets, num_labels=2, center_radius=math.inf)
    assert result.positive[0].nonzero().flatten().tolist() == [0, 1, 2, 15]
    assert result.offsets[0, 0].tolist() == [4, 3]
    assert result.offsets[0, 15].tolist() == [1, 15]


def test_a_segment_without_length_has_no_positive() -> None:
    grid = points((16,), ((0.0, 10000.0),), CPU)
    targets = pad([torch.tensor([[5.0, 5.0]])], [torch.tensor([0])])
    assert not assign(grid, *targets, num_labels=1, center_radius=1.5).positive.any()


def test_no_segments_at_all() -> None:
    grid = points((8, 4), ((0.0, 4.0), (4.0, 10000.0)), CPU)
    targets = pad([torch.zeros(0, 2)] * 2, [torch.zeros(0, dtype=torch.long)] * 2)
    result = assign(grid, *targets, num_labels=3, center_radius=1.5)
    assert result.classes.shape == (2, 12, 3) and not result.classes.any()
    assert not result.positive.any() and not result.offsets.any()
