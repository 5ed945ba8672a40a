"""Times of frames: missing, broken and varying ones, and the streaming nearest rule."""

import numpy as np
import pytest

from tad_distill.data.timeline import nearest_frames
from tad_distill.extract.clock import Clock, NearestTicks


def streamed(times: np.ndarray, fps: float) -> list[int]:
    ticks = NearestTicks(fps)
    counts = [ticks.push(time_s) for time_s in times]
    gap = times[-1] / (len(times) - 1) if len(times) > 1 else 1 / fps
    counts = [*counts[1:], ticks.finish(times[-1] + gap)]
    return [index for index, count in enumerate(counts) for _ in range(count)]


@pytest.mark.parametrize("fps", [0.5, 1, 9.99, 10, 12.5, 15, 25, 29.97, 30, 60])
@pytest.mark.parametrize("source_fps", [1, 10, 14.985, 25, 29.97, 30, 50])
@pytest.mark.parametrize("num_frames", [1, 2, 3, 40, 301])
def test_streaming_equals_the_reference_at_constant_rates(
    source_fps: float, fps: float, num_frames: int
) -> None:
    times = np.arange(num_frames) / source_fps
    assert streamed(times, fps) == nearest_frames(times, fps).tolist()


@pytest.mark.parametrize("seed", range(100))
def test_streaming_equals_the_reference_at_varying_rates(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gaps = rng.choice([0.001, 0.02, 1 / 30, 0.04, 0.1, 0.5, 7.0], size=rng.integers(0, 80))
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    fps = float(rng.choice([3, 10, 12.5, 25, rng.uniform(1, 60)]))
    assert streamed(times, fps) == nearest_frames(times, fps).tolist()


def run(clock: Clock, raw_s: list[float], damaged: bool = False) -> list[float]:
    times = []
    for raw in raw_s:
        clock.advance(raw, damaged)
        times.append(clock.time_s)
    return times


def test_times_count_from_the_first_frame() -> None:
    clock = Clock(10, None)
    assert run(clock, [3.0, 3.1, 3.2]) == pytest.approx([0, 0.1, 0.2])
    assert clock.num_repaired == 0
    assert clock.duration_s == pytest.approx(0.3)


def test_a_file_without_times_gets_index_over_fps() -> None:
    clock = Clock(25, None)
    assert run(clock, [0.0] * 5) == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])
    assert clock.num_repaired == 4


def test_a_time_missing_at_the_end_is_one_frame_later() -> None:
    clock = Clock(10, 0.4)
    assert run(clock, [0.0, 0.1, 0.2, 0.0]) == pytest.approx([0, 0.1, 0.2, 0.3])


def test_one_time_out_of_order_does_not_shift_those_behind_it() -> None:
    assert run(Clock(10, None), [0, 0.1, 0.05, 0.3]) == pytest.approx([0, 0.1, 0.2, 0.3])


def test_a_jump_beyond_the_end_is_no_time_and_one_within_is() -> None:
    assert run(Clock(10, 200), [0, 0.1, 150.0]) == pytest.approx([0, 0.1, 150.0])
    assert run(Clock(10, 2.0), [0, 0.1, 150.0, 150.1]) == pytest.approx([0, 0.1, 0.2, 0.3])


def test_a_claimed_rate_that_the_times_contradict_gives_way_to_the_measured_one() -> None:
    wrong, right, absent = Clock(30, None), Clock(10.0001, None), Clock(None, None)
    for clock in (wrong, right, absent):
        run(clock, [0, 0.1, 0.2, 0.3])
    assert wrong.mean_fps == pytest.approx(10)
    assert right.mean_fps == 10.0001
    assert absent.mean_fps == pytest.approx(10)


def test_frames_lost_to_damage_are_counted_in() -> None:
    clock = Clock(10, None)
    assert [clock.advance(0.0), clock.advance(0.1), clock.advance(0.5, damaged=True)] == [0, 1, 4]
    assert clock.mean_fps == 10
    assert not clock.varies


def test_a_varying_rate_is_noticed() -> None:
    steady, varying = Clock(15, None), Clock(15, None)
    run(steady, [0, 0.062, 0.134, 0.196])
    run(varying, [0, 0.033, 0.066, 0.3])
    assert not steady.varies
    assert varying.varies
