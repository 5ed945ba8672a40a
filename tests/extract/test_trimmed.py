"""Trimmed clips: the list, the frames, the batches."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tad_distill.console import UserError
from tad_distill.extract import modalities, trimmed
from tad_distill.extract.pretrain import load_config
from tad_distill.extract.trimmed import ClipList, TrimmedClip
from tad_distill.extract.trimmed_batches import ClipBatches
from tad_distill.extract.trimmed_frames import Frames, TrimmedFrames, decode, middle_square
from tad_distill.extract.video import Decoder

WriteVideo = Callable[..., Path]


# The list of clips


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A folder with a file that a list may name; reading a list opens no video."""
    (tmp_path / "reel.mp4").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,start_s,split,label\nreel,0,,a\n", "no column 'end_s'"),
        ("", "no column 'video' \\(found an empty file\\)"),
        ("video,start_s,end_s,split\nreel,,,\n", "no label column"),
        ("video,start_s,end_s,label\nnone.mp4,0,1,a\n", ":2: video 'none.mp4' does not exist"),
        ("video,start_s,end_s,label\nreel,0,1,a\nreel,1,2,a\n", "'label' has only 'a'"),
        ("video,start_s,end_s,label\nreel,0,1,\n", "'label' has no label"),
        ("video,start_s,end_s,label\nreel,2,1,a\n", ":2: the clip ends at 1.0 s"),
        ("video,start_s,end_s,label\nreel,x,1,a\n", ":2: start_s is 'x'"),
        ("video,start_s,end_s,label\nreel,0,nan,a\n", ":2: end_s is 'nan'"),
    ],
)
def test_a_wrong_list_is_one_clear_line(listed: Path, text: str, message: str) -> None:
    path = listed / "wrong.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        trimmed.read(path)
    assert "\n" not in str(caught.value)


def test_a_task_without_its_column_is_named(listed: Path) -> None:
    path = listed / "clips.csv"
    path.write_text("video,start_s,end_s,label\nreel,0,1,a\n")
    with pytest.raises(UserError, match="no column 'colour'"):
        trimmed.read(path, ["colour"])


