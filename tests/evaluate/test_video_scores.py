"""Label scores of whole videos: both forms are read, every fault is named, fusion is by hand."""

import gzip
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from tad_distill.console import UserError
from tad_distill.evaluate.video_scores import fuse, read

LABELS = ("Jump", "Run", "Swim")


def save(folder: Path, content: Any) -> Path:
    path = folder / "scores.json"
    path.write_text(json.dumps(content))
    return path


def test_rows_are_read_in_the_order_of_the_detector_s_labels(tmp_path: Path) -> None:
    content = {"class": ["Swim", "Fly", "Jump", "Run"], "results": {"a": [0.4, 0.3, 0.2, 0.1]}}
    found = read(save(tmp_path, content), LABELS)
    assert found.of("a").tolist() == [0.2, 0.1, 0.4]


def test_entries_are_read_and_what_is_not_listed_is_zero(tmp_path: Path) -> None:
    entries = [{"label": "Run", "score": 0.7}, {"label": "Fly", "score": 1}]
    twice = [{"label": "Jump", "score": 0.2}, {"label": "Jump", "score": 0.6}]
    content = {"version": "VERSION 1.3", "results": {"a": entries, "b": twice, "c": []}}
    found = read(save(tmp_path, content), LABELS)
    assert found.of("a").tolist() == [0, 0.7, 0]
    assert found.of("b").tolist() == [0.6, 0, 0]
    assert found.of("c").tolist() == [0, 0, 0]


def test_a_compressed_file_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "scores.json.gz"
    content = {"class": list(LABELS), "results": {"a": [0.5, 0.25, 0.25]}}
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    assert read(path, LABELS).of("a").tolist() == [0.5, 0.25, 0.25]


def test_videos_are_found_without_the_v_of_activitynet(tmp_path: Path) -> None:
    content = {"class": list(LABELS), "results": {"a": [1, 0, 0], "v_b": [0, 1, 0]}}
    found = read(save(tmp_path, content), LABELS)
    found.require(["v_a", "a", "v_b"])
    assert found.of("v_a").tolist() == [1, 0, 0]
    with pytest.raises(UserError, match=r"scores\.json: no label scores for 1 of the videos \(b\)"):
        found.require(["a", "b"])
    with pytest.raises(UserError, match=r"for 7 of the videos \(0, 1, 2, 3, 4, \.\.\.\).*names 2"):
        found.require([str(i) for i in range(7)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], 'expected label scores, JSON with "results"'),
        ({"results": {}}, 'expected label scores, JSON with "results"'),
        ({"results": [1]}, 'expected label scores, JSON with "results"'),
        ({"results": {"a": 0.5}}, "a: expected a list of scores, found 0.5"),
        ({"results": {"a": [0.5, 0.5, 0]}}, 'add "class"'),
        (
            {"class": list(LABELS), "results": {"a": [1, 0, 0], "b": [1]}},
            r'b: expected 3 scores, as "class" has labels, found 1',
        ),
        (
            {"class": list(LABELS), "results": {"a": [1, -0.5, 0]}},
            "a: Run: expected a score of at least 0, found -0.5",
        ),
        ({"class": list(LABELS), "results": {"a": [1, "x", 0]}}, "a: Run"),
        ({"class": list(LABELS), "results": {"a": [1, float("nan"), 0]}}, "a: Run"),
        (
            {"class": ["Jump", "Fly"], "results": {"a": [1, 0]}},
            r"no scores for 2 of 3 labels \(Run, Swim\); it knows Fly, Jump",
        ),
        ({"results": {"a": [{"label": "Fly", "score": 1}]}}, "no scores for 3 of 3 labels"),
        ({"results": {"a": [{"label": "Run"}]}}, "a: entry 0: score"),
        ({"results": {"a": [{"label": "Run", "score": 1}, 3]}}, "a: entry 1: expected"),
        (
            {"results": {"a": [{"label": "Run", "score": 1, "segment": [0, 1]}]}},
            "these are detections",
        ),
    ],
)
def test_faults_are_named(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(save(tmp_path, content), LABELS)
    assert "scores.json" in str(error.value) and "\n" not in str(error.value)


def test_a_class_agnostic_detection_is_said_for_each_of_the_best_labels() -> None:
    of_video = np.array([0.1, 0.64, 0.0, 0.25])
    scores = np.array([0.9, 0.4], dtype=np.float32)
    index, fused, labels = fuse(
        scores, np.zeros(2, dtype=int), of_video, top_k=2, fusion="product", class_agnostic=True
    )
    assert list(zip(index, labels, strict=True)) == [(0, 1), (1, 1), (0, 3), (1, 3)]
    assert fused == pytest.approx([0.576, 0.256, 0.225, 0.1])
    _, fused, _ = fuse(
        scores, np.zeros(2, dtype=int), of_video, top_k=2, fusion="sqrt", class_agnostic=True
    )
    assert fused == pytest.approx(np.sqrt([0.576, 0.256, 0.225, 0.1]))


def test_other_detections_keep_their_label_if_it_is_among_the_best() -> None:
    index, fused, labels = fuse(
        np.array([0.9, 0.8, 0.7, 0.2]),
        np.array([0, 1, 3, 1]),
        np.array([0.1, 0.5, 0.0, 0.25]),
        top_k=2,
        fusion="product",
        class_agnostic=False,
    )
    assert index.tolist() == [1, 2, 3] and labels.tolist() == [1, 3, 1]
    assert fused == pytest.approx([0.4, 0.175, 0.1])


@pytest.mark.parametrize("fusion", ["sqrt", "product"])
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_nothing_stays_nothing(fusion: Literal["sqrt", "product"], class_agnostic: bool) -> None:
    none = np.empty(0)
    for scores, of_video in ((none, np.ones(3)), (np.ones(2), np.zeros(3))):
        numbers = np.zeros(len(scores), dtype=int)
        index, fused, labels = fuse(
            scores, numbers, of_video, top_k=2, fusion=fusion, class_agnostic=class_agnostic
        )
        assert len(index) == len(fused) == len(labels) == 0
