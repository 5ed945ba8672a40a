"""The command ``study`` from outside: plan, run, failures, shares, resume, table."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tad_distill.cli import cli
from tad_distill.console import UsageError

STUDY = """
title = "RGB against a dual branch"
seeds = 1
worlds = 1

[words]
rgb = "made:rgb"

[rows.rgb]
title = "RGB only"
role = "baseline"
preset = "world_rgb"
settings = ['model.streams=["$rgb"]', "train.steps=2"]

[rows.dual]
title = "dual branch"
role = "control"
preset = "world_control"
settings = ["model.appearance=$rgb", "model.motion=$rgb", "train.steps=2"]
"""


def study(*args: object) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-P", "-m", "tad_distill", "study", *map(str, args)]
    return subprocess.run(line, capture_output=True, text=True)


@pytest.fixture
def own(tmp_path: Path, signal_world: Path) -> list[object]:
    """A study file of one's own on a store of one's own."""
    (tmp_path / "mine.toml").write_text(STUDY)
    data = ["--store", signal_world / "store", "--annotations", signal_world / "annotations.json"]
    return [tmp_path / "mine.toml", "--out", tmp_path / "out", *data]


def test_a_plan_says_what_would_be_run_and_runs_nothing(own: list[object], tmp_path: Path) -> None:
    ended = study(*own, "--seeds", 3, "--folds", 4, "--plan")
    assert ended.returncode == 0, ended.stderr
    assert "4 fold(s) x 3 seed(s), 24 cells, 48 steps" in ended.stdout
    rgb = next(line for line in ended.stdout.splitlines() if line.startswith("rgb"))
    assert rgb.split() == ["rgb", "baseline", "world_rgb", "12", "0", "0", "-", "-"]
    assert "left: 24 cells, at least 0.00 CPU hours" in ended.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nonsense"], "study 'nonsense': no such study (there are ablation, appearance,"),
        (["absent.toml"], "absent.toml: cannot read the settings"),
        (["ablation", "--set", "worldz=3"], "worldz: no such setting; did you mean world"),
        (["ablation", "--row", "me"], "--row me: no such row"),
        (["ablation", "--set-train", "fusion.kind=magic"], "rows.teacher: fusion.kind: expected"),
        (["ablation", "--set-train", "model.kinds=1"], "model.kinds: no such setting; did you"),
        (["ablation", "--store", "."], "1 --store and 0 --annotations: each store needs its own"),
        (["ablation", "--folds", "3"], "--folds cuts one store's videos, found 0"),
        (["ablation", "--set", "words.rgb=tsm_mini:ultraviolet"], "pretrain: no table for 'tsm"),
        (["modality", "--set", "pretrain.tsm_mini:flow.settings=['stepz=1']"], "stepz: no such"),
        (["ablation", "--set", "world.settings=['num_test=-1']"], "num_test: expected 0 to"),
        (["ablation", "--set", "world.extract=['fps=0']"], "fps: expected above 0"),
        (["ablation", "--units", "2", "--unit", "2"], "--unit 2: expected 0 to 1"),
        (["ablation", "--report"], "no study.json in it; no study has been run there"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(
    args: list[str], message: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError) as error:
        cli.main(["study", *args, "--out", str(out)], standalone_mode=False)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not out.exists()


@pytest.mark.slow
def test_a_failing_cell_is_named_and_the_next_call_runs_it_alone(
    own: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    streams = "'model.appearance=made:rgb','model.motion=made:rgb'"
    broken = "--set", f"rows.dual.settings=[{streams},'train.steps=4','train.lr=1e38']"
    ended = study(*own, *broken)
    assert ended.returncode == 1, ended.stdout
    assert "1 failed, 1 steps that need them did not start:" in ended.stdout
    assert "step dual.fold0.seed0.train ended with exit code 1: Error: step " in ended.stdout
    assert "is not finite" in ended.stdout
    assert "INCOMPLETE: 1 of 2 cells have finished" in ended.stdout
    stamp = (out / "logs/rgb.fold0.seed0.train.log").stat().st_mtime_ns
    plan = study(*own, *broken, "--plan")
    assert "failed: step dual.fold0.seed0.train failed:" in plan.stdout
    shutil.rmtree(out / "runs/dual")  # a run of other settings is not written over
    ended = study(*own, "--set", "rows.dual.title=dual anew")
    assert ended.returncode == 0, ended.stderr
    assert "INCOMPLETE" not in ended.stdout and "dual anew" in ended.stdout
    assert (out / "logs/rgb.fold0.seed0.train.log").stat().st_mtime_ns == stamp
    assert not list((out / "logs").glob("*.failed"))


@pytest.mark.slow
def test_a_study_goes_from_nothing_to_its_table_in_shares(tmp_path: Path) -> None:
    out = tmp_path / "out"
    few = "pretrain.tsm_mini:rgb.settings=['steps=2','batch_size=8']"
    args: list[object] = ["ablation", "--out", out, "--row", "rgb", "--row", "dual"]
    args += ["--worlds", 1, "--seeds", 1, "--set", "world.size=tiny", "--set", few]
    args += ["--set-train", "train.steps=2", "--units", 2, "--unit"]
    for number in (0, 1):
        ended = study(*args, number)
        assert ended.returncode == 0, ended.stderr
        assert ("name=world0.world " in ended.stderr) == (number == 0), "rendered twice"
    assert "2 of 2 cells have finished" in ended.stdout
    assert not (out / "table.md").exists() and not (out / "test_reads.jsonl").exists()
    ended = study("ablation", "--out", out, "--report")
    assert ended.returncode == 0, ended.stderr
    assert "1 world(s) x 1 seed(s)" in ended.stdout
    found = json.loads((out / "table.json").read_text())
    rows = {row["row"]: row for row in found["groups"][0]["rows"]}
    scores = json.loads((out / "runs/dual/world0_seed0/scores.json").read_text())
    assert rows["dual"]["values"][0]["mAP"] == pytest.approx(100 * scores["average_mAP"])
    assert scores["subset"] == "test" and scores["provenance"]["preset"] == "world_control"
    assert rows["dual"]["cost"]["train_cpu_s"] > 0 and rows["dual"]["cost"]["kb_per_s"] > 0
    assert rows["dual"]["cost"]["num_parameters"] > rows["rgb"]["cost"]["num_parameters"]
    assert found["test_reads"] == 1
