"""Rich pooling: five vectors per step, whatever pieces the outputs come in."""

import pytest
import torch
from torch import Tensor

from tad_distill.extract.backbones import build
from tad_distill.extract.pooling import NUM_RICH, Rich, moments


def by_hand(rows: Tensor, size: int) -> Tensor:
    """One step at a time, one output at a time, as the docstring says."""
    width, last = rows.shape[1] // 2, len(rows) - 1
    half = max(1, size // 2)

    def feat(index: int) -> Tensor:
        return rows[min(max(index, 0), last), :width]

    def mean(indices: range) -> Tensor:
        return torch.stack([feat(index) for index in indices]).mean(0)

    steps = []
    for first in range(0, len(rows), size):
        own = rows[first : first + size]
        span = torch.stack([feat(i) for i in range(first - half, first + size + half)])
        deviation = ((span - span.mean(0)) ** 2).mean(0).sqrt()
        middle = first + size // 2
        before = mean(range(middle - half, middle))
        after = mean(range(middle, middle + half))
        later = mean(range(middle + half, middle + 2 * half))
        parts = [own[:, :width].mean(0), own[:, width:].mean(0), deviation]
        steps.append(torch.cat([*parts, after - before, later - after]))
    return torch.stack(steps)


@pytest.mark.parametrize("num_outputs", [1, 2, 3, 7, 8, 25])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("piece", [1, 5, 100])
def test_rich_steps_are_those_made_by_hand(num_outputs: int, size: int, piece: int) -> None:
    torch.manual_seed(0)
    rows = torch.randn(num_outputs, 6)
    pooling = Rich(size)
    made = [steps for part in rows.split(piece) for steps in pooling.push(part)]
    given = torch.cat(made + pooling.finish())
    assert given.shape == (-(-num_outputs // size), NUM_RICH * 3)
    torch.testing.assert_close(given, by_hand(rows, size))


def test_no_outputs_make_no_steps() -> None:
    pooling = Rich(2)
    assert pooling.push(torch.zeros(0, 6)) == [] == pooling.finish()


def test_a_still_video_neither_spreads_in_time_nor_changes() -> None:
    pooling = Rich(2)
    steps = torch.cat(pooling.push(torch.ones(9, 4)) + pooling.finish())
    torch.testing.assert_close(steps[:, :4], torch.ones(5, 4))
    assert not steps[:, 4:].any()


def test_moments_are_mean_and_deviation_over_space() -> None:
    torch.manual_seed(0)
    maps = torch.rand(2, 3, 4, 5, 6)
    flat = maps.flatten(3)
    expected = torch.cat([flat.mean(-1), flat.std(-1, correction=0)], dim=-1)
    torch.testing.assert_close(moments(build("tsm_mini"), maps), expected, rtol=1e-4, atol=1e-5)
