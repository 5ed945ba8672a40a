"""eval --diagnose, --report and --plots as a user calls them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tad_distill.cli import main

ANNOTATIONS = {
    "database": {
        "a": {
            "subset": "test",
            "duration": 30.0,
            "annotations": [
                {"label": "jump", "segment": [0, 5]},
                {"label": "run", "segment": [10, 20]},
            ],
        },
        "b": {"subset": "test", "annotations": [{"label": "run", "segment": [3, 9]}]},
        "c": {"subset": "train", "annotations": [{"label": "run", "segment": [3, 9]}]},
    }
}


def found(shift: float, **header: Any) -> dict[str, Any]:
    jump = {"label": "jump", "score": 0.9, "segment": [shift, 5 + shift]}
    run = {"label": "run", "score": 0.8, "segment": [10 + shift, 20 + shift]}
    wrong = {"label": "jump", "score": 0.95, "segment": [10, 20]}
    return {**header, "results": {"a": [jump, run, wrong], "b": []}}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"experiment": {"train": {"lr": 0.125}}}')
    (run / "history.jsonl").write_text('{"step": 1, "loss": 2}\n{"step": 2, "loss": 1}\n')
    own = found(0.0, provenance={"preset": "student_preset", "run": str(run)})
    for name, document in (("own", own), ("other", found(2.0)), ("truth", ANNOTATIONS)):
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    return tmp_path


def call(files: Path, *arguments: object) -> int:
    own, truth = files / "own.json", files / "truth.json"
    scored = ("eval", own, "--annotations", truth, "--subset", "test", "--tiou", "0.5")
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in (*scored, *arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_page_holds_both_detectors_and_the_run(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = files / "deep" / "page.html"
    assert call(files, "--report", page, "--compare", f"RGB={files / 'other.json'}") == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(page)
    html = page.read_text()
    assert "<h1>student_preset</h1>" in html and ">RGB<" in html
    assert "experiment.train.lr" in html and "0.125" in html and "Losses" in html
    assert html.count('class="scene"') == 1  # the one with more than one annotation


def test_the_same_files_give_the_same_page(files: Path) -> None:
    pages = files / "1.html", files / "2.html"
    for page in pages:
        assert call(files, "--report", page, "--compare", files / "other.json") == 0
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_the_diagnosis_is_printed_and_in_the_file(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = files / "scores.json"
    assert call(files, "--diagnose", "--json", scores) == 0
    out = capsys.readouterr().out
    assert "wrong label" in out and "mixed up: run detected as jump, 1.0 times" in out
    document = json.loads(scores.read_text())
    assert document["diagnosis"]["false_positives"]["mixups"] == [
        {"detected": "jump", "annotated": "run", "times": 1.0}
    ]
    assert document["diagnosis"]["average_mAP"] == pytest.approx(document["average_mAP"])


def test_without_being_asked_nothing_is_diagnosed(files: Path) -> None:
    scores = files / "scores.json"
    assert call(files, "--json", scores) == 0
    assert "diagnosis" not in json.loads(scores.read_text())


def test_plots_are_the_charts_of_the_page(files: Path) -> None:
    folder = files / "plots"
    assert call(files, "--plots", folder, "--videos", "b", "--name", "own") == 0
    assert {path.name for path in folder.iterdir()} == {
        f"{name}.png"
        for name in "pr_tiou per_class profile prices strengths misses training timeline_1".split()
    }


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--compare", "OWN"), 1, "two detectors are called"),
        (("--compare", "x=TRUTH"), 1, "these are annotations"),
        (("--compare", "x=nowhere.json"), 2, "does not exist"),
        (("--videos", "c"), 1, "no video 'c' among those that were scored"),
        (("--run", "FOLDER"), 1, "no config.json"),
    ],
)
def test_misuse_is_one_line_and_no_page(
    files: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    paths = {"OWN": files / "own.json", "TRUTH": files / "truth.json", "FOLDER": files}
    for name, path in paths.items():
        arguments = tuple(argument.replace(name, str(path)) for argument in arguments)
    assert call(files, "--report", files / "page.html", *arguments) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("Error: ") and said in last
    assert not (files / "page.html").exists()


def test_videos_that_are_not_at_hand_are_named(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "videos").mkdir()
    (files / "videos/a.mp4").write_bytes(b"broken")
    page, both = files / "page.html", ("--videos", "a", "--videos", "b")
    assert call(files, "--report", page, "--videos-dir", files / "videos", *both) == 0
    log = capsys.readouterr().err
    assert "event=no_footage videos=b" in log
    assert 'reason="nothing of it decodes"' in log
    assert 'class="screen' not in page.read_text()


def test_a_path_with_an_equals_sign_is_a_path(files: Path) -> None:
    odd = files / "lr=2.json"
    odd.write_text((files / "other.json").read_text())
    assert call(files, "--report", files / "page.html", "--compare", odd) == 0
    assert ">lr=2<" in (files / "page.html").read_text()
