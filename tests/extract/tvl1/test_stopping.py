"""Which iterations look at the change of the flow, and when a pair is done."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tad_distill.extract.tvl1.settings import VARIANTS, Settings
from tad_distill.extract.tvl1.stopping import Stopping, ends_within

AREA, LIMIT = 100, 0.01**2 * 100


def iterations_of_opencv_cuda(changes: list[float]) -> int:
    """The loop of its CUDA version, for one pair."""
    error, previous, n = np.inf, 0.0, 0
    while error > LIMIT and n < len(changes):
        look = n % 2 == 1 and previous < LIMIT
        error = changes[n] if look else np.inf
        previous = changes[n] if look else previous - LIMIT
        n += 1
    return n


def run(changes: np.ndarray, settings: Settings) -> list[int]:
    """Iterations of each pair, those done having left."""
    active, ended = list(range(changes.shape[1])), [len(changes)] * changes.shape[1]
    stopping = Stopping(len(active), AREA, settings)
    for n, row in enumerate(changes):
        wanted = stopping.wants_change()
        done = stopping.finish([row[i] for i in active] if wanted else None)
        for i in done:
            ended[active[i]] = n + 1
        active = [pair for i, pair in enumerate(active) if i not in done]
        if not active:
            break
    return ended


def test_pairs_stop_each_on_its_own_as_opencv_cuda_stops_one() -> None:
    random = np.random.default_rng(0)
    start, rate = random.uniform(1, 30, 40), random.uniform(0.7, 0.99, 40)
    changes = LIMIT * start * rate ** np.arange(120)[:, None]
    together = run(changes, VARIANTS["opencv-cuda"])
    assert together == [iterations_of_opencv_cuda(list(column)) for column in changes.T]
    assert min(together) < max(together)


@pytest.mark.parametrize("every", [1, 4])
def test_pairs_stop_at_the_first_look_below_the_limit(every: int) -> None:
    changes = LIMIT * np.array([[3, 9], [0.5, 9], [2, 9], [0.9, 1.0], [0.1, 9], [1, 1]])
    assert run(changes, replace(Settings(), check_every=every)) == (
        [2, 4] if every == 1 else [4, 4]
    )


def test_no_pair_is_looked_at_where_all_iterations_are_to_run() -> None:
    stopping = Stopping(1, AREA, replace(Settings(), epsilon=0.0))
    assert not any(stopping.wants_change() or stopping.finish(None) for _ in range(20))


@pytest.mark.parametrize("num_steps", [1, 2, 5, 30])
@pytest.mark.parametrize(
    "settings", [Settings(), replace(Settings(), check_every=4), VARIANTS["opencv-cuda"]]
)
def test_launches_of_several_iterations_end_pairs_where_single_ones_do(
    settings: Settings, num_steps: int
) -> None:
    random = np.random.default_rng(1)
    start, rate = random.uniform(0.5, 30, 40), random.uniform(0.7, 0.99, 40)
    changes = LIMIT * start * rate ** np.arange(150)[:, None]
    stopping, active, ended = Stopping(40, AREA, settings), list(range(40)), [150] * 40
    for first in range(0, 150, num_steps):
        # In two tiles, as a launch leaves them.
        shares = torch.from_numpy(changes[first : first + num_steps, active])
        shares = torch.stack([shares / 4, shares * 3 / 4], -1)
        ends = ends_within(stopping, shares, num_steps, len(active))
        for position, steps in ends.items():
            ended[active[position]] = first + steps
        active = [pair for i, pair in enumerate(active) if i not in ends]
        if not active:
            break
    assert ended == run(changes, settings)
    assert len(set(ended)) > 10


def test_changes_are_read_back_only_when_wanted() -> None:
    stopping = Stopping(3, AREA, replace(Settings(), check_every=4))
    assert ends_within(stopping, None, 3, 3) == {}
    assert ends_within(stopping, torch.zeros(1, 3, 2), 1, 3) == {0: 1, 1: 1, 2: 1}
