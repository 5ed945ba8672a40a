"""The table of a study: choices on validation, differences in pairs, nothing made up."""

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tad_distill.config import build
from tad_distill.console import UserError
from tad_distill.distill.studies import tables
from tad_distill.distill.studies.cells import Cell, Draw, cells
from tad_distill.distill.studies.costs import RowCost
from tad_distill.distill.studies.results import (
    Scorer,
    Scores,
    choose_control,
    gap_closed,
    read_detections,
    sum_up,
)
from tad_distill.distill.studies.schema import Study
from tad_distill.distill.studies.tables import Report

ROLES = {
    "teacher": "teacher",
    "rgb": "baseline",
    "dual": "control",
    "rich": "control",
    "student": "student",
    "two_stream": "upper",
}
KEYS = [(f"world{world}", seed) for world in range(3) for seed in range(2)]
DRAWS = [Draw(f"world{n}", n, Path(f"s{n}"), Path(f"a{n}.json")) for n in range(3)]


def made(**changes: Any) -> Study:
    rows = {
        name: {"title": f"the {name}", "role": role, "preset": "x"} for name, role in ROLES.items()
    }
    return build(Study, {"title": "A study", "rows": rows, **changes})


def scores(**rows: float | list[float]) -> Scores:
    """Values of each row, the same in all cells or one per cell."""
    return {
        ("all", row): dict(
            zip(KEYS, values if isinstance(values, list) else [values] * 6, strict=True)
        )
        for row, values in rows.items()
    }


def test_the_control_is_the_strongest_row_without_a_motion_teacher_on_validation() -> None:
    study = made()
    validation = scores(teacher=90, rgb=30, dual=[33, 20, 33, 20, 33, 20], rich=29, student=80)
    assert choose_control(study, "all", validation) == "rgb"
    validation = scores(rgb=26, dual=[33, 20, 33, 20, 33, 20], rich=25, two_stream=99)
    assert choose_control(study, "all", validation) == "dual"
    assert choose_control(replace(study, control="rich"), "all", validation) == "rich"


def test_the_control_is_chosen_on_the_cells_that_all_candidates_have() -> None:
    validation = {
        ("all", "rgb"): {("world0", 0): 10.0, ("world1", 0): 90.0},
        ("all", "dual"): {("world0", 0): 11.0},
    }
    assert choose_control(made(), "all", validation) == "dual"
    apart: Scores = {("all", "rgb"): {("world0", 0): 10.0}, ("all", "dual"): {("world1", 0): 9.0}}
    assert choose_control(made(), "all", apart) == "rgb"
    assert choose_control(made(), "all", {}) is None
    assert choose_control(made(), "all", scores(student=50)) is None


def test_a_control_that_test_would_choose_otherwise_stays() -> None:
    validation = scores(rgb=30, dual=20, student=25)
    test = scores(rgb=10, dual=40, student=35)
    control = choose_control(made(), "all", validation)
    (group,) = sum_up(made(), [], validation, test, {"all": control})
    assert group.control == "rgb"
    found = {row.row: row for row in group.rows}
    assert found["student"].difference is not None
    assert found["student"].difference.over_draws.mean == 25
    assert found["student"].on_validation is not None
    assert found["student"].on_validation.over_draws.mean == -5


def test_neither_the_control_nor_a_teacher_has_a_difference() -> None:
    test = scores(teacher=50, rgb=10, dual=20, student=30)
    (group,) = sum_up(made(), [], test, test, {"all": "dual"})
    without = [row.row for row in group.rows if row.difference is None]
    assert without == ["teacher", "dual", "rich", "two_stream"], "the last two have not finished"


def test_the_share_of_the_gap_is_over_the_cells_that_all_three_have() -> None:
    test = dict(scores(rgb=[10, 20, 10, 20, 10, 20], two_stream=50, student=[30, 90, 30, 1, 30, 2]))
    test["all", "student"] = {key: v for key, v in test["all", "student"].items() if key[1] == 0}
    assert gap_closed(made(), "all", "student", test) == pytest.approx(100 * (30 - 10) / (50 - 10))
    assert gap_closed(made(), "all", "rgb", test) is None
    assert gap_closed(made(), "all", "two_stream", test) is None
    assert gap_closed(made(), "all", "dual", test) is None, "has not finished"


def test_without_a_gap_there_is_no_share_of_it() -> None:
    test = scores(rgb=50, two_stream=40, student=45)
    assert gap_closed(made(), "all", "student", test) is None
    no_upper = replace(made(), rows={k: r for k, r in made().rows.items() if r.role != "upper"})
    assert gap_closed(no_upper, "all", "student", test) is None


def test_further_pairs_are_compared_where_both_have_finished() -> None:
    study = made(compare=[["student", "rgb"], ["student", "rich"]])
    test = scores(rgb=10, dual=20, student=[30, 31, 32, 33, 34, 35])
    (group,) = sum_up(study, [], test, test, {"all": "dual"})
    ((better, worse, difference),) = group.comparisons
    assert (better, worse, difference.over_draws.mean) == ("student", "rgb", 22.5)
    assert difference.draws == {"world0": 20.5, "world1": 22.5, "world2": 24.5}


