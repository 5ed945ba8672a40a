"""What fine-tuning makes is a run and a checkpoint like others."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from finetuning import CONFIG, CPU, MOTION, RGB, Make, changed, state_of, trainer_of

from tad_distill.console import UserError
from tad_distill.data.store import Store
from tad_distill.detect import detect
from tad_distill.distill import checkpoint
from tad_distill.distill.finetune.config import load
from tad_distill.distill.finetune.run import finetune
from tad_distill.distill.predict import Run, predict
from tad_distill.extract.encoder import Encoder
from tad_distill.extract.run import extract
from tad_distill.extract.trunk import share


def test_the_product_is_an_ordinary_run_and_an_ordinary_checkpoint(
    make: Make, world: Path, tmp_path: Path
) -> None:
    config = make('data.validation_subset="validation"')
    finetune(config, tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "backbone.pt",
        "config.json",
        "history.jsonl",
        "last.pt",
        "model.pt",
    ]
    run = Run.load(tmp_path / "run", "cpu")
    files = sorted((world / "videos").iterdir())
    extract(files, [RGB], tmp_path / "store", CONFIG, {RGB: tmp_path / "run/backbone.pt"})
    store = Store.open(tmp_path / "store")
    assert store.stream(RGB).spec.hash == run.specs[RGB].hash == run.base_spec.hash
    found = predict(run, store, ["v5"])
    assert len(found)
    out = tmp_path / "found.json"
    args = [world / "videos/v5.mp4", "--model", tmp_path / "run", "--out", out, "--pictures", 0]
    ended = CliRunner().invoke(detect, [str(arg) for arg in args], standalone_mode=False)
    assert ended.exception is None, ended.exception
    written = json.loads(out.read_text())
    scores = [row["score"] for row in written["results"]["v5"]]
    np.testing.assert_allclose(scores, found["score"], atol=1e-5)
    provenance = written["provenance"]
    assert provenance["features"] == "fine-tuned"
    assert provenance["started_from"]["weights"] == Run.load(world / "rgb", "cpu").weights_hash
    tuned = provenance["pretraining"][RGB]["fine_tuned"]
    assert tuned["from"]["seed"] == 0 and tuned["recipe"]["lr_scale"] == 0.1
    assert tuned["recipe"]["seed"] == 0 and tuned["steps"] == 4
    # The folder may move.
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    args[args.index(tmp_path / "run")] = moved
    ended = CliRunner().invoke(detect, [str(arg) for arg in args], standalone_mode=False)
    assert ended.exception is None, ended.exception
    # The old store's features are no longer what the detector reads.
    with pytest.raises(UserError, match="is not what .* was trained on: weights"):
        predict(run, Store.open(world / "store"))


def test_a_fine_tuned_run_can_be_tuned_on(make: Make, world: Path, tmp_path: Path) -> None:
    finetune(make(), tmp_path / "run")
    files = sorted((world / "videos").iterdir())
    extract(files, [RGB], tmp_path / "store", CONFIG, {RGB: tmp_path / "run/backbone.pt"})
    options = {"backbone.videos": [world / "videos"], "data.store": tmp_path / "store"}
    again = load(tmp_path / "recipe.toml", tmp_path / "run", [], options)
    finetune(again, tmp_path / "again")
    spec = Run.load(tmp_path / "again", "cpu").specs[RGB]
    assert spec.weights["fine_tuned"]["from"]["fine_tuned"]["from"]["seed"] == 0


def test_a_copy_keeps_its_own_last_stage_on_the_common_trunk(
    make: Make, world: Path, tmp_path: Path
) -> None:
    finetune(make(run="student"), tmp_path / "run")
    rgb, motion = (
        state_of(tmp_path / "run" / name) for name in ("backbone.pt", "backbone+motion.pt")
    )
    before = state_of(world / "adapter/adapter.pt")
    assert {key for key in rgb if not rgb[key].equal(motion[key])} >= {
        f"layer3.{name}.weight" for name in ("conv1", "conv2", "down", "bn1", "bn2")
    }
    assert all(rgb[key].equal(motion[key]) for key in rgb if not key.startswith("layer3."))
    assert not motion["layer3.conv1.weight"].equal(before["layer3.conv1.weight"])
    assert motion["layer3.bn1.weight"].equal(before["layer3.bn1.weight"])
    assert changed(tmp_path / "run") >= {"stem.weight", "layer3.conv1.weight"}
    names = {RGB: "backbone.pt", MOTION: "backbone+motion.pt"}
    made = [Encoder(s, tmp_path / "run" / name, CONFIG, CPU) for s, name in names.items()]
    assert len(share(made)) == 1
    out = tmp_path / "found.json"
    args = [world / "videos/v5.mp4", "--model", tmp_path / "run", "--out", out, "--pictures", 0]
    ended = CliRunner().invoke(detect, [str(arg) for arg in args], standalone_mode=False)
    assert ended.exception is None, ended.exception
    assert json.loads(out.read_text())["results"]["v5"]


def test_lessons_go_on_where_the_run_left_them(
    make: Make, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = trainer_of(make(run="student"), tmp_path)
    saved = checkpoint.load(world / "student/last.pt")["objective"]
    ours = trainer.objective.state_dict()
    assert saved.keys() == ours.keys() and saved
    assert all(ours[key].equal(saved[key]) for key in saved)
    assert "lessons_begin_anew" not in capsys.readouterr().err
    shutil.copytree(world / "student", tmp_path / "student")
    (tmp_path / "student/last.pt").unlink()
    trainer_of(make(run=str(tmp_path / "student")), tmp_path)
    assert "event=lessons_begin_anew transfers=response,feature" in capsys.readouterr().err


def test_a_teacher_that_reads_the_same_stream_reads_what_is_stored(
    make: Make, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(make(run="student"), tmp_path)
    dataset = trainer.sources.dataset
    batch = trainer.experiment.data.batch([dataset.window(0, 0)])
    with torch.no_grad():
        for parameter in trainer.backbones.parameters():
            parameter.mul_(0.5)
    before = {name: feats.clone() for name, feats in batch.feats.items()}
    trainer._outputs(batch)
    assert all(before[name].equal(batch.feats[name]) for name in before)


def test_frames_are_decoded_once_and_kept_where_asked(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {"backbone.frames": tmp_path / "frames"}
    finetune(make(**kept), tmp_path / "one")
    files = sorted((tmp_path / "frames").iterdir())
    stamps = [file.stat().st_mtime_ns for file in files]
    assert len(files) == 5
    total = sum(37 + number for number in range(5))
    # An odd length counts as a whole last step.
    line = next(x for x in capsys.readouterr().err.splitlines() if x.startswith("event=frames"))
    assert f"videos=5 frames={total + 3}" in line
    finetune(make("train.seed=1", **kept), tmp_path / "two")
    assert [file.stat().st_mtime_ns for file in files] == stamps
    assert not (tmp_path / "one/frames").exists()
