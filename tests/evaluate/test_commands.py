"""The command eval: what it prints, what it writes, how it fails."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tad_distill.cli import main

ANNOTATIONS = (
    "video,label,start_s,end_s,subset,duration_s\n"
    "a,Jump,0,10,test,60\na,Jump,20,30,test,60\nb,Run,5,6,test,60\nc,Run,0,5,train,60\n"
)
DETECTIONS = (
    "video,label,score,start_s,end_s\n"
    "a,Jump,0.9,0,10\na,Jump,0.8,40,50\na,Jump,0.7,20,25\nb,Run,0.6,5,6\n"
)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    paths = tmp_path / "found.csv", tmp_path / "truth.csv"
    for path, text in zip(paths, (DETECTIONS, ANNOTATIONS), strict=True):
        path.write_text(text)
    return str(paths[0]), str(paths[1])


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["eval", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_table_is_in_percent(files: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found, truth = files
    arguments = (found, "--annotations", truth, "--subset", "TEST", "--tiou", "0.5,0.6")
    assert run(*arguments, "--per-class") == 0
    header, mean, once, five, ar_header, ar, *per_class = (
        line.split() for line in capsys.readouterr().out.splitlines()[1:]
    )
    assert header == ["%", "at", "tIoU", "0.5", "0.6", "average"]
    # Jump at 0.5: hit, miss, hit: (1 + 2/3) / 2; at 0.6 only the first: 1/2.
    assert mean == ["mAP", "91.67", "75.00", "83.33"]
    # Two of Jump's three count at 1x: the hit and the miss; all three at 5x.
    assert once == ["recall@1x", "75.00", "75.00", "75.00"]
    assert five == ["recall@5x", "100.00", "75.00", "87.50"]
    # At 1 a video gives the first of a's three and none of b's one: 1/3. At 2 all are given, which
    # reach two annotations at all ten thresholds and one at 0.5: (1 + 9 * 2/3) / 10.
    # The area from 1 to 100, over 100: ((1/3 + 0.7) / 2 + 98 * 0.7) / 100.
    assert ar_header[-6:] == ["AR@1", "AR@5", "AR@10", "AR@50", "AR@100", "area"]
    assert ar[:2] == ["average", "recall"]
    assert ar[2:] == ["33.33", "70.00", "70.00", "70.00", "70.00", "69.12"]
    assert per_class == [
        ["AP", "(%)", "at", "tIoU", "annotations", "videos", "detections", "0.5", "0.6", "average"],
        ["Run", "1", "1", "1", "100.00", "100.00", "100.00"],
        ["Jump", "2", "1", "3", "83.33", "50.00", "66.67"],
    ]


def test_labels_come_the_best_first_and_then_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, truth = tmp_path / "found.csv", tmp_path / "truth.csv"
    truth.write_text("video,label,start_s,end_s\n" + "".join(f"a,{x},0,1\n" for x in "cbad"))
    found.write_text("video,label,score,start_s,end_s\na,c,1,0,1\na,z,1,0,1\n")
    assert run(found, "--annotations", truth, "--per-class", "--tiou", "0.5") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[-4:]]
    assert [row[0] for row in rows] == ["c", "a", "b", "d"]
    assert rows[1] == ["a", "1", "1", "0", "0.00", "0.00"]


def test_intervals_are_printed_and_written(
    files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, truth = files
    out = tmp_path / "scores.json"
    arguments = (found, "--annotations", truth, "--subset", "test", "--json", out)
    assert run(*arguments, "--bootstrap", 200, "--seed", 3) == 0
    printed = capsys.readouterr().out
    document = json.loads(out.read_text())
    interval = document["bootstrap"]["average_mAP"]
    assert interval["low"] < document["average_mAP"] < interval["high"]
    assert document["bootstrap"]["num_samples"] == 200 and document["bootstrap"]["seed"] == 3
    assert len(document["bootstrap"]["mAP"]) == 5
    assert f"{100 * interval['low']:.2f}\n" in printed
    assert "low, high: 95 % of 200 draws of 2 videos, seed 3, less their bias of " in printed
    assert run(*arguments, "--bootstrap", 200, "--seed", 3) == 0
    assert capsys.readouterr().out == printed
    assert run(*arguments, "--bootstrap", 0) == 2
    assert run(*arguments, "--seed", -1) == 2


def test_the_file_holds_fractions_and_all_counts(files: Any, tmp_path: Path) -> None:
    found, truth = files
    out = tmp_path / "deep" / "scores.json"
    assert run(found, "--annotations", truth, "--subset", "test", "--json", out) == 0
    document = json.loads(out.read_text())
    assert document["protocol"] == "plain"
    assert document["tiou"] == [0.3, 0.4, 0.5, 0.6, 0.7]
    assert document["mAP"] == pytest.approx([11 / 12] * 3 + [0.75] * 2)
    assert document["average_mAP"] == pytest.approx(0.85)
    assert document["ap_per_class"]["Jump"] == pytest.approx([5 / 6] * 3 + [0.5] * 2)
    counts = {key: document[key] for key in ("num_videos", "num_annotations", "num_detections")}
    assert counts == {"num_videos": 2, "num_annotations": 3, "num_detections": 4}
    assert set(document["removed"].values()) == {0}
    assert document["found"]["videos_without_annotations"] == 0
    assert document["per_class"]["Jump"] == {
        "num_annotations": 2,
        "num_videos": 1,
        "num_detections": 3,
        "average_AP": pytest.approx(0.7),
    }
    assert document["recall"]["at_kx"]["k"] == [1, 5]
    assert document["recall"]["at_kx"]["mean"][1] == pytest.approx([1, 1, 1, 0.75, 0.75])
    assert document["recall"]["AR"]["at"]["100"] == pytest.approx(0.7)
    assert len(document["recall"]["AR"]["average_recall"]) == 100
    assert document["seconds"].keys() == {"read", "score", "recall"}
    assert "bootstrap" not in document
    assert all(seconds >= 0 for seconds in document["seconds"].values())
    assert document["rules"]["tie_order"] == "stable_first"


def test_the_file_keeps_what_the_detections_rest_on(files: Any, tmp_path: Path) -> None:
    truth = files[1]
    found, out = tmp_path / "found.json", tmp_path / "scores.json"
    detection = {"label": "Jump", "score": 0.9, "segment": [0, 10]}
    document: dict[str, Any] = {"results": {"a": [detection]}}
    for header in ({}, {"provenance": {"features": "frozen", "seed": 3}}):
        found.write_text(json.dumps(document | header))
        assert run(found, "--annotations", truth, "--json", out) == 0
        assert json.loads(out.read_text()).get("provenance") == header.get("provenance")


def test_excluded_videos_are_read_from_a_list(files: Any, tmp_path: Path) -> None:
    found, truth = files
    for name, text in (("a.txt", "a\n"), ("a.json", '["a"]'), ("b.json", '{"a": "blocked"}')):
        (tmp_path / name).write_text(text)
        out = tmp_path / "out.json"
        arguments = ("--annotations", truth, "--exclude", tmp_path / name, "--json", out)
        assert run(found, *arguments) == 0
        removed = json.loads(out.read_text())["removed"]
        assert (removed["videos_excluded"], removed["detections_in_excluded_videos"]) == (1, 3)


def test_ties_are_broken_as_asked(tmp_path: Path) -> None:
    found, truth, out = (tmp_path / name for name in ("found.csv", "truth.csv", "out.json"))
    truth.write_text("video,label,start_s,end_s\na,Jump,0,10\n")
    found.write_text("video,label,score,start_s,end_s\na,Jump,1,50,60\na,Jump,1,0,10\n")
    for order, expected in (("stable_first", 0.5), ("stable_last", 1.0)):
        run(found, "--annotations", truth, "--tie-order", order, "--json", out)
        assert json.loads(out.read_text())["average_mAP"] == expected


def test_draws_a_video_beside_other_detectors(files: Any, tmp_path: Path) -> None:
    found, truth = files
    picture = tmp_path / "a.png"
    arguments = (found, "--annotations", truth, "--timeline", picture)
    assert run(*arguments, "--compare", found, "--video", "b") == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run(*arguments, "--video", "nobody") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--subset", "validation"], 1, "no subset 'validation'; subsets there are: test, train"),
        (["--protocol", "voc"], 2, "--protocol voc: no such protocol; there are: plain"),
        (["--tiou", "0.3:0.7"], 2, "--tiou 0.3:0.7: expected FIRST:LAST:STEP or a list"),
        (["--protocol", "thumos-212"], 1, "scores 212 videos"),
        (["--timeline", "out.gif"], 2, "out.gif: pictures are written as .png, .pdf, .svg"),
    ],
)
def test_misuse_is_said_in_one_line(
    files: Any,
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found, truth = files
    assert run(found, "--annotations", truth, *arguments) == code
    errors = [line for line in capsys.readouterr().err.splitlines() if "event=" not in line]
    assert len(errors) == 1 and errors[0].startswith("Error: ") and message in errors[0]


def test_files_in_each_others_place_are_recognised(
    files: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    found, truth = files
    assert run(truth, "--annotations", found) == 1
    assert "detections, not annotations" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from tad_distill.evaluate.commands import evaluate\n"
        "try: evaluate.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'numpy', 'h5py'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, stdout=subprocess.DEVNULL)