def write_detections(path: Path, rows: list[tuple[str, str, float, float, float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "label", "score", "start_s", "end_s"])
        writer.writerows(rows)


@pytest.fixture
def two_videos(tmp_path: Path) -> Path:
    """Annotations of a video to validate on and one to test on, with one segment each."""
    path = tmp_path / "annotations.json"
    database = {
        subset: {
            "subset": subset,
            "duration": 20.0,
            "annotations": [{"label": "NA", "segment": [2.0, 6.0]}],
        }
        for subset in ("validation", "test")
    }
    path.write_text(json.dumps({"database": database}))
    return path


def test_a_cell_is_scored_on_one_subset_at_a_time(two_videos: Path, tmp_path: Path) -> None:
    cell = Cell("all", "rgb", Draw("fold0", 0, tmp_path, two_videos), 0)
    right = ("validation", "NA", 0.9, 2.0, 6.0)
    # Half of the segment: a hit at tIoU 0.3 to 0.5 and a miss above.
    half = ("test", "NA", 0.95, 2.0, 4.0)
    write_detections(cell.detections(tmp_path), [half, right])
    scorer = Scorer(made(), tmp_path)
    assert scorer.scores([cell], "validation") == {("all", "rgb"): {("fold0", 0): 100.0}}
    assert scorer.scores([cell], "test")["all", "rgb"]["fold0", 0] == pytest.approx(60.0)


def test_a_detector_that_finds_nothing_scores_nothing(two_videos: Path, tmp_path: Path) -> None:
    cell = Cell("all", "rgb", Draw("fold0", 0, tmp_path, two_videos), 0)
    write_detections(cell.detections(tmp_path), [])
    assert Scorer(made(), tmp_path).scores([cell], "test")["all", "rgb"]["fold0", 0] == 0
    write_detections(cell.detections(tmp_path), [("test", "other", 0.5, 2.0, 6.0)])
    assert Scorer(made(), tmp_path).scores([cell], "test")["all", "rgb"]["fold0", 0] == 0
    assert Scorer(made(), tmp_path).scores([], "test") == {}


def test_detections_that_are_gone_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="detections.csv: cannot be read.*run the study again"):
        read_detections(tmp_path / "detections.csv")
    (tmp_path / "detections.csv").touch()
    with pytest.raises(UserError, match="cannot be read"):
        read_detections(tmp_path / "detections.csv")


def report_of(test: Scores, validation: Mapping[tuple[str, str], Any] | None = None) -> Report:
    study = made(compare=[["student", "rgb"]], seeds=2)
    every = cells(study, DRAWS, 2)
    controls = {"all": choose_control(study, "all", validation or test)}
    cost = RowCost(["a:rgb"], 12.4, None, 1.024, 345678)
    finished = sum(map(len, test.values()))
    return Report(
        study=study,
        draw_kind="world",
        num_draws=3,
        num_seeds=2,
        groups=sum_up(study, every, validation or test, test, controls),
        costs={("all", row): cost for row in study.rows},
        basis="made by hand",
        num_finished=finished,
        num_cells=len(every),
        num_reads=1,
    )


TEST: dict[str, float | list[float]] = {
    "teacher": 5.0,
    "rgb": 20.0,
    "dual": [22.0, 24, 22, 24, 22, 24],
    "rich": 21.0,
    "student": [25.0, 28, 26, 29, 27, 30],
    "two_stream": 40.0,
}


def test_the_table_says_what_was_found() -> None:
    report = report_of(scores(**TEST))
    lines = {line[0]: line for line in tables.rows(report, report.groups[0])}
    columns = tables.columns(report)
    student = dict(zip(columns, lines["the student"], strict=True))
    # Differences 3, 4 | 4, 5 | 5, 6: the worlds' means 3.5, 4.5, 5.5; t(2) = 4.303, sd 1.
    assert student == {
        "row": "the student",
        "cells": "6/6",
        "validation": "27.5",
        "test": "27.5",
        "sd seeds": "2.1",
        "sd worlds": "1.0",
        "- control": "+4.5",
        "95 % over worlds": "[+2.0, +7.0]",
        "95 % over pairs": "[+3.4, +5.6]",
        "gap %": "38",
        "train s": "12",
        "once s": "-",
        "KB/s": "1.02",
        "params": "345,678",
    }
    assert "the dual *" in lines
    assert tables.notes(report, report.groups[0])[1].startswith("the student minus the rgb: +7.5")


def test_an_unfinished_study_says_so_and_shows_dashes() -> None:
    report = report_of(scores(rgb=20.0, student=25.0))
    assert "INCOMPLETE: 12 of 36 cells have finished" in tables.head(report)
    lines = {line[0]: line for line in tables.rows(report, report.groups[0])}
    assert lines["the dual"][1:10] == ["0/6"] + ["-"] * 8


def test_all_forms_of_the_table_say_the_same(tmp_path: Path) -> None:
    report = report_of(scores(**TEST))
    paths = tables.write(report, tmp_path)
    assert [path.name for path in paths] == ["table.md", "table.json", "table.png"]
    text = paths[0].read_text()
    for line in tables.rows(report, report.groups[0]):
        assert f"| {' | '.join(line)} |" in text
    found = json.loads(paths[1].read_text())
    rows = {row["row"]: row for row in found["groups"][0]["rows"]}
    assert found["groups"][0]["control"] == "dual"
    assert rows["student"]["difference"]["over_draws"]["mean"] == pytest.approx(4.5)
    assert rows["student"]["values"][0] == {"draw": "world0", "seed": 0, "mAP": 25.0}
    assert build(Study, found["study"]) == report.study
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_a_table_of_nothing_can_be_drawn(tmp_path: Path) -> None:
    tables.draw(report_of({}), tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 1000
