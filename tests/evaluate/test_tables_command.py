"""The paper's tables as text, Markdown and LaTeX."""

import re
from pathlib import Path

import pytest
from scored_runs import RGB, run, save, settings

from tad_distill.evaluate.paper import HEADING


def made(tmp_path: Path) -> Path:
    for seed, mAP in enumerate((0.4, 0.5)):
        experiment = settings()
        experiment["preset"] = "rgb_x"
        save(tmp_path / f"rgb{seed}", experiment, mAP, seed=seed)
    save(tmp_path / "control", settings("decomposed", (RGB, RGB)), 0.45)
    return tmp_path


def test_text_keeps_ours_and_the_papers_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("tables", made(tmp_path), "--table", "2") == 0
    printed = capsys.readouterr()
    about, ours, paper, heads, names, first, *_, last = printed.out.splitlines()
    assert about.startswith("Table 2: what each part adds; mAP in percent, average over tIoU 0.3")
    assert ours == (
        "Ours: mean and standard deviation over seeds; backbone TSM18; head ActionFormer; "
        "data world test 50 videos; labelled 24/60; features frozen."
    )
    assert paper == "Paper: end to end, Kinetics weights; THUMOS'14, TSM18, ActionFormer."
    assert [part.strip() for part in heads.split("|")] == ["", "ours", HEADING]
    assert [part.split() for part in first.split("|")] == [
        ["RGB", "only"],
        ["45.0"] * 6 + ["7.1", "2", "rgb_x"],
        ["62.3", "55.2", "46.2", "33.8", "20.4", "43.6"],
    ]
    assert names.split("|")[1].split()[-4:] == ["average", "sd", "seeds", "preset"]
    assert last.startswith("decomposed, local attention, no teacher")
    assert last.split("|")[2].split() == ["-"] * 6
    # Bars stand under each other.
    assert len({tuple(i for i, c in enumerate(x) if c == "|") for x in (heads, names, last)}) == 1


def test_markdown_and_latex_name_the_sides_in_every_header(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made(tmp_path)
    assert run("tables", folder, "--table", "2", "--format", "markdown") == 0
    _, _, header, align, first, *_ = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in header.strip("|").split("|")]
    assert all(cell.startswith(("ours: ", f"{HEADING}: ")) for cell in cells[1:])
    assert align.count("---") == len(cells) == len(first.strip("|").split("|"))
    out = tmp_path / "deep/table.tex"
    assert run("tables", folder, "--table", "2", "--format", "latex", "--out", out) == 0
    assert capsys.readouterr().out == f"{out}\n"
    text = out.read_text()
    assert r"\multicolumn{9}{c}{ours} & \multicolumn{6}{c}{paper, end to end" in text
    assert r"rgb\_x" in text and "rgb_x" not in text
    body = [
        line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line
    ]
    assert {line.count("&") for line in body} == {15}


def test_tables_without_a_run_are_left_out_and_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("tables", made(tmp_path)) == 0
    printed = capsys.readouterr()
    assert re.findall(r"^Table (\w+):", printed.out, flags=re.MULTILINE) == ["2", "4", "5"]
    assert "event=no_run table=3" in printed.err
    assert "event=tables runs=3 in_no_table=0 unread=0" in printed.err


def test_no_run_at_all_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tables", tmp_path) == 1
    assert "no run in it" in capsys.readouterr().err
    assert run("tables", tmp_path / "nowhere") == 2
    assert run("tables") == 2
