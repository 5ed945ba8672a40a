"""Pretraining on trimmed clips: what is learned, written, refused and resumed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tad_distill import console
from tad_distill.config import ConfigError
from tad_distill.console import Interrupted, UserError
from tad_distill.extract.pretrain import Job, load_config, pretrain
from tad_distill.extract.pretrain_command import pretrain as pretrain_command
from tad_distill.extract.pretrain_config import PretrainConfig
from tad_distill.extract.pretrain_loop import one_cycle, task_loss
from tad_distill.extract.trimmed_frames import Frames
from tad_distill.extract.weights import prepare

FPS, CLIP_FRAMES, SIDE = 8, 6, 32
WriteVideo = Callable[..., Path]
CPU = torch.device("cpu")
TINY = ["steps=30", "batch_size=8", "clip_frames=4", "crop=28", "lr=5e-3"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only lose time to more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def toy_clip(colour: str, motion: str, rng: np.random.Generator) -> Frames:
    """A square of a colour that moves to the left or to the right."""
    frames = np.full((CLIP_FRAMES, SIDE, SIDE, 3), 96, np.uint8)
    top, first = rng.integers(2, 18), rng.integers(6, 12)
    for t in range(CLIP_FRAMES):
        left = first + (2 * t if motion == "right" else -2 * t) + (0 if motion == "right" else 10)
        frames[t, top : top + 12, max(left, 0) : left + 8] = 30
        frames[t, top : top + 12, max(left, 0) : left + 8, 0 if colour == "red" else 2] = 220
    return frames


def write_toy(folder: Path, write_video: WriteVideo) -> Path:
    """One reel of 32 training and 16 validation clips with two tasks of two classes."""
    rng = np.random.default_rng(0)
    rows, clips = ["video,start_s,end_s,split,object,motion"], []
    for i in range(48):
        colour, motion = ("red", "blue")[i % 2], ("left", "right")[i // 2 % 2]
        clips.append(toy_clip(colour, motion, rng))
        times = (i * CLIP_FRAMES / FPS, (i + 1) * CLIP_FRAMES / FPS)
        split = "train" if i < 32 else "validation"
        rows.append(f"reel.mp4,{times[0]},{times[1]},{split},{colour},{motion}")
    write_video(folder / "reel.mp4", np.concatenate(clips)[..., ::-1], fps=FPS)
    path = folder / "clips.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, write_video: WriteVideo) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy"), write_video)


def job(clips: Path, out: Path, modality: str = "rgb", backbone: str = "tsm_mini") -> Job:
    return Job(clips=clips, backbone=backbone, modality=modality, out=out)


def tiny(*overrides: str, modality: str = "rgb") -> PretrainConfig:
    return load_config(modality, overrides=[*TINY, *overrides])


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


@pytest.mark.parametrize(
    "preset", ["pretrain_world_rgb", "pretrain_world_motion", "pretrain_clips"]
)
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
def test_a_tsm18_trains_on_clips_of_real_video_size(
    tmp_path: Path, write_video: WriteVideo
) -> None:
    rng = np.random.default_rng(0)
    rows = ["video,start_s,end_s,split,label"]
    for name, label in (("one", "still"), ("two", "moving")):
        frame = rng.integers(0, 255, (240, 320, 3), np.uint8)
        step = 8 if label == "moving" else 0
        frames = np.stack([np.roll(frame, step * t, 1) for t in range(16)])
        write_video(tmp_path / f"{name}.mp4", frames, fps=FPS)
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
