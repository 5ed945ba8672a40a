"""Windows of maps and what is to be said about them lie at the same instants."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tad_distill.console import UserError
from tad_distill.data.annotations import Annotation, AnnotationSet, Video
from tad_distill.data.dataset import DataConfig, Dataset
from tad_distill.data.spec import StreamSpec
from tad_distill.data.store import Stream
from tad_distill.distill.adapter.config import RecipeConfig
from tad_distill.distill.adapter.windows import OutputGrid, Targets, Windows

AddStream = Callable[..., Stream]
FPS = 10.0
FRAMES = {"a": 203, "b": 96, "short": 13}
# Frames per map, per step, per teacher feature; where runs may begin: TSM, I3D, SlowFast.
KINDS = [(1, 2, 2, 1), (1, 1, 4, 1), (4, 8, 3, 8), (4, 16, 16, 8), (8, 4, 2, 8)]


def times(num_frames: int, stride: int) -> np.ndarray:
    """Seconds of the middle of every ``stride`` frames, as features ``(T, 1)``."""
    return (np.arange(-(-num_frames // stride)) + 0.5)[:, None] * stride / FPS


@pytest.fixture
def make(tmp_path: Path, add_stream: AddStream) -> Callable[..., Dataset]:
    """Videos whose maps and teacher features tell the time that they are of."""

    def dataset(kind: tuple[int, int, int, int], **videos: list[tuple[str, float, float]]) -> Any:
        per_map, per_step, per_teacher, _ = kind
        folder = tmp_path / "-".join(map(str, kind))

        def stream(name: str, stride: int, shape: tuple[int, ...]) -> Stream:
            feats = {
                video: np.broadcast_to(
                    times(n, stride).reshape(-1, *[1] * len(shape)), (-(-n // stride), *shape)
                )
                for video, n in FRAMES.items()
            }
            spec = {"clip_frames": stride, "stride_frames": stride, "offset_frames": stride / 2}
            return add_stream(folder, name, feats, fps=FPS, **spec)

        maps = stream("m:rgb@inner", per_map, (3, 2, 2))
        teacher = stream("m:tg", per_teacher, (1,))
        output = StreamSpec(
            stream="m:rgb",
            backbone="m",
            modality="rgb",
            clip_frames=per_step,
            stride_frames=per_step,
            offset_frames=per_step / 2,
            shape=(3,),
        )
        grid = OutputGrid({"m:tg": teacher}, maps, output, cache_bytes=0)
        known = {
            name: Video(
                name, "training", None, None, tuple(Annotation(*r) for r in videos.get(name, []))
            )
            for name in FRAMES
        }
        annotations = AnnotationSet(known, ("jump", "run"), "labels.json")
        return Dataset(grid, annotations, annotations.labels, DataConfig(unlabelled=True))

    return dataset


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_is_of_the_time_of_its_maps(
    kind: tuple[int, int, int, int], make: Callable[..., Dataset]
) -> None:
    per_map, per_step, per_teacher, multiple = kind
    dataset = make(kind)
    targets = Targets(dataset, "m:tg", 2)
    recipe = RecipeConfig(batch_size=32, window_frames=48, edge_frames=2)
    windows = Windows(dataset, targets, recipe, multiple)
    batch = windows.batch(3)
    assert batch.maps.shape == (32, 48 // per_map, 3, 2, 2)
    assert batch.targets.shape == (32, 48 // per_step, 1)
    seconds = batch.targets.numpy()[:, :, 0] * targets.std + targets.mean
    starts = set()
    for row, video in enumerate(batch.videos):
        first_s = float(batch.maps[row, 0, 0, 0, 0])
        start = round(first_s * FPS - per_map / 2)
        assert start / FPS + per_map / 2 / FPS == pytest.approx(first_s, abs=1e-4)
        assert start % np.lcm(per_step, multiple) == 0
        starts.add((video, start))
        counted = batch.counts[row].numpy()
        expected = start / FPS + (np.arange(48 // per_step) + 0.5) * per_step / FPS
        # Beyond the centres of its first and last feature a teacher says what they say.
        ends = times(FRAMES[video], per_teacher)[[0, -1], 0]
        expected = np.clip(expected, *ends)
        np.testing.assert_allclose(seconds[row][counted], expected[counted], atol=2e-4)
        # Two frames at both ends are in steps that do not count, whole steps at a time.
        edge = -(-2 // per_step)
        assert not counted[:edge].any() and not counted[-edge:].any()
        whole = batch.maps[row, :, 0, 0, 0].numpy()
        there = FRAMES[video] / FPS
        assert counted[edge:-edge].all() or whole[-1] >= there - (per_map + per_step) / FPS
    assert {video for video, _ in starts} == set(FRAMES) and len(starts) > 8


def test_what_lies_beyond_a_short_video_does_not_count(make: Callable[..., Dataset]) -> None:
    dataset = make(KINDS[0])
    windows = Windows(dataset, Targets(dataset, "m:tg", 2), RecipeConfig(batch_size=64), 1)
    batch = windows.batch(0)
    rows = [row for row, video in enumerate(batch.videos) if video == "short"]
    assert rows
    for row in rows:
        maps = batch.maps[row, :, 0, 0, 0]
        assert (maps[13:] == maps[12]).all()  # 13 frames, then copies of the last
        assert batch.counts[row].tolist() == [False] + [True] * 6 + [False] * 5


def test_a_batch_depends_on_seed_and_number_alone(make: Callable[..., Dataset]) -> None:
    dataset = make(KINDS[0])
    targets = Targets(dataset, "m:tg", 2)

    def batch(seed: int, *numbers: int) -> Any:
        windows = Windows(dataset, targets, RecipeConfig(seed=seed), 1)
        return [windows.batch(number).maps for number in numbers][-1]

    assert batch(0, 5).equal(batch(0, 1, 2, 5))
    assert not batch(0, 5).equal(batch(0, 6)) and not batch(0, 5).equal(batch(1, 5))


def test_longer_videos_are_drawn_more_often(make: Callable[..., Dataset]) -> None:
    dataset = make(KINDS[0])
    windows = Windows(dataset, Targets(dataset, "m:tg", 2), RecipeConfig(batch_size=3000), 1)
    drawn = windows.batch(0).videos
    total = sum(FRAMES.values())
    for video, num_frames in FRAMES.items():
        assert drawn.count(video) / 3000 == pytest.approx(num_frames / total, abs=0.04)


def test_standardised_targets_have_mean_0_and_deviation_1(make: Callable[..., Dataset]) -> None:
    dataset = make(KINDS[0])
    targets = Targets(dataset, "m:tg", 2)
    everything = np.concatenate([targets.of(dataset, i) for i in range(len(dataset))])
    assert everything.mean() == pytest.approx(0, abs=1e-4)
    assert everything.std() == pytest.approx(1, abs=1e-4)


def test_labels_are_those_of_each_step(make: Callable[..., Dataset]) -> None:
    rows = [("run", 2.0, 5.0), ("jump", 4.5, 7.3)]
    dataset = make(KINDS[0], a=rows, b=[("jump", 0.0, 1.0)])
    targets = Targets(dataset, None, 2)
    assert targets.dim == 3
    given = targets.of(dataset, dataset.videos.index("a"))
    for step, second in enumerate(times(203, 2)[:, 0]):
        named = [{"jump": 0, "run": 1}[label] for label, s, e in rows if s <= second <= e]
        expected = [0.0, 0.0, 0.0]
        for label in named or [2]:
            expected[label] = 1 / max(len(named), 1)
        assert given[step].tolist() == expected
    windows = Windows(dataset, targets, RecipeConfig(batch_size=64), 1)
    assert set(windows.batch(0).videos) == {"a", "b"}  # of "short" nothing is known


def test_windows_too_short_for_their_edges_are_refused(make: Callable[..., Dataset]) -> None:
    dataset = make(KINDS[3])
    targets = Targets(dataset, "m:tg", 2)
    with pytest.raises(UserError, match="24 frames are 2 steps of 16 .*set more"):
        Windows(dataset, targets, RecipeConfig(), 8)
    with pytest.raises(ValueError, match="has nothing left"):
        RecipeConfig(window_frames=4)
