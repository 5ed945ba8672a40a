"""Scored runs in the rows of the paper's tables: by their settings, and nothing else."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from scored_runs import DECOMPOSED, FLOW, LESSONS, RGB, TG, run, save, settings

from tad_distill.console import UserError
from tad_distill.evaluate import table_text
from tad_distill.evaluate.paper import TABLES
from tad_distill.evaluate.runs import design_of, flatten
from tad_distill.evaluate.tables import Filled, collect, fill


def table(filled: list[Filled], number: str) -> Filled:
    return next(f for f in filled if f.table.number == number)


@pytest.mark.parametrize(
    ("experiment", "teacher", "rows"),
    [
        (settings(), TG, {"2": "RGB only", "4": "TSM18, RGB only", "5": "ActionFormer, RGB only"}),
        (settings(streams=(TG,)), TG, {"2": "gradient only"}),
        (
            settings(streams=("i3d:rgb", FLOW)),
            TG,
            {"2": "two streams, RGB and flow", "6a": "ActionFormer, RGB and flow"},
        ),
        (
            settings(transfers=LESSONS),
            TG,
            {"2": "conventional distillation, gradient teacher"},
        ),
        (settings("decomposed", (RGB, RGB)), TG, {"2": "decomposed, local attention, no teacher"}),
        (
            DECOMPOSED,
            TG,
            {
                "2": "decomposed, local attention, gradient teacher",
                "3": "local attention",
                "4": "TSM18, gradient teacher",
                "5": "ActionFormer, gradient teacher",
                "6a": "ActionFormer, student, TSM18, gradient teacher",
            },
        ),
        (
            settings("decomposed", ("slowfast50_4x16:rgb", "slowfast50_4x16:rgb"), LESSONS),
            FLOW,
            {
                "2": "decomposed, local attention, flow teacher",
                "3": "local attention, flow teacher",
                "4": "SlowFast50, flow teacher",
                "5": "ActionFormer, flow teacher",
                "6a": "ActionFormer, student, SlowFast50, flow teacher",
            },
        ),
        (
            settings("decomposed", (RGB, RGB), LESSONS, fusion="concat"),
            TG,
            {"2": "decomposed, concat, gradient teacher", "3": "concat"},
        ),
        (
            settings("decomposed", (RGB, RGB), LESSONS, fusion="cross_attention"),
            TG,
            {"3": "cross-attention"},
        ),
        (
            settings("decomposed", (RGB, RGB), LESSONS, head="tadtr"),
            "tsm_mini:tg_luma",
            {
                "2": "decomposed, local attention, gradient teacher",
                "3": "local attention",
                "5": "TadTR, gradient teacher",
                "6a": "TadTR, student, TSM18, gradient teacher",
            },
        ),
        # What the paper does not have makes rows of its own.
        (
            settings("decomposed", (RGB, "tsm18:rgb+motion.rich"), ("relation", "response")),
            TG,
            {
                name: f"{row}, copy motion, lessons relation+response"
                for name, row in {
                    "2": "decomposed, local attention, gradient teacher",
                    "3": "local attention",
                    "4": "TSM18, gradient teacher",
                    "5": "ActionFormer, gradient teacher",
                    "6a": "ActionFormer, student, TSM18, gradient teacher",
                }.items()
            },
        ),
    ],
)
def test_the_row_follows_from_the_settings(
    tmp_path: Path, experiment: dict[str, Any], teacher: str, rows: dict[str, str]
) -> None:
    save(tmp_path / "a name that says nothing", experiment, teacher=teacher)
    runs, unread = collect([tmp_path])
    filled, unplaced = fill(runs)
    assert not unread and not unplaced
    found = {f.table.number: line.title for f in filled for line in f.lines if line.ours}
    assert found == rows


def test_runs_on_activitynet_stand_in_its_table_alone(tmp_path: Path) -> None:
    tiou = [0.5 + i * ((0.95 - 0.5) / 9) for i in range(9)] + [0.95]
    precisions = [0.5 - i / 100 for i in range(10)]
    experiment = settings("decomposed", ("slowfast50_8x8:rgb", "slowfast50_8x8:rgb"), LESSONS)
    save(tmp_path / "run", experiment, tiou=tiou, mAP=precisions, protocol="activitynet")
    filled, unplaced = fill(collect([tmp_path])[0])
    assert not unplaced and [f.table.number for f in filled if f.num_runs] == ["6b"]
    (line,) = table(filled, "6b").lines
    assert table_text.cells(table(filled, "6b"), line) == (
        ["50.0", "45.0", "41.0", "45.5", "-", "1"],
        ["53.73", "35.87", "8.61", "35.58"],
    )


def test_seeds_are_averaged_and_nothing_else(tmp_path: Path) -> None:
    for seed, mAP in enumerate((0.40, 0.42, 0.47)):
        save(tmp_path / f"s{seed}", DECOMPOSED, mAP, seed=seed)
    other = copy.deepcopy(DECOMPOSED)
    other["train"]["lr"] = 2e-4
    save(tmp_path / "t", other, 0.6)
    moved = copy.deepcopy(DECOMPOSED)
    moved["data"]["store"] = "elsewhere/features"
    save(tmp_path / "u", moved, 0.43, seed=7)
    filled, _ = fill(collect([tmp_path])[0])
    lines = [line for line in table(filled, "3").lines if line.ours]
    assert [line.title for line in lines] == ["local attention"] * 2
    first, second = (line.ours for line in lines)
    assert first and second
    assert (len(first.runs), len(second.runs)) == (4, 1)
    assert first.average == pytest.approx(0.43)
    assert first.sd == pytest.approx(0.029439202887759494)  # of .40 .42 .43 .47 over n - 1
    assert second.sd is None and second.average == 0.6
    assert (first.differing, second.differing) == (("train.lr=0.0001",), ("train.lr=0.0002",))


@pytest.mark.parametrize(
    "changed", [{"subset": "validation"}, {"num_videos": 49}, {"protocol": "thumos-210"}]
)
def test_scores_on_other_data_are_not_averaged(tmp_path: Path, changed: dict[str, Any]) -> None:
    save(tmp_path / "a", DECOMPOSED, 0.4, seed=0)
    save(tmp_path / "b", DECOMPOSED, 0.5, seed=1, **changed)
    filled, _ = fill(collect([tmp_path])[0])
    assert [len(line.ours.runs) for line in table(filled, "3").lines if line.ours] == [1, 1]
    assert "data" in table_text.columns(table(filled, "3"))[0]


def test_the_same_run_twice_counts_once_and_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a", DECOMPOSED)
    save(tmp_path / "b", DECOMPOSED)
    runs, unread = collect([tmp_path, tmp_path / "a"])
    assert len(runs) == 1
    assert re.search(r"b/scores.json: settings and seeds are those of .*a/scores", unread[0].reason)


def test_the_teacher_is_known_from_the_detections_too(tmp_path: Path) -> None:
    identity = {"teacher": {"identity": {"streams": {FLOW: "hash"}}}, "features": "frozen"}
    path = save(tmp_path / "a", DECOMPOSED, teacher=RGB, provenance=identity)
    (run,) = collect([path])[0]
    assert run.design.motion == "flow"
    # Or the scores only name the detections, which have moved along with them.
    found = {"provenance": identity, "results": {}}
    (tmp_path / "a/test.json").write_text(json.dumps(found))
    save(tmp_path / "a", DECOMPOSED, teacher=RGB, provenance=None, detections="gone/test.json")
    (run,) = collect([path])[0]
    assert (run.design.motion, run.frozen, run.labelled) == ("flow", "frozen", "?")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"model": {"kind": "single", "streams": ["a:depth"]}},
            "stream a:depth: depth is no known",
        ),
        ({"model": {"kind": "single", "streams": []}}, '"model": names no streams'),
        ({"model": 5}, '"model": expected a table, found 5'),
        ({"transfers": ["x"]}, '"transfers": expected a list of tables'),
        ({"head": None}, '"head": expected a table, found None'),
    ],
)
def test_settings_of_no_row_are_named(
    tmp_path: Path, change: dict[str, Any], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "good", DECOMPOSED)
    save(tmp_path / "bad", DECOMPOSED)
    path = tmp_path / "bad/config.json"
    config = json.loads(path.read_text())
    config["experiment"] |= change
    path.write_text(json.dumps(config))
    assert run("tables", tmp_path) == 1
    printed = capsys.readouterr()
    assert f"Warning: in no table: {path}: {reason}" in printed.err
    assert "local attention" in printed.out


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the file is empty"),
        ("[1]", "expected a JSON object, found a list"),
        ('{"tiou": [0.5]', "no valid JSON"),
        ('{"tiou": [0.5], "mAP": [0.5, 0.4]}', '"mAP": expected one value for each of 1'),
        ('{"tiou": [0.5], "mAP": [NaN]}', '"mAP": expected fractions of 1, found [nan]'),
        ('{"tiou": [0.5], "mAP": [50.0]}', '"mAP": expected fractions of 1, found [50.0]'),
        ('{"tiou": [], "mAP": []}', '"mAP": expected one value'),
    ],
)
def test_scores_that_are_none_are_named(tmp_path: Path, text: str, reason: str) -> None:
    path = save(tmp_path / "run", DECOMPOSED)
    path.write_text(text)
    runs, unread = collect([tmp_path])
    assert not runs and reason in unread[0].reason and "\n" not in unread[0].reason


def test_other_thresholds_and_missing_files_are_named(tmp_path: Path) -> None:
    save(tmp_path / "a", DECOMPOSED, tiou=[0.5], mAP=[0.5])
    _, unplaced = fill(collect([tmp_path])[0])
    assert "no table averages over tIoU 0.5" in unplaced[0].reason
    save(tmp_path / "b", DECOMPOSED).unlink()
    save(tmp_path / "c", DECOMPOSED)
    (tmp_path / "c/config.json").unlink()
    reasons = {u.path.parent.name: u.reason for u in collect([tmp_path])[1]}
    assert "not scored yet; write it with: tad-distill eval --json" in reasons["b"]
    assert "config.json: not there" in reasons["c"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no run in it"):
        collect([tmp_path / "empty"])


def test_motion_of_two_kinds_and_of_none_is_refused() -> None:
    for experiment, inputs, reason in (
        (settings(streams=(RGB, TG, FLOW)), {}, "motion is both flow and gradient"),
        (DECOMPOSED, {"streams": {RGB: ""}}, "nothing says which motion the teacher looks at"),
    ):
        with pytest.raises(UserError, match=reason):
            design_of(Path("config.json"), experiment, inputs, {})


def test_settings_are_flattened_by_dotted_key() -> None:
    table = {"a": {"b": {"c": 1}, "d": []}, "e": [{"f": 2}, {"f": [3]}], "g": [4, {"h": 5}]}
    assert flatten(table) == {
        "a.b.c": 1, "a.d": [], "e.0.f": 2, "e.1.f": [3], "g": [4, {"h": 5}],
    }  # fmt: skip


def test_the_papers_numbers_are_those_that_are_known(shared: Path) -> None:
    facts = (shared / "facts/heads.md").read_text()
    for paper in TABLES:
        assert all(len(row) == len(paper.shown) + 1 for row in paper.rows.values())
        for row in paper.rows.values():
            for value in filter(None, row):
                written = f"{value:.1f}" if round(value, 1) == value else f"{value:.2f}"
                assert re.search(rf"(?<![\d.]){re.escape(written)}(?!\d)", facts), written
