"""Pretraining on trimmed clips: the list, the frames, the batches, the training."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tad_distill import console
from tad_distill.config import ConfigError
from tad_distill.console import Interrupted, UserError
from tad_distill.extract import modalities, trimmed
from tad_distill.extract.pretrain import Job, load_config, pretrain
from tad_distill.extract.pretrain_command import pretrain as pretrain_command
from tad_distill.extract.pretrain_config import PretrainConfig
from tad_distill.extract.pretrain_loop import one_cycle, task_loss
from tad_distill.extract.trimmed_batches import ClipBatches
from tad_distill.extract.trimmed_frames import Frames, TrimmedFrames, decode, middle_square
from tad_distill.extract.video import Decoder
from tad_distill.extract.weights import prepare

FPS, CLIP_FRAMES, SIDE = 8, 6, 32
CPU = torch.device("cpu")
TINY = ["steps=30", "batch_size=8", "clip_frames=4", "crop=28", "lr=5e-3"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only lose time to more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_video(path: Path, frames: Frames) -> None:
    """``(N, H, W, 3)`` RGB to an mp4 file."""
    size = (frames.shape[2], frames.shape[1])
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, size)
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()


def toy_clip(colour: str, motion: str, rng: np.random.Generator) -> Frames:
    """A square of a colour that moves to the left or to the right."""
    frames = np.full((CLIP_FRAMES, SIDE, SIDE, 3), 96, np.uint8)
    top, first = rng.integers(2, 18), rng.integers(6, 12)
    for t in range(CLIP_FRAMES):
        left = first + (2 * t if motion == "right" else -2 * t) + (0 if motion == "right" else 10)
        frames[t, top : top + 12, max(left, 0) : left + 8] = 30
        frames[t, top : top + 12, max(left, 0) : left + 8, 0 if colour == "red" else 2] = 220
    return frames


def write_toy(folder: Path) -> Path:
    """One reel of 32 training and 16 validation clips with two tasks of two classes."""
    rng = np.random.default_rng(0)
    rows, clips = ["video,start_s,end_s,split,object,motion"], []
    for i in range(48):
        colour, motion = ("red", "blue")[i % 2], ("left", "right")[i // 2 % 2]
        clips.append(toy_clip(colour, motion, rng))
        times = (i * CLIP_FRAMES / FPS, (i + 1) * CLIP_FRAMES / FPS)
        split = "train" if i < 32 else "validation"
        rows.append(f"reel.mp4,{times[0]},{times[1]},{split},{colour},{motion}")
    write_video(folder / "reel.mp4", np.concatenate(clips))
    path = folder / "clips.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy"))


def job(clips: Path, out: Path, modality: str = "rgb", backbone: str = "tsm_mini") -> Job:
    return Job(clips=clips, backbone=backbone, modality=modality, out=out)


def tiny(*overrides: str, modality: str = "rgb") -> PretrainConfig:
    return load_config(modality, overrides=[*TINY, *overrides])


# The list of clips


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
def test_a_wrong_list_is_one_clear_line(toy: Path, text: str, message: str) -> None:
    path = toy.parent / "wrong.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        trimmed.read(path)
    assert "\n" not in str(caught.value)


def test_a_task_without_its_column_is_named(toy: Path) -> None:
    with pytest.raises(UserError, match="no column 'colour'"):
        trimmed.read(toy, ["colour"])


def test_the_list_is_read_with_blanks_and_other_splits(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = toy.parent / "some.csv"
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
def counted(tmp_path: Path) -> Path:
    """A video of 40 frames, each of another grey."""
    frames = np.repeat(np.arange(20, 220, 5, dtype=np.uint8), 32 * 48 * 3)
    write_video(tmp_path / "count.mp4", frames.reshape(40, 32, 48, 3))
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


def test_frames_of_different_sizes_need_a_size(counted: Path) -> None:
    write_video(counted / "other.mp4", np.zeros((8, 32, 32, 3), np.uint8))
    with pytest.raises(UserError, match="set size"):
        decoded(counted, "count,0,1,b\nother,0,1,a\n")


def test_the_middle_square_is_kept() -> None:
    frame = np.zeros((20, 40, 3), np.uint8)
    frame[:, 10:30] = 200
    assert (middle_square(frame, 20) == 200).all()
    assert middle_square(frame, 10).shape == (10, 10, 3)


# The batches


def batches(toy: Path, frames: TrimmedFrames, modality: str, *overrides: str) -> ClipBatches:
    config = tiny(*overrides)
    clips = trimmed.read(toy)
    decode(clips, frames, None, None)
    shown = modalities.default(modality).build("imagenet")
    return ClipBatches(clips, ["object", "motion"], frames, shown, config)


def test_every_epoch_shows_every_clip_once(toy: Path) -> None:
    with TrimmedFrames(48, toy, 1e9) as frames:
        made = batches(toy, frames, "rgb", "flip=0.0", "crop=32", "clip_frames=6")
        epochs = [
            np.concatenate([made.training(step).frames.numpy() for step in range(first, first + 4)])
            for first in (0, 4)
        ]
        of_clips = made.validating(made.train).frames.numpy()
    for epoch in epochs:
        order = [int(np.abs(of_clips - clip).sum((1, 2, 3, 4)).argmin()) for clip in epoch]
        assert sorted(order) == list(range(32))
    assert not np.array_equal(epochs[0], epochs[1])


def test_a_batch_depends_on_seed_and_step_alone(toy: Path) -> None:
    with TrimmedFrames(48, toy, 1e9) as frames:
        first = batches(toy, frames, "rgb").training(7)
        again = batches(toy, frames, "rgb").training(7)
        other = batches(toy, frames, "rgb", "seed=1").training(7)
    assert torch.equal(first.frames, again.frames) and torch.equal(first.targets, again.targets)
    assert not torch.equal(first.frames, other.frames)


def test_a_mirrored_clip_keeps_its_class_unless_told(toy: Path) -> None:
    with TrimmedFrames(48, toy, 1e9) as frames:
        plain, flipped, told = (
            batches(toy, frames, "rgb", "crop=32", "clip_frames=6", *more).training(0)
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


def test_gradients_use_the_frame_before_the_clip_where_there_is_one(toy: Path) -> None:
    with TrimmedFrames(48, toy, 1e9) as frames:
        enough = batches(toy, frames, "tg_luma", "clip_frames=5").validating([0])
        short = batches(toy, frames, "tg_luma", "clip_frames=6").validating([0])
        longer = batches(toy, frames, "tg_luma", "clip_frames=8").validating([0])
    assert enough.frames.shape == (1, 5, 1, 28, 28)
    assert enough.frames[0, 0].abs().max() > 0
    assert short.frames[0, 0].abs().max() == 0
    torch.testing.assert_close(short.frames[:, 1:], enough.frames)
    assert longer.frames[0, 6:].abs().max() == 0  # the last frame repeated does not change


def test_scaled_crops_are_resized_to_the_crop(toy: Path) -> None:
    with TrimmedFrames(48, toy, 1e9) as frames:
        made = batches(toy, frames, "rgb", "scale=[0.5,0.9]", "crop=24")
        assert made.training(0).frames.shape == (8, 4, 3, 24, 24)


# The training


def test_the_learning_rate_is_that_of_torch() -> None:
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1.0, total_steps=37)
    for step in range(37):
        assert one_cycle(step, 37) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9)
        optimiser.step()
        if step < 36:
            schedule.step()


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_the_learning_rate_of_very_short_runs_is_positive(num_steps: int) -> None:
    assert all(0 < one_cycle(step, num_steps) <= 1 for step in range(num_steps))


def test_the_loss_is_the_mean_over_the_labelled_clips() -> None:
    scores = torch.randn(4, 3)
    targets = torch.tensor([2, -1, 0, -2])
    log_p = scores.log_softmax(1)
    torch.testing.assert_close(task_loss(scores, targets), -(log_p[0, 2] + log_p[2, 0]) / 2)
    assert task_loss(scores, torch.full((4,), -1)) == 0


def test_it_learns_a_separable_set_and_writes_the_same_bytes_again(
    toy: Path, tmp_path: Path
) -> None:
    config = tiny("tasks={object=0.5,motion=1.0}", "steps=60", "flip=0.0")
    results = pretrain(job(toy, tmp_path / "a.pt"), config, CPU)
    assert [(r.task, r.num_classes, r.num_clips) for r in results] == [
        ("object", 2, 16),
        ("motion", 2, 16),
    ]
    assert results[0].accuracy == 1.0
    assert results[1].accuracy is not None and results[1].accuracy >= 0.9
    assert pretrain(job(toy, tmp_path / "b.pt"), config, CPU) == results
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "b.pt"]

    network, provenance = prepare("tsm_mini", "rgb", 3, tmp_path / "a.pt")
    assert provenance["pretraining"]["tasks"] == {"object": 0.5, "motion": 1.0}
    assert provenance["pretraining"]["config"]["steps"] == 60
    assert network(torch.zeros(1, 2, 3, 32, 32)).shape == (1, 2, 128)


def test_a_gradient_network_learns_motion_alone(toy: Path, tmp_path: Path) -> None:
    config = tiny("tasks={motion=1.0}", "steps=60", "flip=0.0", modality="tg_luma")
    (result,) = pretrain(job(toy, tmp_path / "w.pt", "tg_luma"), config, CPU)
    assert result.accuracy is not None and result.accuracy >= 0.9


def test_an_interrupted_run_goes_on_to_the_same_weights(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("dropout=0.3", "steps=6")
    pretrain(job(toy, tmp_path / "whole.pt"), config, CPU)
    out = tmp_path / "out.pt"
    asked = iter([False, False, True])
    monkeypatch.setattr(console, "stop_requested", lambda: next(asked))
    monkeypatch.setattr(console, "check_stop", stop_unless_decoding)
    with pytest.raises(Interrupted):
        pretrain(job(toy, out), config, CPU)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.pt.resume", "whole.pt"]
    monkeypatch.undo()
    pretrain(job(toy, out), config, CPU)
    assert out.read_bytes() == (tmp_path / "whole.pt").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.pt", "whole.pt"]


def stop_unless_decoding(what: str) -> None:
    if "steps" in what:
        raise Interrupted(what)


def test_the_resume_point_of_another_run_is_not_used(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"key": "another"}, tmp_path / "out.pt.resume")
    pretrain(job(toy, tmp_path / "out.pt"), tiny("steps=1"), CPU)
    assert "resume_point_of_other_settings_ignored" in capsys.readouterr().err


def test_a_loss_that_is_no_number_ends_the_run_without_a_file(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the loss is no number at step .* lower lr"):
        pretrain(job(toy, tmp_path / "out.pt"), tiny("lr=1e30"), CPU)
    assert not list(tmp_path.iterdir())


def test_a_finished_run_is_left_alone_and_other_weights_are_not_overwritten(
    toy: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.pt"
    results = pretrain(job(toy, out), tiny("steps=2"), CPU)
    before = out.stat().st_mtime_ns
    assert pretrain(job(toy, out), tiny("steps=2", "memory_gb=1"), CPU) == results
    with pytest.raises(UserError, match="other clips or settings"):
        pretrain(job(toy, out), tiny("steps=3"), CPU)
    assert out.stat().st_mtime_ns == before
    out.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="no checkpoint of ours"):
        pretrain(job(toy, out), tiny("steps=2"), CPU)


def test_clips_without_validation_have_no_accuracy(toy: Path, tmp_path: Path) -> None:
    clips = toy.parent / "no_split.csv"
    lines = [",".join(np.delete(row.split(","), 3)) for row in toy.read_text().splitlines()]
    clips.write_text("\n".join(lines))
    results = pretrain(job(clips, tmp_path / "out.pt"), tiny("steps=1"), CPU)
    assert [(r.num_clips, r.accuracy) for r in results] == [(0, None), (0, None)]


def test_weights_to_start_from_are_told_in_the_checkpoint(toy: Path, tmp_path: Path) -> None:
    pretrain(job(toy, tmp_path / "a.pt"), tiny("steps=1"), CPU)
    more = Job(
        clips=toy,
        backbone="tsm_mini",
        modality="rgb",
        out=tmp_path / "b.pt",
        init=tmp_path / "a.pt",
    )
    pretrain(more, tiny("steps=1"), CPU)
    _, provenance = prepare("tsm_mini", "rgb", 3, tmp_path / "b.pt")
    assert provenance["pretraining"]["init"]["layout"] == "tad-distill"


@pytest.mark.parametrize(
    "override",
    ["steps=0", "scale=[0.9,0.5]", "tasks={a=0.0}", "size=20", "weight=1", "modality.gain=2"],
)
def test_impossible_settings_are_refused(override: str) -> None:
    with pytest.raises(ConfigError):
        tiny(override)


@pytest.mark.parametrize("preset", ["pretrain_world_rgb", "pretrain_world_motion", "pretrain_clips"])
def test_shipped_presets_load(preset: str) -> None:
    config = load_config("rgb", preset)
    assert config.tasks.get("motion", 1.0) == 1.0


def test_the_command_prints_accuracies_and_the_path(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "weights" / "w.pt"
    result = CliRunner().invoke(
        pretrain_command,
        [str(toy), "--backbone", "tsm_mini", "--modality", "tg_luma", "--out", str(out)]
        + ["--device", "cpu", "--set", "modality.gain=2.0"]
        + [word for setting in [*TINY, "steps=2"] for word in ("--set", setting)],
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == str(out)
    assert "motion" in result.stdout and out.is_file()


@pytest.mark.slow
def test_a_tsm18_trains_on_clips_of_real_video_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = ["video,start_s,end_s,split,label"]
    for name, label in (("one", "still"), ("two", "moving")):
        frame = rng.integers(0, 255, (240, 320, 3), np.uint8)
        step = 8 if label == "moving" else 0
        write_video(
            tmp_path / f"{name}.mp4", np.stack([np.roll(frame, step * t, 1) for t in range(16)])
        )
        rows += [f"{name},0,1,train,{label}", f"{name},1,,validation,{label}"]
    clips = tmp_path / "clips.csv"
    clips.write_text("\n".join(rows))
    config = load_config(
        "rgb", overrides=["steps=2", "batch_size=2", "clip_frames=8", "size=110", "crop=96"]
    )
    out = tmp_path / "tsm18.pt"
    (result,) = pretrain(job(clips, out, backbone="tsm18"), config, CPU)
    assert result.num_clips == 2
    network, provenance = prepare("tsm18", "rgb", 3, out)
    assert network.dim == 512 and provenance["pretraining"]["num_train"] == 2