def test_the_list_is_read_with_blanks_and_other_splits(
    listed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = listed / "some.csv"
    path.write_text(
        "video,start_s,end_s,split,label\n"
        "reel,,,,b\nreel.mp4,1,2,training,a\nreel,0,1,validation,c\nreel,0,1,validation,\n"
        "reel,0,1,test,d\n"
    )
    found = trimmed.read(path)
    assert [(c.start_s, c.end_s, c.split) for c in found.clips] == [
        (0.0, None, "train"),
        (1.0, 2.0, "train"),
        (0.0, 1.0, "validation"),
        (0.0, 1.0, "validation"),
    ]
    assert found.classes == {"label": ("a", "b")}
    assert [found.class_id(clip, "label") for clip in found.clips] == [1, 0, -2, -1]
    log = capsys.readouterr().err
    assert "left_out=1" in log and "validation_clips=1" in log


# The frames


@pytest.fixture
def counted(tmp_path: Path, write_video: WriteVideo) -> Path:
    """A video of 40 frames, each of another grey."""
    frames = np.repeat(np.arange(20, 220, 5, dtype=np.uint8), 32 * 48 * 3)
    write_video(tmp_path / "count.mp4", frames.reshape(40, 32, 48, 3), fps=8)
    return tmp_path


def numbers(folder: Path, frames: Frames) -> list[int]:
    """Which frames of the counted video these are."""
    every = np.concatenate(list(Decoder(folder / "count.mp4")))
    return [int(np.flatnonzero((every == frame).all((1, 2, 3)))[0]) for frame in frames]


def decoded(folder: Path, rows: str, memory_gb: float = 1.0, **wanted: float) -> TrimmedFrames:
    path = folder / "clips.csv"
    path.write_text("video,start_s,end_s,label\n" + rows)
    clips = trimmed.read(path)
    frames = TrimmedFrames(len(clips.clips), folder / "out.pt", memory_gb * 1e9)
    decode(clips, frames, wanted.get("fps"), None)
    return frames


ROWS = "count,0.5,1,a\ncount,0,,b\ncount,0.25,0.75,a\ncount,4.75,,b\ncount,0.6,0.62,a\n"


@pytest.mark.parametrize("memory_gb", [1.0, 1e-4, 0.0])
def test_a_clip_holds_the_frames_from_its_start_to_before_its_end(
    counted: Path, memory_gb: float
) -> None:
    with decoded(counted, ROWS, memory_gb) as frames:
        assert numbers(counted, frames[0]) == [4, 5, 6, 7]
        assert numbers(counted, frames[1]) == list(range(40))
        assert numbers(counted, frames[2]) == [2, 3, 4, 5]
        assert numbers(counted, frames[3]) == [38, 39]
        assert numbers(counted, frames[4]) == [5]
        assert (frames.spilled_bytes > 0) == (memory_gb < 1)
    assert sorted(p.name for p in counted.iterdir()) == ["clips.csv", "count.mp4"]


def test_another_rate_takes_the_nearest_frames(counted: Path) -> None:
    with decoded(counted, "count,1,2,a\ncount,0,,b\n", fps=4.0) as frames:
        assert numbers(counted, frames[0]) == [8, 10, 12, 14]
        assert numbers(counted, frames[1]) == list(range(0, 40, 2))


@pytest.mark.parametrize("row", ["count,4.5,5.3,a", "count,7,,a", "count,7,8,a"])
def test_a_clip_past_the_end_of_its_video_is_named(counted: Path, row: str) -> None:
    with pytest.raises(UserError, match="clips.csv:3: the clip from .* which is 5 s long"):
        decoded(counted, f"count,0,1,b\n{row}\n")


def test_frames_of_different_sizes_need_a_size(counted: Path, write_video: WriteVideo) -> None:
    write_video(counted / "other.mp4", np.zeros((8, 32, 32, 3), np.uint8), fps=8)
    with pytest.raises(UserError, match="set size"):
        decoded(counted, "count,0,1,b\nother,0,1,a\n")


def test_the_middle_square_is_kept() -> None:
    frame = np.zeros((20, 40, 3), np.uint8)
    frame[:, 10:30] = 200
    assert (middle_square(frame, 20) == 200).all()
    assert middle_square(frame, 10).shape == (10, 10, 3)


# The batches


def batches(modality: str, *overrides: str) -> ClipBatches:
    """Of 32 clips of 6 frames, of every combination of two classes of two tasks."""
    rng = np.random.default_rng(0)
    labels = [
        {"object": ("red", "blue")[i % 2], "motion": ("left", "right")[i // 2 % 2]}
        for i in range(32)
    ]
    clips = tuple(
        TrimmedClip(2 + i, Path("reel.mp4"), 0.0, None, "train", labels[i]) for i in range(32)
    )
    classes: dict[str, tuple[str, ...]] = {
        "object": ("blue", "red"),
        "motion": ("left", "right"),
    }
    frames = TrimmedFrames(32, Path("unused"), 1e9)
    for i in range(32):
        frames.put(i, rng.integers(0, 255, (6, 32, 32, 3), np.uint8))
    config = load_config(
        modality, overrides=["batch_size=8", "clip_frames=4", "crop=28", *overrides]
    )
    shown = modalities.default(modality).build("imagenet")
    listed = ClipList(Path("clips.csv"), clips, classes, "")
    return ClipBatches(listed, list(classes), frames, shown, config)


def test_every_epoch_shows_every_clip_once() -> None:
    made = batches("rgb", "flip=0.0", "crop=32", "clip_frames=6")
    epochs = [
        np.concatenate([made.training(step).frames.numpy() for step in range(first, first + 4)])
        for first in (0, 4)
    ]
    of_clips = made.validating(made.train).frames.numpy()
    for epoch in epochs:
        order = [int(np.abs(of_clips - clip).sum((1, 2, 3, 4)).argmin()) for clip in epoch]
        assert sorted(order) == list(range(32))
    assert not np.array_equal(epochs[0], epochs[1])


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    first = batches("rgb").training(7)
    again = batches("rgb").training(7)
    other = batches("rgb", "seed=1").training(7)
    assert torch.equal(first.frames, again.frames) and torch.equal(first.targets, again.targets)
    assert not torch.equal(first.frames, other.frames)


def test_a_mirrored_clip_keeps_its_class_unless_told() -> None:
    plain, flipped, told = (
        batches("rgb", "crop=32", "clip_frames=6", *more).training(0)
        for more in (
            ["flip=0.0"],
            ["flip=1.0"],
            ["flip=1.0", "flip_swaps={left='right'}"],
        )
    )
    assert torch.equal(flipped.frames, plain.frames.flip(-1))
    assert torch.equal(flipped.targets, plain.targets)
    assert torch.equal(told.targets[:, 0], plain.targets[:, 0])
    assert torch.equal(told.targets[:, 1], 1 - plain.targets[:, 1])


def test_gradients_use_the_frame_before_the_clip_where_there_is_one() -> None:
    enough = batches("tg_luma", "clip_frames=5").validating([0])
    short = batches("tg_luma", "clip_frames=6").validating([0])
    longer = batches("tg_luma", "clip_frames=8").validating([0])
    assert enough.frames.shape == (1, 5, 1, 28, 28)
    assert enough.frames[0, 0].abs().max() > 0
    assert short.frames[0, 0].abs().max() == 0
    torch.testing.assert_close(short.frames[:, 1:], enough.frames)
    assert longer.frames[0, 6:].abs().max() == 0  # the last frame repeated does not change


def test_scaled_crops_are_resized_to_the_crop() -> None:
    made = batches("rgb", "scale=[0.5,0.9]", "crop=24")
    assert made.training(0).frames.shape == (8, 4, 3, 24, 24)
