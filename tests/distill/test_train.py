"""The loop: what a step does, that it repeats, resumes exactly, stops in time, and learns."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tad_distill import console
from tad_distill.config import ConfigError
from tad_distill.config import load as load_table
from tad_distill.console import Interrupted, UserError
from tad_distill.data import annotations
from tad_distill.data.store import Store, Stream
from tad_distill.distill import checkpoint, optim
from tad_distill.distill.config import Experiment, dump
from tad_distill.distill.model import build
from tad_distill.distill.objective import Objective
from tad_distill.distill.predict import Run, predict
from tad_distill.distill.sources import open_sources, statistics
from tad_distill.distill.train import Trainer, train
from tad_distill.evaluate.mean_ap import mean_ap

CPU = torch.device("cpu")
HEAD = {
    "kind": "actionformer",
    "embd_dim": 16,
    "num_heads": 2,
    "arch": [1, 1, 2],
    "window": [7],
    "loss_normalizer": 30.0,
}
SINGLE = {"streams": ["made:rgb"], "dim": 16, "num_layers": 1, "noise": 0.3, "dropout": 0.1}
DECOMPOSED = {
    "kind": "decomposed",
    "appearance": "made:rgb",
    "motion": "made:rgb",
    "dim": 16,
    "num_layers": 1,
    "noise": 0.3,
}
TRANSFERS = [{"kind": "response"}, {"kind": "feature"}]


@pytest.fixture(scope="session")
def experiment(signal_world: Path) -> Callable[..., Experiment]:
    def make(*overrides: str, **sections: Any) -> Experiment:
        table: dict[str, Any] = {
            "data": {"max_len": 48},
            "model": SINGLE,
            "head": HEAD,
            "train": {"steps": 7, "batch_size": 8, "lr": 2e-3, "ema": 0.8, "log_every": 2},
        } | sections
        paths = [
            f'data.store="{signal_world / "store"}"',
            f'data.annotations="{signal_world / "annotations.json"}"',
            'train.device="cpu"',
        ]
        return load_table(Experiment, table, [*paths, *overrides])

    return make


@pytest.fixture(scope="session")
def teacher(
    experiment: Callable[..., Experiment], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "run"
    train(experiment("train.steps=4", 'model.streams=["made:tg"]'), out)
    return out


@pytest.fixture
def student(experiment: Callable[..., Experiment], teacher: Path) -> Callable[..., Experiment]:
    def make(*overrides: str) -> Experiment:
        settings = ("data.label_fraction=0.5", "data.unlabelled=true", f'teacher.run="{teacher}"')
        return experiment(*settings, *overrides, model=DECOMPOSED, transfers=TRANSFERS)

    return make


def weights(run: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = checkpoint.load(run / "model.pt")["weights"]
    return loaded


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def losses(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "steps_per_s"} for row in rows]


def test_steps_are_those_of_a_loop_written_out(
    experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    settings = experiment("train.steps=5", "train.clip_norm=0.5", "train.warmup=0.4")
    train(settings, tmp_path / "run")

    sources = open_sources(settings, CPU)
    checkpoint.seed_everything(0)
    model = build(settings.model, settings.head, settings.fusion, {"made:rgb": 12}, 3)
    objective = Objective(settings.objective, model)
    model.set_statistics("made:rgb", *statistics(sources.dataset)["made:rgb"])
    model.train()
    groups = optim.parameter_groups([model], 0.05)
    optimizer = torch.optim.AdamW(groups)
    mean = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plan = sources.dataset.batches(0, 8, 0) + sources.dataset.batches(1, 8, 0)
    assert len(plan) == 6
    for step, indices in enumerate(plan[:5]):
        samples = [sources.dataset.window(i, step // 3) for i in indices]
        batch = settings.data.batch(samples)
        for group in optimizer.param_groups:
            group["lr"] = [0, 2e-3, 2e-3, 1.5e-3, 0.5e-3][step] + [0, 0, 0, 2.5e-9, 7.5e-9][step]
        loss = sum(objective(model(batch.feats, batch.mask), batch).values(), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(model.parameters()), 0.5)
        optimizer.step()
        for name, tensor in model.state_dict().items():
            learned = name in dict(model.named_parameters())
            mean[name] = 0.8 * mean[name] + 0.2 * tensor if learned else tensor.clone()
    trained = weights(tmp_path / "run")
    for name, tensor in mean.items():
        torch.testing.assert_close(trained[name], tensor, rtol=1e-4, atol=1e-6)


def test_one_seed_gives_one_result_and_another_seed_another(
    student: Callable[..., Experiment], tmp_path: Path
) -> None:
    train(student(), tmp_path / "a")
    torch.rand(3)
    np.random.random(3)
    train(student(), tmp_path / "b")
    train(student("train.seed=1"), tmp_path / "c")
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert not equal(weights(tmp_path / "a"), weights(tmp_path / "c"))


@pytest.mark.parametrize("stop_at", [1, 3, 4])
def test_a_stopped_run_ends_with_the_same_weights(
    student: Callable[..., Experiment],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_at: int,
) -> None:
    """Within the first epoch, at its end, and within the second; validation chooses the weights."""
    settings = student(
        'data.validation_subset="validation"',
        'train.select="validation"',
        "train.validate_every=1",
        "train.batch_size=4",
        "train.log_every=3",
    )
    train(settings, tmp_path / "whole")
    asked = iter(range(1, 100))
    with monkeypatch.context() as patch:
        patch.setattr(console, "stop_requested", lambda: next(asked) >= stop_at)
        patch.setattr(console, "_stop_signal", signal.SIGTERM)
        with pytest.raises(Interrupted, match=f"step {stop_at} of 7"):
            train(settings, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "model.pt").exists()
    train(settings, tmp_path / "stopped")
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")


def command(settings: Experiment, out: Path) -> list[str]:
    path = out.with_suffix(".json")
    path.write_text(json.dumps(dump(settings)))
    main = [sys.executable, "-P", "-m", "tad_distill", "train"]
    return [*main, "--config", str(path), "--out", str(out)]


@pytest.mark.slow
@pytest.mark.parametrize(("kill", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 75)])
def test_a_killed_process_goes_on_and_ends_bit_for_bit_the_same(
    student: Callable[..., Experiment], tmp_path: Path, kill: signal.Signals, code: int
) -> None:
    settings = student("train.steps=40", "train.log_every=1", "train.save_every_s=0.1")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    train(settings, tmp_path / "whole")
    out = tmp_path / "killed"
    process = subprocess.Popen(command(settings, out), env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (out / "last.pt").exists() or (out / "history.jsonl").read_text().count("\n") < 6:
        assert process.poll() is None and time.monotonic() < deadline, "it ended before the kill"
        time.sleep(0.01)
    process.send_signal(kill)
    process.communicate()
    assert process.returncode == code
    assert not (out / "model.pt").exists()
    done = subprocess.run(command(settings, out), env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == str(out)
    assert "event=resumed" in done.stderr
    assert equal(weights(tmp_path / "whole"), weights(out))
    assert losses(tmp_path / "whole") == losses(out)
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "history.jsonl",
        "last.pt",
        "model.pt",
    ]


def test_a_finished_run_is_left_alone(
    experiment: Callable[..., Experiment], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(experiment("train.steps=2"), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    capsys.readouterr()
    train(experiment("train.steps=2", "train.workers=1", "data.cache_mb=0"), tmp_path)
    assert "event=finished_already" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_another_experiment_does_not_take_over_a_folder(
    experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    train(experiment("train.steps=2"), tmp_path)
    other = experiment("train.steps=3", "head.window=[9]")
    with pytest.raises(ConfigError, match=r"head.window .*; train.steps \(2 -> 3\)"):
        train(other, tmp_path)
    train(other, tmp_path, overwrite=True)
    assert checkpoint.load(tmp_path / "model.pt")["provenance"]["steps"] == 3
    assert losses(tmp_path)[-1]["step"] == 3


def test_other_annotations_are_another_experiment(
    experiment: Callable[..., Experiment], tmp_path: Path, signal_world: Path
) -> None:
    settings = experiment("train.steps=2")
    train(settings, tmp_path / "run")
    table = json.loads((signal_world / "annotations.json").read_text())
    table["database"]["v00"]["annotations"][0]["segment"][1] += 0.25
    moved = tmp_path / "moved.json"
    moved.write_text(json.dumps(table))
    with pytest.raises(ConfigError, match=r"inputs.training_set"):
        train(replace(settings, data=replace(settings.data, annotations=moved)), tmp_path / "run")


def test_what_is_not_finite_stops_before_the_step(
    experiment: Callable[..., Experiment], tmp_path: Path, add_stream: Callable[..., Stream]
) -> None:
    feats = {f"v{i}": np.full((40, 2), 1e38, np.float32) for i in range(2)}
    add_stream(tmp_path / "store", "made:rgb", feats)
    annotation = {"label": "run", "segment": [1.0, 2.0]}
    video = {"subset": "training", "duration": 4.0, "annotations": [annotation]}
    (tmp_path / "a.json").write_text(json.dumps({"database": dict.fromkeys(feats, video)}))
    paths = [f'data.store="{tmp_path / "store"}"', f'data.annotations="{tmp_path / "a.json"}"']
    settings = experiment(*paths, "data.standardise=false")
    with pytest.raises(UserError, match=r"step 0 .* not finite .*joint/cls=nan.* videos v\d, v\d"):
        train(settings, tmp_path / "run")
    assert not (tmp_path / "run" / "last.pt").exists()


def test_a_refused_step_changes_nothing(experiment: Callable[..., Experiment]) -> None:
    settings = experiment()
    trainer = Trainer(settings, open_sources(settings, CPU), CPU)
    batch = next(trainer._batches(0, 0))
    trainer._learn(batch, 0)
    before = {name: tensor.clone() for name, tensor in trainer.model.named_parameters()}
    batch.feats["made:rgb"][0, 0, 0] = float("inf")
    with pytest.raises(UserError, match=f"videos {batch.videos[0]}"):
        trainer._learn(batch, 0)
    assert equal(before, dict(trainer.model.named_parameters()))
    assert trainer.step == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_reading_in_other_processes_changes_nothing(
    experiment: Callable[..., Experiment], tmp_path: Path, workers: int
) -> None:
    train(experiment("train.steps=4"), tmp_path / "a")
    train(experiment("train.steps=4", f"train.workers={workers}"), tmp_path / "b")
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_half_precision_is_near_to_full(
    experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    train(experiment(), tmp_path / "a")
    train(experiment('train.precision="bfloat16"'), tmp_path / "b")
    full, half = losses(tmp_path / "a")[-1]["loss"], losses(tmp_path / "b")[-1]["loss"]
    assert half != full
    assert half == pytest.approx(full, rel=0.1)


def test_the_control_differs_from_the_student_in_the_teacher_alone(
    student: Callable[..., Experiment], experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """With lessons of weight 0 the student is the control, to the last bit."""
    train(student("objective.distillation=0.0", "data.unlabelled=false"), tmp_path / "student")
    control = experiment("data.label_fraction=0.5", model=DECOMPOSED)
    train(control, tmp_path / "control")
    assert equal(weights(tmp_path / "student"), weights(tmp_path / "control"))


def test_videos_that_the_annotations_do_not_name_are_taught_on(
    student: Callable[..., Experiment], tmp_path: Path, signal_world: Path
) -> None:
    everything = json.loads((signal_world / "annotations.json").read_text())["database"]
    training = [name for name, video in everything.items() if video["subset"] == "training"]
    few = {name: video for name, video in everything.items() if name not in training[8:]}
    (tmp_path / "few.json").write_text(json.dumps({"database": few}))
    settings = (f'data.annotations="{tmp_path / "few.json"}"', "data.label_fraction=1.0")
    listed = open_sources(student(*settings), CPU).dataset
    assert (listed.counts["labelled"], listed.counts["unlabelled"]) == (8, 0)
    unlisted = open_sources(student(*settings, "data.unlisted=true"), CPU).dataset
    assert set(unlisted.videos) == set(training)
    assert (unlisted.counts["labelled"], unlisted.counts["unlisted"]) == (8, len(training) - 8)
    rows = unlisted.batches(0, 8, 4)
    assert [sum(unlisted.labelled[i] for i in row) for row in rows] == [8]
    assert [len(row) for row in rows] == [12]


def test_a_teacher_of_other_labels_or_another_grid_is_refused(
    student: Callable[..., Experiment], tmp_path: Path, signal_world: Path
) -> None:
    text = (signal_world / "annotations.json").read_text()
    (tmp_path / "other.json").write_text(text.replace('"run"', '"swim"'))
    with pytest.raises(UserError, match="only the teacher: run; only the annotations: swim"):
        train(student(f'data.annotations="{tmp_path / "other.json"}"'), tmp_path / "run")
    with pytest.raises(UserError, match=r"target_len=None.*target_len=32.*do not correspond"):
        train(student("data.target_len=32"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_coarser_features_teaches_on_the_grid_of_the_student(
    student: Callable[..., Experiment],
    experiment: Callable[..., Experiment],
    tmp_path: Path,
    signal_world: Path,
    add_stream: Callable[..., Stream],
) -> None:
    shutil.copytree(signal_world / "store", tmp_path / "store")
    fine = Store.open(signal_world / "store").stream("made:tg")
    halved = {video: fine.read(video)[: len(fine.read(video)) // 2 * 2] for video in fine.videos}
    halved = {video: (x[0::2] + x[1::2]) / 2 for video, x in halved.items()}
    spec = {"clip_frames": 4, "stride_frames": 4, "offset_frames": 2}
    add_stream(tmp_path / "store", "slow:tg", halved, fps=8.0, **spec)
    settings = (f'data.store="{tmp_path / "store"}"', "train.steps=2")
    slow = 'model.streams=["slow:tg"]'
    train(experiment(*settings, slow), tmp_path / "own")
    with pytest.raises(UserError, match="grid is that of slow:tg .* that of made:rgb .*data.grid"):
        train(student(*settings, f'teacher.run="{tmp_path / "own"}"'), tmp_path / "run")
    train(experiment(*settings, slow, 'data.grid="made:rgb"'), tmp_path / "shared")
    train(student(*settings, f'teacher.run="{tmp_path / "shared"}"'), tmp_path / "run")
    # Of steps of one length in seconds it does not matter whose they were.
    paced = (*settings, "data.step_s=0.25")
    train(experiment(*paced, slow), tmp_path / "paced")
    teacher = f'teacher.run="{tmp_path / "paced"}"'
    with pytest.raises(UserError, match=r"step_s=0.25\).*step_s=0\): their predictions do not"):
        train(student(*settings, teacher), tmp_path / "other")
    train(student(*paced, teacher), tmp_path / "other")
    # Alone, it finds actions on the grid that it was trained on.
    found = predict(Run.load(tmp_path / "shared", "cpu"), Store.open(tmp_path / "store"), ["v00"])
    assert set(found["video"]) == {"v00"}


def test_missing_streams_and_paths_are_named_at_once(
    experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"no stream b:x, b:y \(there are .*--stream b:x --stream"):
        train(experiment('model.streams=["b:x","made:rgb","b:y"]'), tmp_path)
    without = experiment()
    without = replace(without, data=replace(without.data, store=None))
    with pytest.raises(ConfigError, match="data.store: not set; name it with --store"):
        train(without, tmp_path)
    with pytest.raises(UserError, match="no subset 'trainig'; subsets there are: test, training"):
        train(experiment('data.subset="trainig"'), tmp_path)
    short = ("data.max_len=2", "data.window_overlap=0.0", "data.trunc_thresh=0.9")
    with pytest.raises(UserError, match="no window of 2 steps lies enough of a segment of subset"):
        train(experiment(*short), tmp_path)


def test_validation_leaves_no_trace_in_the_training(
    experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    train(experiment(), tmp_path / "a")
    watch = ('data.validation_subset="validation"', "train.validate_every=1")
    train(experiment(*watch), tmp_path / "b")
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    scores = [row["validation_mAP"] for row in losses(tmp_path / "b") if "validation_mAP" in row]
    assert len(scores) == 3 and all(0 <= score <= 1 for score in scores)


def test_selection_keeps_the_weights_that_validated_best(
    experiment: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    scores = iter([0.1, 0.3, 0.2])

    def score(self: object, model: torch.nn.Module) -> float:
        assert not model.training
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return next(scores)

    monkeypatch.setattr("tad_distill.distill.validate.Validation.score", score)
    watch = ('data.validation_subset="validation"', "train.validate_every=1")
    train(experiment(*watch, 'train.select="validation"'), tmp_path)
    assert equal(weights(tmp_path), seen[1])
    assert checkpoint.load(tmp_path / "model.pt")["provenance"]["selected_step"] == 6


@pytest.mark.slow
def test_an_obvious_signal_is_found(
    experiment: Callable[..., Experiment], tmp_path: Path, signal_world: Path
) -> None:
    train(experiment("train.steps=60", "train.lr=4e-3"), tmp_path)
    test = annotations.read(signal_world / "annotations.json").subset("test")
    found = predict(
        Run.load(tmp_path, "cpu"), Store.open(signal_world / "store"), list(test.videos)
    )
    assert mean_ap(test.table(), found, (0.5,)).average_mAP > 0.7
    shuffled = found.assign(label=list(np.random.default_rng(0).permutation(found["label"])))
    assert mean_ap(test.table(), shuffled, (0.5,)).average_mAP < 0.4


def test_settings_can_be_read_back_and_run_again(
    student: Callable[..., Experiment], tmp_path: Path
) -> None:
    from tad_distill.distill.config import load

    train(student(), tmp_path / "a")
    again = load(tmp_path / "a" / "config.json")
    train(again, tmp_path / "b")
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert json.loads((tmp_path / "a" / "config.json").read_text())["tad_distill"]
