"""Named protocols: the published lists, the peers' own figures, what is left out and said."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tad_distill.console import UsageError, UserError
from tad_distill.data import annotations as annotation_files
from tad_distill.data.annotations import AnnotationSet
from tad_distill.evaluate import detections as detection_files
from tad_distill.evaluate.protocols import PROTOCOLS, Protocol, parse_tiou, score

PLAIN = PROTOCOLS["plain"]


def split(shared: Path, folder: Path, name: str) -> tuple[Path, Path, dict[str, Any]]:
    """A reference case as the two files that a user has."""
    with gzip.open(shared / "golden" / "map" / f"{name}.json.gz") as file:
        case = json.load(file)
    annotations, detections = folder / "annotations.json", folder / "detections.json"
    annotations.write_text(json.dumps({"database": case["database"]}))
    detections.write_text(json.dumps({"results": case["results"]}))
    return annotations, detections, case


def small(*detections: tuple[str, str, float, float, float]) -> pd.DataFrame:
    return pd.DataFrame(detections, columns=["video", "label", "score", "start_s", "end_s"])


@pytest.fixture
def annotated(tmp_path: Path) -> AnnotationSet:
    path = tmp_path / "a.csv"
    path.write_text(
        "video,label,start_s,end_s,subset\na,Jump,0,10,test\nb,Jump,0,10,test\nc,Jump,0,10,train\n"
    )
    return annotation_files.read(path, PLAIN.policy)


@pytest.mark.parametrize(
    ("case", "protocol", "peer"),
    [
        ("duplicate_annotations", "thumos-212", "actionformer"),
        ("duplicate_annotations", "thumos-211", "opentad"),
        ("duplicate_annotations", "thumos-210", "tadtr"),
        ("zero_length_annotations", "thumos-212", "actionformer"),
        ("zero_length_annotations", "thumos-211", "opentad"),
        ("zero_length_annotations", "thumos-210", "tadtr"),
        ("zero_length_both", "thumos-212", "actionformer"),
        ("zero_length_both", "thumos-211", "opentad"),
        ("zero_length_both", "activitynet", "activitynet_kit"),
        ("unknown_videos_distinct_scores", "thumos-212", "actionformer"),
        ("unknown_videos_distinct_scores", "thumos-210", "tadtr"),
        ("empty_videos", "thumos-211", "opentad"),
        ("empty_videos", "thumos-210", "tadtr"),
        ("thumos_full", "plain", "activitynet_kit"),
        ("anet_small", "activitynet", "activitynet_kit"),
    ],
)
def test_each_protocol_follows_the_tool_it_is_named_for(
    shared: Path, tmp_path: Path, case: str, protocol: str, peer: str
) -> None:
    annotations, detections, expected = split(shared, tmp_path, case)
    # These cases are no complete THUMOS'14, so the list of videos is not held against it.
    rules = replace(
        PROTOCOLS[protocol], num_videos=None, tiou=tuple(expected["tious"]), excluded=()
    )
    result = score(
        annotation_files.read(annotations, rules.policy),
        detection_files.read(detections),
        rules,
        expected["subset"],
    )
    figures = expected["peers"][peer]["mAP"]
    np.testing.assert_allclose(result.scores.mAP, figures, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "num_annotations"), [("thumos-212", 3358), ("thumos-211", 3329), ("thumos-210", 3311)]
)
@pytest.mark.parametrize("file", ["thumos14.json", "test_Annotation.csv"])
def test_the_lists_of_thumos_are_those_published(
    shared: Path, name: str, num_annotations: int, file: str
) -> None:
    path = shared / "real" / "annotations" / "thumos14" / file
    truth = annotation_files.read(path, PROTOCOLS[name].policy)
    perfect = truth.subset("test").table().assign(score=1.0)
    result = score(truth, perfect, PROTOCOLS[name])
    assert result.scores.num_annotations == num_annotations
    assert len(set(perfect["video"]) - set(PROTOCOLS[name].excluded)) == PROTOCOLS[name].num_videos
    assert result.scores.average_mAP == 1.0


def test_a_list_of_other_length_is_refused(shared: Path) -> None:
    path = shared / "real" / "annotations" / "thumos14" / "thumos_gt_gtad.json"
    truth = annotation_files.read(path, PROTOCOLS["thumos-212"].policy)
    found = truth.subset("test").table().assign(score=1.0)
    with pytest.raises(UserError, match="thumos-212 scores 212 videos .* found 210.*plain"):
        score(truth, found, PROTOCOLS["thumos-212"])
    assert score(truth, found, PROTOCOLS["thumos-210"]).scores.num_annotations == 3311


def test_protocols_with_linspace_thresholds_have_its_last_bits() -> None:
    assert PROTOCOLS["activitynet"].tiou == tuple(np.linspace(0.5, 0.95, 10))
    assert PROTOCOLS["thumos-212"].tiou == tuple(np.linspace(0.3, 0.7, 5))
    assert PLAIN.tiou == (0.3, 0.4, 0.5, 0.6, 0.7)


def test_videos_of_other_subsets_are_false_positives_and_said(
    annotated: AnnotationSet, capsys: pytest.CaptureFixture[str]
) -> None:
    found = small(("c", "Jump", 0.9, 0, 10), ("a", "Jump", 0.8, 0, 10), ("b", "Jump", 0.7, 0, 10))
    result = score(annotated, found, PLAIN, "test")
    assert result.scores.average_mAP == pytest.approx(2 / 3)
    assert result.found["detections_in_videos_without_annotations"] == 1
    logged = capsys.readouterr().err
    assert "num_detections=1" in logged and "in_other_subsets=1 first=c" in logged
    dropping = replace(PLAIN, unknown_videos="drop")
    result = score(annotated, found, dropping, "test")
    assert result.scores.average_mAP == 1.0
    assert result.removed["detections_in_unknown_videos"] == 1


def test_unknown_labels_are_left_out_and_said(
    annotated: AnnotationSet, capsys: pytest.CaptureFixture[str]
) -> None:
    found = small(("a", "Fly", 0.9, 0, 10), ("a", "Jump", 0.8, 0, 10))
    result = score(annotated, found, PLAIN, "test")
    assert result.scores.average_mAP == 0.5
    assert result.removed["detections_with_unknown_label"] == 1
    assert "num_detections=1 labels=Fly" in capsys.readouterr().err


def test_excluded_videos_go_from_both_sides(annotated: AnnotationSet) -> None:
    found = small(("a", "Jump", 0.9, 50, 60), ("b", "Jump", 0.8, 0, 10))
    result = score(annotated, found, replace(PLAIN, excluded=("a",)), "test")
    assert result.scores.average_mAP == 1.0
    assert result.removed["videos_excluded"] == result.removed["detections_in_excluded_videos"] == 1
    assert (result.num_videos, result.scores.num_annotations) == (1, 1)


def test_what_policies_dropped_is_of_the_subset(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = ["a,Jump,0,10,test"] * 2 + ["c,Jump,0,10,train"] * 5
    path.write_text("video,label,start_s,end_s,subset\n" + "\n".join(rows))
    for protocol, kept, dropped in ((PLAIN, 1, 0), (PROTOCOLS["thumos-212"], 0, 1)):
        protocol = replace(protocol, num_videos=None)
        truth = annotation_files.read(path, protocol.policy)
        result = score(truth, small(("a", "Jump", 0.9, 0, 10)), protocol, "test")
        assert result.found["annotations_duplicates"] == kept
        assert result.removed["annotations_duplicates"] == dropped


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("v_a", "Jump", 0.9, 0, 1), "no detection fits any video .*'v_a'.*'a'; .*leading v_"),
        (("a", "jump", 0.9, 0, 1), "no detection fits any label .*'jump'.*'Jump'"),
    ],
)
def test_detections_that_fit_nothing_are_an_error(
    annotated: AnnotationSet, row: tuple[str, str, float, float, float], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        score(annotated, small(row))


def test_no_detections_score_zero_with_a_warning(
    annotated: AnnotationSet, capsys: pytest.CaptureFixture[str]
) -> None:
    result = score(annotated, small().astype({"score": float}))
    assert result.scores.average_mAP == 0
    assert "Warning: there are no detections" in capsys.readouterr().err


def test_a_subset_without_annotations_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"database": {"a": {"subset": "test", "annotations": []}}}')
    with pytest.raises(UserError, match="no annotation to score among 1 videos"):
        score(annotation_files.read(path), small(("a", "Jump", 0.9, 0, 10)))


def test_every_protocol_is_called_by_its_name() -> None:
    assert all(isinstance(p, Protocol) and p.name == name for name, p in PROTOCOLS.items())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.3:0.7:0.1", (0.3, 0.4, 0.5, 0.6, 0.7)),
        ("0.5:0.95:0.05", (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)),
        ("0.5:0.5:0.1", (0.5,)),
        ("0.3,0.5", (0.3, 0.5)),
        ("1", (1.0,)),
    ],
)
def test_thresholds_are_the_decimals_that_one_reads(text: str, expected: tuple[float, ...]) -> None:
    assert parse_tiou(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "a", "0.3:0.7", "0.3:0.7:0", "0.3:0.7:-0.1", "0.7:0.3:0.1", "0,0.5", "1.5", "nan", "0.5,",
     "0.3:inf:0.1", "0.5,0.5", "0.1:0.9:1e-9", "nan:0.5:0.1"],
)  # fmt: skip
def test_thresholds_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--tiou"):
        parse_tiou(text)
