"""mAP against the ActivityNet kit's own figures and against a brute-force evaluator."""

import gzip
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tad_distill.console import UserError
from tad_distill.evaluate import matching as module
from tad_distill.evaluate.matching import TieOrder
from tad_distill.evaluate.mean_ap import mean_ap

CASES = (
    "anet_small classes_without_predictions degenerate_predictions duplicate_annotations "
    "duplicates empty_videos predicted_class_not_in_gt subset_filter threshold_edges thumos_full "
    "thumos_small ties_20_levels ties_all_equal tiny_hand unknown_videos "
    "unknown_videos_distinct_scores zero_length_annotations zero_length_both"
).split()
DETECTION = ["video", "label", "score", "start_s", "end_s"]
ANNOTATION = ["video", "label", "start_s", "end_s"]

# What the kit's unstable sort makes of ties depends on the processor: there is no one figure.
HAS_TIES = ("ties_20_levels", "ties_all_equal", "unknown_videos")


@cache
def load(shared: Path, name: str) -> dict[str, Any]:
    with gzip.open(shared / "golden" / "map" / f"{name}.json.gz") as file:
        case: dict[str, Any] = json.load(file)
    return case


def tables(case: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Built here from the raw case: the readers have their own tests."""
    annotations = [
        (video, a["label"], *a["segment"])
        for video, entry in case["database"].items()
        if entry["subset"] == case["subset"]
        for a in entry["annotations"]
    ]
    detections = [
        (video, d["label"], d["score"], *d["segment"])
        for video, found in case["results"].items()
        for d in found
    ]
    return (
        pd.DataFrame(annotations, columns=ANNOTATION),
        pd.DataFrame(detections, columns=DETECTION),
    )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("reference", "tie_order"),
    [("stable_first", "stable_first"), ("stable_last", "stable_last")],
)
def test_equals_the_reference_in_every_tie_order(
    shared: Path, name: str, reference: str, tie_order: TieOrder
) -> None:
    case = load(shared, name)
    scores = mean_ap(*tables(case), case["tious"], tie_order)
    expected = case["reference"][reference]
    np.testing.assert_allclose(scores.mAP, expected["mAP"], rtol=0, atol=1e-9)
    assert scores.average_mAP == pytest.approx(expected["average_mAP"], abs=1e-9)
    assert scores.ap_per_class.keys() == expected["ap_per_class"].keys()
    for label, ap in expected["ap_per_class"].items():
        np.testing.assert_allclose(scores.ap_per_class[label], ap, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in CASES if name not in HAS_TIES])
def test_equals_the_kit_wherever_the_kit_gives_a_figure(shared: Path, name: str) -> None:
    case = load(shared, name)
    kit = case["peers"]["activitynet_kit"]
    if "error" in kit:
        assert "KeyError" in kit["error"]  # the kit stops at labels that it does not know
        return
    scores = mean_ap(*tables(case), case["tious"])
    np.testing.assert_allclose(scores.mAP, kit["mAP"], rtol=0, atol=1e-9)


def average_precision(
    annotations: Sequence[tuple[str, float, float]],
    detections: Sequence[tuple[str, float, float, float]],
    threshold: float,
) -> float:
    """AP of one label, by the definition, one detection at a time.

    Annotations are (video, start, end); detections (video, score, start, end) in file order.
    """
    taken: set[int] = set()
    hits: list[bool] = []
    for video, _, start, end in sorted(detections, key=lambda d: -d[1]):
        best, best_overlap = None, threshold
        for i, (other, a, b) in enumerate(annotations):
            if other != video or i in taken:
                continue
            inside = max(0.0, min(end, b) - max(start, a))
            union = (b - a) + (end - start) - inside
            overlap = np.inf if union == 0 else inside / union
            if overlap >= best_overlap:
                best, best_overlap = i, overlap
        hits.append(best is not None)
        if best is not None:
            taken.add(best)
    precisions = [sum(hits[: i + 1]) / (i + 1) for i in range(len(hits))]
    area = sum(max(precisions[i:]) for i, hit in enumerate(hits) if hit)
    return area / len(annotations)


def random_case(seed: int, ties: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    num_annotations, num_detections = int(rng.integers(1, 40)), int(rng.integers(0, 120))

    def segments(count: int) -> tuple[np.ndarray, np.ndarray]:
        # Whole seconds: equal overlaps, exact thresholds, empty and reversed segments all occur.
        start = rng.integers(0, 12, count)
        return start.astype(float), (start + rng.integers(-1, 8, count)).astype(float)

    start, end = segments(num_annotations)
    annotations = pd.DataFrame(
        {
            "video": rng.choice(["a", "b", "c"], num_annotations),
            "label": rng.choice(["x", "y"], num_annotations),
            "start_s": start,
            "end_s": np.maximum(start, end),
        }
    )
    start, end = segments(num_detections)
    score = rng.integers(0, 8, num_detections) / 8 if ties else rng.permutation(num_detections)
    detections = pd.DataFrame(
        {
            "video": rng.choice(["a", "b", "c", "unknown"], num_detections),
            "label": rng.choice(["x", "y", "z"], num_detections),
            "score": score.astype(float),
            "start_s": start,
            "end_s": end,
        }
    )
    return annotations, detections


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_equals_a_brute_force_evaluator(seed: int, ties: bool) -> None:
    annotations, detections = random_case(seed, ties)
    thresholds = [0.1, 0.25, 0.5, 1.0]
    scores = mean_ap(annotations, detections, thresholds)
    assert set(scores.ap_per_class) == set(annotations["label"])
    for label, ap in scores.ap_per_class.items():
        of_label = annotations[annotations["label"] == label]
        found = detections[detections["label"] == label]
        expected = [
            average_precision(
                list(of_label[["video", "start_s", "end_s"]].itertuples(index=False, name=None)),
                list(found[DETECTION].drop(columns="label").itertuples(index=False, name=None)),
                threshold,
            )
            for threshold in thresholds
        ]
        np.testing.assert_allclose(ap, expected, rtol=0, atol=1e-12)


def test_pairs_in_many_chunks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [random_case(seed, ties=True) for seed in range(10)]
    whole = [mean_ap(*case, [0.3, 0.5]) for case in cases]
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 7)
    for case, expected in zip(cases, whole, strict=True):
        np.testing.assert_array_equal(mean_ap(*case, [0.3, 0.5]).mAP, expected.mAP)


def test_numpy_tie_order_is_each_label_sorted_and_reversed() -> None:
    annotations, detections = random_case(3, ties=True)
    parts = []
    for _, part in detections.groupby("label", sort=False):
        parts.append(part.iloc[part["score"].to_numpy().argsort()[::-1]])
    ordered = pd.concat(parts)
    np.testing.assert_array_equal(
        mean_ap(annotations, detections, [0.3, 0.5], "numpy").mAP,
        mean_ap(annotations, ordered, [0.3, 0.5], "stable_first").mAP,
    )


def test_the_earlier_of_two_equal_scores_counts_first() -> None:
    annotations = pd.DataFrame([("v", "x", 0.0, 10.0)], columns=ANNOTATION)
    right, wrong = ("v", "x", 0.5, 0.0, 10.0), ("v", "x", 0.5, 50.0, 60.0)
    for rows, order, expected in (
        ([right, wrong], "stable_first", 1.0),
        ([wrong, right], "stable_first", 0.5),
        ([wrong, right], "stable_last", 1.0),
    ):
        detections = pd.DataFrame(rows, columns=DETECTION)
        assert mean_ap(annotations, detections, [0.5], order).average_mAP == expected  # type: ignore[arg-type]


def test_empty_overlaps_match_or_miss_and_are_counted() -> None:
    annotations = pd.DataFrame([("v", "x", 5.0, 5.0)], columns=ANNOTATION)
    detections = pd.DataFrame([("v", "x", 0.5, 9.0, 9.0)], columns=DETECTION)
    as_kit = mean_ap(annotations, detections, [0.5])
    strict = mean_ap(annotations, detections, [0.5], empty_overlap="miss")
    assert (as_kit.average_mAP, strict.average_mAP) == (1.0, 0.0)
    assert as_kit.num_empty_overlaps == strict.num_empty_overlaps == 1


def test_counts_name_what_was_left_out_and_what_can_only_be_wrong() -> None:
    annotations = pd.DataFrame([("v", "x", 0.0, 1.0)], columns=ANNOTATION)
    rows = [("v", "x", 0.9, 0.0, 1.0), ("w", "x", 0.8, 0.0, 1.0), ("v", "q", 0.7, 0.0, 1.0)]
    scores = mean_ap(annotations, pd.DataFrame(rows, columns=DETECTION), [0.5])
    assert (scores.num_annotations, scores.num_detections) == (1, 2)
    assert (scores.num_unknown_label, scores.num_unknown_video) == (1, 1)


def test_no_detections_score_zero() -> None:
    annotations = pd.DataFrame([("v", "x", 0.0, 1.0)], columns=ANNOTATION)
    none = pd.DataFrame(columns=DETECTION).astype({"score": float, "start_s": float})
    assert mean_ap(annotations, none, [0.3, 0.5]).mAP.tolist() == [0, 0]


def test_nothing_to_score_is_an_error_and_not_a_nan() -> None:
    annotations, detections = random_case(0, ties=False)
    with pytest.raises(UserError, match="no annotation"):
        mean_ap(annotations.head(0), detections, [0.5])
    with pytest.raises(UserError, match="no tIoU threshold"):
        mean_ap(annotations, detections, [])


def test_a_nan_score_is_named() -> None:
    annotations, detections = random_case(1, ties=False)
    detections.loc[2, "score"] = np.nan
    with pytest.raises(UserError, match="detection 2: the score is NaN"):
        mean_ap(annotations, detections, [0.5])
