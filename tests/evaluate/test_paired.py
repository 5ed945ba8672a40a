"""Two detectors on the same videos: differences, intervals, and where they come from."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scoring_cases import ANNOTATION, DETECTION, random_case

from tad_distill.cli import main
from tad_distill.evaluate.bootstrap import bootstrap, draw
from tad_distill.evaluate.matching import match
from tad_distill.evaluate.mean_ap import mean_ap
from tad_distill.evaluate.paired import compare, left_out_ap

TIOU = [0.25, 0.5]


def pair(seed: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    annotations, first = random_case(seed, ties=False)
    second = random_case(seed + 1000, ties=True)[1]
    return annotations, first, second


@pytest.mark.parametrize("seed", range(8))
def test_the_figures_are_those_of_scoring_each_alone(seed: int) -> None:
    annotations, *both = pair(seed)
    first, second = (match(annotations, d, TIOU) for d in both)
    found = compare(first, second, ["a", "b", "c"], 40, seed)
    scores = [mean_ap(annotations, d, TIOU) for d in both]
    np.testing.assert_allclose(found.first, scores[0].mAP, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.second, scores[1].mAP, rtol=0, atol=1e-14)
    assert found.difference == pytest.approx(scores[1].average_mAP - scores[0].average_mAP)
    assert {label.name for label in found.labels} == set(annotations["label"])
    for label in found.labels:
        ap = [s.ap_per_class[label.name].mean() for s in scores]
        assert (label.first, label.second) == pytest.approx(tuple(ap))
        assert label.difference == pytest.approx(ap[1] - ap[0])
        assert label.num_annotations == (annotations["label"] == label.name).sum()
    # The mean over labels of what each gains is the whole difference.
    gains = [label.difference for label in found.labels]
    assert np.mean(gains) == pytest.approx(found.difference)
    assert gains == sorted(gains, reverse=True)


@pytest.mark.parametrize("seed", range(8))
def test_what_a_video_contributes_is_the_difference_less_that_without_it(seed: int) -> None:
    annotations, *both = pair(seed)
    first, second = (match(annotations, d, TIOU) for d in both)
    found = compare(first, second, ["a", "b", "c", "empty"], 10)
    for video in found.videos:
        rest = annotations[annotations["video"] != video.name]
        without = [
            mean_ap(rest, d[d["video"] != video.name], TIOU).average_mAP if len(rest) else 0.0
            for d in both
        ]
        expected = found.difference - (without[1] - without[0])
        assert video.contribution == pytest.approx(expected, abs=1e-12)
        assert video.num_annotations == (annotations["video"] == video.name).sum()
    names = {video.name for video in found.videos}
    assert {"a", "b", "c", "empty"} <= names <= {"a", "b", "c", "empty", "unknown"}
    parts = [video.contribution for video in found.videos]
    assert parts == sorted(parts, reverse=True)


def test_leaving_out_in_many_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    matching = match(*random_case(3, ties=True), TIOU)
    whole = left_out_ap(matching)
    monkeypatch.setattr("tad_distill.evaluate.paired.SAMPLES_AT_ONCE", 1)
    np.testing.assert_array_equal(left_out_ap(matching), whole)


def test_a_detector_is_not_ahead_of_itself() -> None:
    annotations, detections = random_case(5, ties=True)
    matching = match(annotations, detections, TIOU)
    found = compare(matching, matching, ["a", "b", "c"], 100)
    assert (found.difference, found.draws.above_zero) == (0, 0)
    assert (found.interval.low, found.interval.high, found.interval.sd) == (0, 0, 0)
    assert {video.contribution for video in found.videos} == {0.0}


def test_pairing_narrows_the_interval_of_two_alike_detectors() -> None:
    rng = np.random.default_rng(0)
    videos = [f"v{i}" for i in range(60)]
    annotations = pd.DataFrame([(v, "x", 0.0, 10.0) for v in videos], columns=ANNOTATION)
    # Both find the same half of the videos; the second one video more.
    right = rng.permutation(60) < 30
    rows = [(v, "x", float(s), 0.0, 10.0 if r else 1.0)
            for v, r, s in zip(videos, right, rng.random(60), strict=True)]  # fmt: skip
    first = pd.DataFrame(rows, columns=DETECTION)
    second = first.copy()
    second.loc[int(np.flatnonzero(~right)[0]), "end_s"] = 10.0
    a, b = match(annotations, first, [0.5]), match(annotations, second, [0.5])
    found = compare(a, b, videos, 500)
    alone = bootstrap(a, videos, 500)
    assert found.interval.sd < alone.average_mAP.sd / 3
    assert 0 < found.difference and found.videos[0].contribution > 0
    assert found.videos[0].name == videos[int(np.flatnonzero(~right)[0])]
    assert (found.videos[0].first, found.videos[0].second) == (0, 1)
    # Ahead in every draw that holds the one video, level in the others.
    held = draw(60, 500, 0)[videos.index(found.videos[0].name)] > 0
    assert found.draws.above_zero == held.mean()


ANNOTATIONS = "video,label,start_s,end_s\na,Jump,0,10\na,Run,20,30\nb,Jump,0,5\nc,Run,0,9\n"
FIRST = "video,label,score,start_s,end_s\na,Jump,0.9,0,10\nb,Jump,0.8,50,60\nc,Run,0.7,0,9\n"
SECOND = "video,label,score,start_s,end_s\na,Jump,0.9,0,10\nb,Jump,0.8,0,5\nc,Run,0.7,50,60\n"


def run(folder: Path, *arguments: object, truth: str = ANNOTATIONS, second: str = SECOND) -> int:
    for name, text in (("truth", truth), ("first", FIRST), ("second", second)):
        (folder / f"{name}.csv").write_text(text)
    files = (folder / "first.csv", folder / "second.csv", "--annotations", folder / "truth.csv")
    with pytest.raises(SystemExit) as ended:
        main(["eval", "compare", *map(str, (*files, *arguments))])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_command_prints_and_writes_who_moved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "compared.json"
    assert run(tmp_path, "--tiou", "0.5", "--bootstrap", 50, "--json", out) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    # Jump: 0.5 and 1; Run: 0.5 and 0.
    assert ["first", "50.00", "50.00"] in lines and ["second", "50.00", "50.00"] in lines
    assert ["difference", "+0.00", "+0.00"] in lines
    jump, running = (next(row for row in lines if row[0] == name) for name in ("Jump", "Run"))
    assert jump[:5] == ["Jump", "2", "50.00", "100.00", "+50.00"]
    assert running[:5] == ["Run", "2", "50.00", "0.00", "-50.00"]
    document = json.loads(out.read_text())
    assert document["average_mAP"] == {"first": 0.5, "second": 0.5}
    assert document["difference"]["average_mAP"] == 0
    assert [label["name"] for label in document["labels"]] == ["Jump", "Run"]
    videos = {video["name"]: video for video in document["videos"]}
    assert (videos["b"]["first"], videos["b"]["second"], videos["b"]["num_annotations"]) == (
        0,
        1,
        1,
    )
    # Without b: Jump 1 and 1, Run 0.5 and 0: a difference of -0.25 against 0.
    assert videos["b"]["contribution"] == pytest.approx(0.25)
    assert document["draws"]["num_samples"] == 50


def test_only_the_ends_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {"truth": f"{ANNOTATIONS}d,Fly,0,5\n", "second": f"{SECOND}d,Fly,0.5,0,5\n"}
    for top, listed in ((0, []), (1, ["Fly", "(1", "Run"]), (5, ["Fly", "Jump", "Run"])):
        assert run(tmp_path, "--tiou", "0.5", "--bootstrap", 5, "--top", top, **texts) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        there = [line[0] for line in lines if line[0] in ("Fly", "Jump", "(1", "Run")]
        assert there[: len(listed)] == listed and bool(there) == bool(listed)


def test_misuse_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--subset", "test") == 1
    assert "no subset 'test'" in capsys.readouterr().err
    assert run(tmp_path, "--bootstrap", "0") == 2
    with pytest.raises(SystemExit) as ended:
        main(["eval", "compare", str(tmp_path / "first.csv")])
    assert ended.value.code == 2
    assert "tad-distill eval compare --help" in capsys.readouterr().err
