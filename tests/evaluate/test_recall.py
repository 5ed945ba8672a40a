"""Recall against ActionFormer's own figures and against brute force."""

from pathlib import Path

import brute_force
import numpy as np
import pandas as pd
import pytest
from scoring_cases import ANNOTATION, CASES, DETECTION, golden, random_case, tables

from tad_distill.console import UserError
from tad_distill.evaluate.recall import AR_TIOU, average_recall, top_recall

# ActionFormer drops and merges annotations in these, or lets unknown labels collide with known
# ones; the rest are the cases in which it scores what is in the file. With ties its figures
# depend on the processor.
ALTERED = (
    "duplicate_annotations zero_length_annotations zero_length_both predicted_class_not_in_gt "
    "subset_filter"
).split()
HAS_TIES = ("ties_20_levels", "ties_all_equal")


@pytest.mark.parametrize("name", [c for c in CASES if c not in (*ALTERED, *HAS_TIES)])
def test_recall_at_kx_equals_actionformer(shared: Path, name: str) -> None:
    case = golden(shared, name)
    found = top_recall(*tables(case), case["tious"])
    expected = np.array(case["peers"]["actionformer"]["mRecall_top1x_top5x"])
    np.testing.assert_allclose(found.mean.T, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_recall_at_kx_equals_brute_force(seed: int, ties: bool) -> None:
    annotations, detections = random_case(seed, ties)
    tiou = [0.1, 0.5, 1.0]
    found = top_recall(annotations, detections, tiou, k=(1, 2))
    for i, k in enumerate(found.k):
        expected = brute_force.top_recall(annotations, detections, tiou, k)
        assert found.per_class.keys() == expected.keys()
        for label, values in expected.items():
            np.testing.assert_allclose(found.per_class[label][i], values, rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            found.mean[i], np.mean(list(expected.values()), axis=0), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("max_proposals", [100, 3])
def test_average_recall_equals_brute_force(seed: int, ties: bool, max_proposals: float) -> None:
    annotations, detections = random_case(seed, ties)
    tiou = [0.1, 0.5, 1.0]
    found = average_recall(annotations, detections, tiou, max_proposals)
    numbers, recalls = brute_force.average_recall(annotations, detections, tiou, max_proposals)
    np.testing.assert_allclose(found.num_proposals, numbers, rtol=1e-12)
    np.testing.assert_allclose(found.average_recall, recalls, rtol=0, atol=1e-12)
    area = np.trapezoid(recalls, numbers) / numbers[-1]
    assert found.auc == pytest.approx(area, abs=1e-12)


def test_the_axis_ends_at_the_number_asked_for_however_few_detections_there_are() -> None:
    annotations = pd.DataFrame([("v", "x", 0.0, 10.0), ("w", "x", 0.0, 10.0)], columns=ANNOTATION)
    rows = [("v", "x", 0.9, 50.0, 60.0), ("v", "y", 0.8, 0.0, 10.0), ("w", "x", 0.7, 0.0, 10.0)]
    found = average_recall(annotations, pd.DataFrame(rows, columns=DETECTION), max_proposals=100)
    np.testing.assert_allclose(found.num_proposals, np.arange(1, 101))
    # From v's two detections and w's one: at an average of 1 each gives two thirds, cut to 1 and 0.
    assert found.average_recall[0] == 0
    # At 2 both give all they have; labels do not count, so that y's finds v's annotation.
    assert found.average_recall[1:].tolist() == [1.0] * 99
    assert found.auc == pytest.approx((0.5 + 98) / 100)
    assert (found.at(1), found.at(1.5), found.at(2), found.at(50)) == (0.0, 0.5, 1.0, 1.0)


def test_one_detection_may_reach_several_annotations() -> None:
    rows = [("v", "x", 0.0, 10.0), ("v", "x", 0.0, 9.0)]
    annotations = pd.DataFrame(rows, columns=ANNOTATION)
    detections = pd.DataFrame([("v", "x", 0.5, 0.0, 10.0)], columns=DETECTION)
    assert top_recall(annotations, detections, [0.5]).mean.tolist() == [[1.0], [1.0]]


def test_no_detections_have_no_recall() -> None:
    annotations = pd.DataFrame([("v", "x", 0.0, 1.0)], columns=ANNOTATION)
    floats = {"score": float, "start_s": float, "end_s": float}
    none = pd.DataFrame(columns=DETECTION).astype(floats)
    assert top_recall(annotations, none, [0.3, 0.5]).mean.tolist() == [[0, 0], [0, 0]]
    found = average_recall(annotations, none)
    assert (found.auc, found.average_recall.sum()) == (0, 0)
    elsewhere = pd.DataFrame([("w", "x", 0.5, 0.0, 1.0)], columns=DETECTION)
    assert average_recall(annotations, elsewhere).auc == 0


def test_thresholds_of_average_recall_are_those_of_the_kit_to_the_last_bit() -> None:
    assert AR_TIOU == tuple(np.linspace(0.5, 0.95, 10))


def test_no_annotation_or_threshold_is_an_error() -> None:
    annotations, detections = random_case(0, ties=False)
    with pytest.raises(UserError, match="recall is undefined"):
        average_recall(annotations.head(0), detections)
    with pytest.raises(UserError, match="recall is undefined"):
        top_recall(annotations, detections, [])
