"""Streams of any stride and clip length are read at the same instants."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate as torch_interpolate

from tad_distill.console import UserError
from tad_distill.data.grid import Grid, interpolate
from tad_distill.data.store import Stream

AddStream = Callable[..., Stream]


def random(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("num_from", "num_to"), [(7, 20), (20, 7), (5, 5), (1, 6), (6, 1)])
def test_equal_cells_are_interpolated_as_torch_does(
    tmp_path: Path, add_stream: AddStream, num_from: int, num_to: int
) -> None:
    feats = random(num_from, 4)
    stream = add_stream(tmp_path, "a:rgb", {"v": feats})
    grid = Grid({"a:rgb": stream}, stream, target_len=num_to)
    expected = torch_interpolate(
        torch.from_numpy(feats.T[None]), num_to, mode="linear", align_corners=False
    )[0].T
    np.testing.assert_allclose(grid.read("v")["a:rgb"], expected.numpy(), atol=1e-5)
    # The resampled steps divide the same seconds evenly.
    timeline = grid.timeline("v")
    assert timeline.step_s == pytest.approx(num_from / 10 / num_to)
    assert timeline.to_seconds(-0.5) == pytest.approx(0.0)
    assert timeline.to_seconds(num_to - 0.5) == pytest.approx(num_from / 10)


@pytest.mark.parametrize(("num_from", "step_s", "num_to"), [(12, 0.05, 24), (12, 0.2, 6)])
def test_steps_of_a_length_in_seconds_divide_the_cells_of_the_features(
    tmp_path: Path, add_stream: AddStream, num_from: int, step_s: float, num_to: int
) -> None:
    feats = random(num_from, 4)
    stream = add_stream(tmp_path, "a:rgb", {"v": feats})
    grid = Grid({"a:rgb": stream}, stream, step_s=step_s)
    assert grid.num_steps("v") == num_to
    expected = torch_interpolate(
        torch.from_numpy(feats.T[None]), num_to, mode="linear", align_corners=False
    )[0].T
    np.testing.assert_allclose(grid.read("v")["a:rgb"], expected.numpy(), atol=1e-5)
    timeline = grid.timeline("v")
    assert timeline.step_s == pytest.approx(step_s)
    assert timeline.to_seconds(-0.5) == pytest.approx(0.0)


def test_features_of_nearly_that_pace_stay_as_they_are(
    tmp_path: Path, add_stream: AddStream
) -> None:
    feats = random(50, 4)
    stream = add_stream(tmp_path, "a:rgb", {"v": feats}, fps=29.97, stride_frames=4)
    grid = Grid({"a:rgb": stream}, stream, step_s=4 / 30)
    assert np.array_equal(grid.read("v")["a:rgb"], feats)
    assert grid.timeline("v") == stream.timeline("v")
    paced = Grid({"a:rgb": stream}, stream, step_s=4 / 25)
    assert paced.num_steps("v") == round(50 * 25 / 29.97)
    # The length is that of a step, to the last one: no video is stretched a little.
    assert paced.timeline("v").step_s == pytest.approx(0.16)


def test_streams_of_any_pace_begin_their_steps_together(
    tmp_path: Path, add_stream: AddStream
) -> None:
    coarse = add_stream(
        tmp_path,
        "c:rgb",
        {"v": random(8, 2)},
        clip_frames=8,
        stride_frames=8,
        offset_frames=4,
    )
    fine = add_stream(tmp_path, "f:rgb", {"v": random(64, 2)})
    grids = [Grid({s.name: s}, s, step_s=0.2) for s in (coarse, fine)]
    assert [grid.num_steps("v") for grid in grids] == [32, 32]
    first, second = (grid.timeline("v").to_seconds(np.arange(32.0)) for grid in grids)
    np.testing.assert_allclose(first, second, atol=1e-9)
    one = Grid({"c:rgb": coarse}, coarse, step_s=100.0)
    assert one.num_steps("v") == 1 and one.read("v")["c:rgb"].shape == (1, 2)


def test_a_signal_of_time_reads_the_same_from_every_stream(
    tmp_path: Path, add_stream: AddStream
) -> None:
    """Features that hold their own instant hold it after the change of grid."""
    fine = add_stream(tmp_path, "f:rgb", {"v": (np.arange(64)[:, None] + 0.5) / 10})
    # Clips of 8 frames every 4 frames: the first centre at 4 frames, the last at 60.
    coarse = add_stream(
        tmp_path,
        "c:flow",
        {"v": (np.arange(15)[:, None] * 4 + 4.0) / 10},
        clip_frames=8,
        stride_frames=4,
        offset_frames=4,
    )
    grid = Grid({"f:rgb": fine, "c:flow": coarse}, fine)
    feats = grid.read("v")
    seconds = grid.timeline("v").to_seconds(np.arange(64.0))
    np.testing.assert_allclose(feats["f:rgb"][:, 0], seconds, atol=1e-6)
    np.testing.assert_allclose(feats["c:flow"][:, 0], seconds.clip(0.4, 6.0), atol=1e-6)
    back = Grid({"f:rgb": fine, "c:flow": coarse}, coarse)
    seconds = back.timeline("v").to_seconds(np.arange(15.0))
    np.testing.assert_allclose(back.read("v")["f:rgb"][:, 0], seconds, atol=1e-6)


@pytest.mark.parametrize("cache_bytes", [0, 10**6])
@pytest.mark.parametrize(("start", "stop"), [(0, 9), (3, 7), (8, 9), (4, 4), (0, 0)])
def test_a_window_equals_the_same_part_of_the_whole(
    tmp_path: Path, add_stream: AddStream, start: int, stop: int, cache_bytes: int
) -> None:
    base = add_stream(tmp_path, "a:rgb", {"v": random(9, 3)}, dtype="float16")
    other = add_stream(tmp_path, "b:tg", {"v": random(17, 2)}, stride_frames=0.5, offset_frames=0.3)
    whole = Grid({"a:rgb": base, "b:tg": other}, base).read("v")
    grid = Grid({"a:rgb": base, "b:tg": other}, base, cache_bytes=cache_bytes)
    for _ in range(2):  # the second time from memory
        part = grid.read("v", start, stop)
        for name in whole:
            assert part[name].shape == (stop - start, grid.dims[name])
            np.testing.assert_array_equal(part[name], whole[name][start:stop])


def test_features_on_their_own_grid_come_as_stored(tmp_path: Path, add_stream: AddStream) -> None:
    feats = random(6, 3).astype(np.float16)
    stream = add_stream(tmp_path, "a:rgb", {"v": feats}, dtype="float16")
    read = Grid({"a:rgb": stream}, stream).read("v")["a:rgb"]
    assert read.dtype == np.float16
    np.testing.assert_array_equal(read, feats)


def test_memory_is_used_up_to_its_limit(tmp_path: Path, add_stream: AddStream) -> None:
    stream = add_stream(tmp_path, "a:rgb", {"u": random(10, 2), "v": random(10, 2)})
    grid = Grid({"a:rgb": stream}, stream, cache_bytes=10 * 2 * 4)
    first, second = grid.read("u")["a:rgb"], grid.read("v")["a:rgb"]
    assert np.shares_memory(first, grid.read("u")["a:rgb"])
    assert not np.shares_memory(second, grid.read("v")["a:rgb"])


def test_different_cuts_of_a_video_are_refused(tmp_path: Path, add_stream: AddStream) -> None:
    base = add_stream(tmp_path, "a:rgb", {"v": random(50, 3)})
    short = add_stream(tmp_path, "b:tg", {"v": random(40, 3)})
    with pytest.raises(UserError, match=r"v: stream b:tg has features from 0.05 s to 3.95 s"):
        Grid({"a:rgb": base, "b:tg": short}, base).read("v")
    Grid({"a:rgb": base, "b:tg": short}, short).read("v")  # holds all that the grid asks for


def test_one_step_more_or_less_is_no_other_cut(tmp_path: Path, add_stream: AddStream) -> None:
    base = add_stream(tmp_path, "a:rgb", {"v": random(50, 3)})
    other = add_stream(tmp_path, "b:tg", {"v": random(49, 3)})
    feats = Grid({"a:rgb": base, "b:tg": other}, base).read("v")["b:tg"]
    np.testing.assert_array_equal(feats[49], feats[48])


def test_maps_are_refused(tmp_path: Path, add_stream: AddStream) -> None:
    stream = add_stream(tmp_path, "a:rgb@layer3", {"v": random(5, 2, 3, 3)})
    with pytest.raises(UserError, match=r"a step has shape \(2, 3, 3\)"):
        Grid({"a:rgb@layer3": stream}, stream)


def test_lacking_names_streams_and_the_base(tmp_path: Path, add_stream: AddStream) -> None:
    a = add_stream(tmp_path, "a:rgb", {"u": random(5, 2), "v": random(5, 2)})
    b = add_stream(tmp_path, "b:tg", {"u": random(5, 2)})
    assert Grid({"a:rgb": a}, b).lacking("u") == []
    assert Grid({"a:rgb": a}, b).lacking("v") == ["b:tg"]
    assert Grid({"a:rgb": a, "b:tg": b}, a).lacking("w") == ["a:rgb", "b:tg"]


def test_interpolation_reads_no_more_than_it_needs() -> None:
    feats = random(100, 2)
    asked: list[tuple[int, int]] = []

    def read(start: int, stop: int) -> NDArray[np.float32]:
        asked.append((start, stop))
        return feats[start:stop]

    found = interpolate(read, 100, np.array([10.25, 11.0, 12.5]))
    assert asked == [(10, 14)]
    np.testing.assert_allclose(found[0], 0.75 * feats[10] + 0.25 * feats[11], atol=1e-6)
    np.testing.assert_array_equal(found[1], feats[11])
    assert interpolate(read, 100, np.array([-3.0, 250.0])).tolist() == [
        feats[0].tolist(),
        feats[99].tolist(),
    ]
