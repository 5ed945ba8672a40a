"""Where a detector is read, and which videos are worth a look."""

from dataclasses import replace

import numpy as np
import pytest
from made_detectors import TRUTH, detector, hits
from scoring_cases import random_case

from tad_distill.evaluate.detectors import f1_by_video, operate, telling


@pytest.mark.parametrize("seed", range(30))
def test_no_other_score_gives_a_better_f1(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score_of = rng.integers(0, 6, 20) / 6
    right = rng.random(20) < 0.4
    found = operate(score_of, right, 12)
    by_hand = {
        float(at): 2 * int(right[score_of >= at].sum()) / (int((score_of >= at).sum()) + 12)
        for at in np.unique(score_of)
    }
    assert found.f1 == pytest.approx(max(by_hand.values()))
    if right.any():
        assert by_hand[found.min_score] == pytest.approx(found.f1)


@pytest.mark.parametrize("count", [0, 3])
def test_a_detector_that_is_never_right_is_read_at_its_best_score(count: int) -> None:
    found = operate(np.linspace(0.1, 0.3, count), np.zeros(count, dtype=bool), 4)
    assert found.f1 == 0
    assert found.min_score == (0.3 if count else 0.0)


def test_single_detections_are_judged_at_the_threshold_next_to_a_half() -> None:
    truth = [("a", "x", 0.0, 10.0)]
    found = [("a", "x", 0.9, 0.0, 5.5)]  # overlaps 0.55
    assert detector(truth, found, tiou=(0.3, 0.5, 0.7)).right.tolist() == [True]
    assert detector(truth, found, tiou=(0.6, 0.9)).right.tolist() == [False]


def test_f1_of_a_video_counts_what_is_shown_in_it() -> None:
    low = [("a", "x", 0.01, 50.0, 55.0)] * 3  # too unsure to be shown
    found = f1_by_video(detector(TRUTH, hits("a01", "b0") + low))
    assert found == pytest.approx({"a": 1.0, "b": 2 / 3, "c": 0.0, "d": 0.0})


def test_the_telling_videos_are_those_where_two_detectors_differ_most() -> None:
    own = detector(TRUTH, hits("a01", "b0", "d0"))
    other = detector(TRUTH, hits("b0", "c01", "d0"), name="other")
    chosen = telling([own, other])
    assert [t.video for t in chosen[:2]] == ["a", "c"]
    assert chosen[0].why == "best against other: F1 +1.00"
    assert chosen[1].why == "worst against other: F1 −1.00"
    assert len({t.video for t in chosen}) == len(chosen) <= 4


def test_a_single_video_is_chosen_once() -> None:
    one = detector(TRUTH[:2], hits("a0"))
    assert [t.video for t in telling([one])] == ["a"]
    assert [t.video for t in telling([one, replace(one, name="same")])] == ["a"]


@pytest.mark.parametrize("seed", range(5))
def test_right_detections_are_as_many_as_annotations_found(seed: int) -> None:
    annotations, detections = random_case(seed, ties=True)
    rows = [tuple(row) for row in annotations.itertuples(index=False)]
    found = [tuple(row) for row in detections.itertuples(index=False)]
    found += [(rows[0][0], rows[0][1], 1.0, rows[0][2], rows[0][3])]
    made = detector(rows, found)
    assert made.right.sum() == (made.result.matching.taken_by[made.level] >= 0).sum()
