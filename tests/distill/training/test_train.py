"""The loop: what a step does, that it repeats, resumes exactly and stops in time."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import CPU, equal, losses, weights

from tad_distill import console
from tad_distill.config import ConfigError
from tad_distill.console import Interrupted, UserError
from tad_distill.data.store import Stream
from tad_distill.distill import checkpoint, optim
from tad_distill.distill.config import Experiment, dump
from tad_distill.distill.model import build
from tad_distill.distill.objective import Objective
from tad_distill.distill.sources import open_sources, statistics
from tad_distill.distill.train import Trainer, train


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
