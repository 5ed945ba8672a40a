"""mAP against the ActivityNet kit's own figures and against a brute-force evaluator."""

from pathlib import Path

import brute_force
import numpy as np
import pandas as pd
import pytest
from scoring_cases import ANNOTATION, CASES, DETECTION, golden, random_case, tables

from tad_distill.console import UserError
from tad_distill.evaluate import matching as module
from tad_distill.evaluate.matching import TieOrder
from tad_distill.evaluate.mean_ap import mean_ap

# What the kit's unstable sort makes of ties depends on the processor: there is no one figure.
HAS_TIES = ("ties_20_levels", "ties_all_equal", "unknown_videos")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("reference", "tie_order"),
    [("stable_first", "stable_first"), ("stable_last", "stable_last")],
)
def test_equals_the_reference_in_every_tie_order(
    shared: Path, name: str, reference: str, tie_order: TieOrder
) -> None:
    case = golden(shared, name)
    scores = mean_ap(*tables(case), case["tious"], tie_order)
    expected = case["reference"][reference]
    np.testing.assert_allclose(scores.mAP, expected["mAP"], rtol=0, atol=1e-9)
    assert scores.average_mAP == pytest.approx(expected["average_mAP"], abs=1e-9)
    assert scores.ap_per_class.keys() == expected["ap_per_class"].keys()
    for label, ap in expected["ap_per_class"].items():
        np.testing.assert_allclose(scores.ap_per_class[label], ap, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in CASES if name not in HAS_TIES])
def test_equals_the_kit_wherever_the_kit_gives_a_figure(shared: Path, name: str) -> None:
    case = golden(shared, name)
    kit = case["peers"]["activitynet_kit"]
    if "error" in kit:
        assert "KeyError" in kit["error"]  # the kit stops at labels that it does not know
        return
    scores = mean_ap(*tables(case), case["tious"])
    np.testing.assert_allclose(scores.mAP, kit["mAP"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_equals_a_brute_force_evaluator(seed: int, ties: bool) -> None:
    annotations, detections = random_case(seed, ties)
    thresholds = [0.1, 0.25, 0.5, 1.0]
    scores = mean_ap(annotations, detections, thresholds)
    expected = brute_force.mean_ap(annotations, detections, thresholds)
    assert scores.ap_per_class.keys() == expected.keys()
    for label, ap in scores.ap_per_class.items():
        np.testing.assert_allclose(ap, expected[label], rtol=0, atol=1e-12)


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
