"""Which videos and windows training sees, against ActionFormer's rule and brute force."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tad_distill.console import UserError
from tad_distill.data.annotations import Annotation, AnnotationSet, Video
from tad_distill.data.dataset import DataConfig, Dataset
from tad_distill.data.grid import Grid
from tad_distill.data.store import Stream

AddStream = Callable[..., Stream]
FPS = 10.0


def annotated(**videos: list[tuple[str, float, float]]) -> AnnotationSet:
    return AnnotationSet(
        videos={
            name: Video(name, "training", None, None, tuple(Annotation(*row) for row in rows))
            for name, rows in videos.items()
        },
        labels=("jump", "run"),
        source="labels.json",
    )


@pytest.fixture
def make(tmp_path: Path, add_stream: AddStream) -> Callable[..., Dataset]:
    """A dataset of videos whose feature at step t is t."""

    def dataset(
        annotations: AnnotationSet, lengths: dict[str, int], seed: int = 0, **settings: Any
    ) -> Dataset:
        feats = {name: np.arange(n, dtype=np.float32)[:, None] for name, n in lengths.items()}
        stream = add_stream(tmp_path / "store", "a:rgb", feats, fps=FPS)
        config = DataConfig(**settings)
        grid = Grid({"a:rgb": stream}, stream, config.target_len)
        return Dataset(grid, annotations, annotations.labels, config, seed)

    return dataset


def test_seconds_become_steps_of_the_grid(make: Callable[..., Dataset]) -> None:
    dataset = make(annotated(v=[("run", 0.5, 2.0), ("jump", 1.0, 1.5)]), {"v": 40})
    sample = dataset.whole(0)
    # A step is one frame at 10 per second; its centre lies half a frame after its start.
    assert sample.segments.tolist() == [[4.5, 19.5], [9.5, 14.5]]
    assert sample.labels.tolist() == [1, 0]
    assert sample.labelled and sample.video == "v"
    assert sample.feats["a:rgb"].shape == (40, 1)


@pytest.mark.parametrize("epoch", range(5))
def test_long_videos_give_windows_of_the_longest_length(
    make: Callable[..., Dataset], epoch: int
) -> None:
    rows = [("run", 3.0, 5.0), ("jump", 8.0, 8.5)]
    dataset = make(annotated(v=rows), {"v": 100}, max_len=32)
    sample = dataset.window(0, epoch)
    first = int(sample.feats["a:rgb"][0])
    assert sample.feats["a:rgb"][:, 0].tolist() == list(range(first, first + 32))
    # By hand: a segment stays if half of it lies inside the window and half a step around it.
    expected = []
    for label, start_s, end_s in rows:
        start, end = start_s * FPS - 0.5, end_s * FPS - 0.5
        left, right = max(start, first - 0.5), min(end, first + 32 + 0.5)
        if right - left >= 0.5 * (end - start):
            expected.append((left - first, right - first, {"jump": 0, "run": 1}[label]))
    found = zip(*sample.segments.T.tolist(), sample.labels.tolist(), strict=True)
    assert list(found) == expected and expected
    # The window knows its place: its steps are at the same seconds as in the video.
    assert sample.timeline.to_seconds(0.0) == pytest.approx((first + 0.5) / FPS)


def test_windows_cover_all_starts_alike(make: Callable[..., Dataset]) -> None:
    dataset = make(annotated(v=[("run", 0.0, 4.0)]), {"v": 40}, max_len=36)
    starts = [int(dataset.window(0, epoch).feats["a:rgb"][0]) for epoch in range(200)]
    counts = np.bincount(starts, minlength=5)
    assert len(counts) == 5 and counts.min() >= 20  # 40 expected, sd 5.7


def test_short_videos_lose_at_most_a_tenth(make: Callable[..., Dataset]) -> None:
    dataset = make(annotated(v=[("run", 0.0, 4.0)]), {"v": 40}, max_len=64)
    lengths = {len(dataset.window(0, epoch).feats["a:rgb"]) for epoch in range(100)}
    assert lengths == {36, 37, 38, 39, 40}


def test_without_crop_ratio_short_videos_stay_whole(make: Callable[..., Dataset]) -> None:
    dataset = make(annotated(v=[("run", 0.0, 4.0)]), {"v": 40}, max_len=64, crop_ratio=None)
    assert {len(dataset.window(0, epoch).feats["a:rgb"]) for epoch in range(20)} == {40}


def test_a_window_is_drawn_again_until_a_segment_is_kept(make: Callable[..., Dataset]) -> None:
    lengths, annotations = {"v": 400}, annotated(v=[("run", 20.0, 20.4)])
    patient = make(annotations, lengths, max_len=20)
    assert all(len(patient.window(0, epoch).labels) == 1 for epoch in range(10))
    hasty = make(annotations, lengths, max_len=20, crop_tries=1)
    kept = [len(hasty.window(0, epoch).labels) for epoch in range(40)]
    assert kept.count(0) > 30  # 5 % of the windows hold it; the empty ones are used as they are
    empty = next(hasty.window(0, epoch) for epoch in range(40) if not kept[epoch])
    assert empty.segments.shape == (0, 2) and empty.labelled


@pytest.mark.parametrize("keeps", [0.0, 0.95])
def test_all_windows_in_which_enough_of_a_segment_lies_are_trained_on(
    make: Callable[..., Dataset], keeps: float
) -> None:
    rows = {"u": [("run", 3.0, 4.6), ("jump", 8.0, 8.5)], "v": [("run", 0.5, 1.0)], "w": []}
    settings = {"max_len": 20, "window_overlap": 0.75, "trunc_thresh": 0.75, "window_keeps": keeps}
    dataset = make(annotated(**rows), {"u": 103, "v": 12, "w": 50}, **settings)
    # By hand, in steps of 0.1 s: windows begin every 5 steps, the last one ends with the video.
    expected: list[tuple[int, list[list[float]]]] = []
    for start in [*range(0, 83, 5), 83]:
        kept, shares = [], []
        for _, start_s, end_s in rows["u"]:
            first, last = start_s * FPS - 0.5, end_s * FPS - 0.5
            left, right = max(first, start - 0.5), min(last, start + 20.5)
            share = max(right - left, 0) / (last - first)
            if share >= 0.75 - 1e-6:
                kept.append([left - start, right - start])
                shares.append(share)
        if shares and max(shares) >= keeps - 1e-6:
            expected.append((start, kept))
    expected.append((0, [[4.5, 9.5]]))  # a video shorter than a window is one
    assert dataset.num_windows == dataset.counts["windows"] == len(expected)
    for number, (start, segments) in enumerate(expected):
        sample = dataset.window(number, epoch=number)
        assert sample.feats["a:rgb"][0].item() == start
        torch.testing.assert_close(sample.segments, torch.tensor(segments))
        assert sample.timeline.to_seconds(0.0) == pytest.approx((start + 0.5) / FPS)
    plan = dataset.batches(0, 4, 0)
    assert len(plan) == len(expected) // 4 and len({i for row in plan for i in row}) == 4 * len(
        plan
    )
    assert dataset.batches(1, 4, 0) != plan


def test_unlabelled_videos_give_all_their_windows(make: Callable[..., Dataset]) -> None:
    rows, lengths = annotated(u=[("run", 0.0, 1.0)], w=[]), {"u": 20, "w": 50}
    dataset = make(rows, lengths, max_len=20, window_overlap=0.5, unlabelled=True)
    samples = [dataset.window(i, 0) for i in range(dataset.num_windows)]
    assert [sample.video for sample in samples] == ["u", "w", "w", "w", "w"]
    assert [sample.labelled for sample in samples] == [True, False, False, False, False]
    assert all(row[0] == 0 and set(row[1:]) < {1, 2, 3, 4} for row in dataset.batches(0, 8, 2))


def test_the_same_window_comes_whenever_it_is_asked_for(make: Callable[..., Dataset]) -> None:
    annotations, lengths = annotated(u=[("run", 1, 2)], v=[("run", 1, 9)]), {"u": 90, "v": 90}
    first = make(annotations, lengths, seed=3, max_len=30)
    second = make(annotations, lengths, seed=3, max_len=30)
    other = make(annotations, lengths, seed=4, max_len=30)

    def starts(dataset: Dataset, order: list[int]) -> dict[tuple[int, int], float]:
        windows = {
            (i, e): dataset.window(i, e).feats["a:rgb"][0].item() for i in order for e in (0, 7)
        }
        return windows

    assert starts(first, [0, 1]) == starts(second, [1, 0])
    assert starts(first, [0, 1]) != starts(other, [0, 1])
    assert len(set(starts(first, [0, 1]).values())) > 1


def test_target_length_moves_segments_with_the_features(make: Callable[..., Dataset]) -> None:
    dataset = make(annotated(v=[("run", 1.0, 3.0)]), {"v": 40}, target_len=10, max_len=10)
    sample = dataset.whole(0)
    assert sample.feats["a:rgb"].shape == (10, 1)
    assert sample.segments.tolist() == [[2.0, 7.0]]  # (s * 10 - 2) / 4: cells of four frames


def test_fewer_labels_are_a_part_of_more_labels(make: Callable[..., Dataset]) -> None:
    annotations = annotated(**{f"v{i}": [("run", 0.0, 1.0)] for i in range(20)})
    lengths = {f"v{i}": 20 for i in range(20)}

    def labelled(fraction: float, seed: int = 0) -> set[str]:
        dataset = make(annotations, lengths, label_fraction=fraction, label_seed=seed)
        assert all(dataset.labelled)
        return set(dataset.videos)

    assert len(labelled(0.25)) == 5 and len(labelled(0.01)) == 1 and len(labelled(1.0)) == 20
    assert labelled(0.25) < labelled(0.5)
    assert labelled(0.25) != labelled(0.25, seed=1)


def test_unlabelled_videos_keep_no_segment(make: Callable[..., Dataset]) -> None:
    annotations = annotated(**{f"v{i}": [("run", 0.0, 1.0)] for i in range(8)}, nothing=[], more=[])
    lengths = {name: 20 for name in annotations.videos}
    dataset = make(annotations, lengths, label_fraction=0.5, unlabelled=True)
    assert dataset.counts == {
        "videos": 10,
        "labelled": 4,
        "unlabelled": 6,
        "unlisted": 0,
        "unused": 0,
        "missing": 0,
        "segments": 4,
    }
    for index, labelled in enumerate(dataset.labelled):
        assert dataset.window(index, 0).labelled == labelled
        assert len(dataset.whole(index).labels) == labelled
    without = make(annotations, lengths, label_fraction=0.5)
    assert without.counts["unused"] == 6 and len(without) == 4
    background = make(annotations, lengths, empty="background")
    assert background.counts["labelled"] == 10 and background.counts["segments"] == 8


def test_videos_that_no_file_names_are_unlabelled_ones(
    tmp_path: Path, add_stream: AddStream, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["known", "empty", "new", "newer"]
    feats = {name: np.zeros((12, 2), np.float32) for name in names}
    stream = add_stream(tmp_path / "store", "a:rgb", feats, fps=FPS)
    short = {name: feats[name] for name in names[:3]}
    grid = Grid({"a:tg": add_stream(tmp_path / "store", "a:tg", short, fps=FPS)}, stream)
    annotations = annotated(known=[("run", 0.0, 1.0)], empty=[])
    config = DataConfig(unlabelled=True, unlisted=True, empty="background")
    dataset = Dataset(grid, annotations, annotations.labels, config, 0, {"new", "newer"})
    assert dict(zip(dataset.videos, dataset.labelled, strict=True)) == {
        "empty": True,
        "known": True,
        "new": False,
    }
    assert (dataset.counts["unlisted"], dataset.counts["unlabelled"]) == (1, 1)
    assert "event=unlisted_without_features dropped=1 of=2" in capsys.readouterr().err
    assert dataset.batches(0, 2, 1) in ([[0, 1, 2]], [[1, 0, 2]])
    with pytest.raises(ValueError, match="unlisted: true, but of unlabelled videos none"):
        DataConfig(unlisted=True)


def test_an_epoch_shows_every_labelled_video_once(make: Callable[..., Dataset]) -> None:
    annotations = annotated(
        **{f"v{i}": [("run", 0.0, 1.0)] for i in range(9)}, **{f"u{i}": [] for i in range(5)}
    )
    lengths = {name: 12 for name in annotations.videos}
    dataset = make(annotations, lengths, unlabelled=True)
    seen_unlabelled: set[int] = set()
    orders = set()
    for epoch in range(6):
        batches = dataset.batches(epoch, 3, 2)
        assert [len(batch) for batch in batches] == [5, 5, 5]
        labelled = [i for batch in batches for i in batch if dataset.labelled[i]]
        assert sorted(labelled) == [i for i, flag in enumerate(dataset.labelled) if flag]
        assert all(dataset.labelled[i] == (place < 3) for b in batches for place, i in enumerate(b))
        orders.add(tuple(labelled))
        seen_unlabelled |= {i for batch in batches for i in batch if not dataset.labelled[i]}
    assert len(orders) == 6
    assert len(seen_unlabelled) == 5
    assert dataset.batches(2, 3, 2) == dataset.batches(2, 3, 2)


@pytest.mark.parametrize(
    ("num", "size", "expected"), [(5, 2, [2, 2]), (3, 8, [3]), (1, 1, [1]), (4, 2, [2, 2])]
)
def test_batches_are_full(
    make: Callable[..., Dataset], num: int, size: int, expected: list[int]
) -> None:
    annotations = annotated(**{f"v{i}": [("run", 0.0, 1.0)] for i in range(num)})
    dataset = make(annotations, {f"v{i}": 12 for i in range(num)})
    assert [len(batch) for batch in dataset.batches(0, size, 4)] == expected


def test_no_labelled_video_gives_no_batch(make: Callable[..., Dataset]) -> None:
    dataset = make(annotated(u=[], v=[]), {"u": 12, "v": 12}, unlabelled=True)
    assert dataset.batches(0, 2, 2) == []


def test_missing_features_are_an_error_or_are_counted(
    make: Callable[..., Dataset], capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = annotated(**{f"v{i}": [("run", 0.0, 1.0)] for i in range(9)})
    with pytest.raises(UserError, match=r"labels.json: 7 of 9 .*: v2 \(a:rgb\), .* and 2 more"):
        make(annotations, {"v0": 12, "v1": 12})
    capsys.readouterr()
    dataset = make(annotations, {"v0": 12, "v1": 12}, missing="drop")
    assert dataset.videos == ["v0", "v1"] and dataset.counts["missing"] == 7
    assert "event=videos_without_features dropped=7 of=9" in capsys.readouterr().err


def test_an_unknown_label_is_named(tmp_path: Path, add_stream: AddStream) -> None:
    stream = add_stream(tmp_path, "a:rgb", {"v": np.zeros((9, 1), np.float32)})
    annotations = annotated(v=[("swim", 0.0, 0.5)])
    with pytest.raises(UserError, match="v: label 'swim' is none of the 2"):
        Dataset(Grid({"a:rgb": stream}, stream), annotations, annotations.labels, DataConfig())


def test_a_segment_without_length_breaks_no_window(make: Callable[..., Dataset]) -> None:
    dataset = make(annotated(v=[("run", 2.0, 2.0)]), {"v": 60}, max_len=20, crop_tries=3)
    assert dataset.window(0, 0).segments.shape == (0, 2)


def test_the_fingerprint_names_what_is_learned(make: Callable[..., Dataset]) -> None:
    annotations = annotated(u=[("run", 0.0, 1.0)], v=[("jump", 0.0, 1.0)])
    lengths = {"u": 12, "v": 12}
    same = [make(annotations, lengths).fingerprint() for _ in range(2)]
    moved = annotated(u=[("run", 0.0, 1.01)], v=[("jump", 0.0, 1.0)])
    others = [
        make(annotations, lengths, label_fraction=0.5).fingerprint(),
        make(moved, lengths).fingerprint(),
    ]
    assert same[0] == same[1]
    assert len({same[0], *others}) == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"subset": "Test"},
        {"validation_subset": "test"},
        {"label_fraction": 0.0},
        {"label_fraction": 1.1},
        {"crop_ratio": (0.9, 0.5)},
        {"target_len": 100, "max_len": 50},
        {"max_len": 0},
        {"step_s": -1.0},
        {"step_s": 0.1, "target_len": 10},
        {"window_overlap": 1.0},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings)).split("_")[0]):
        DataConfig(**settings)


def test_padding_follows_its_rule(make: Callable[..., Dataset]) -> None:
    annotations, lengths = annotated(u=[("run", 0, 1)], v=[("run", 0, 1)]), {"u": 12, "v": 15}
    dataset = make(annotations, lengths, max_len=24, crop_ratio=None)
    samples = [dataset.whole(0), dataset.whole(1)]
    assert dataset.config.batch(samples).mask.shape == (2, 15)
    assert DataConfig(max_len=24, pad="max_len").batch(samples).mask.shape == (2, 24)
    assert DataConfig(max_len=24, pad_multiple=4).batch(samples).mask.shape == (2, 16)
    assert torch.equal(
        DataConfig(pad_multiple=4).batch(samples).mask.sum(1), torch.tensor([12, 15])
    )
