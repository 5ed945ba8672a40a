"""Resampled figures against scoring the resampled videos anew."""

from pathlib import Path

import brute_force
import numpy as np
import pandas as pd
import pytest
from scoring_cases import ANNOTATION, DETECTION, golden, random_case, tables

from tad_distill.console import UsageError, UserError
from tad_distill.evaluate import bootstrap as module
from tad_distill.evaluate.bootstrap import (
    Interval,
    bootstrap,
    columns,
    draw,
    interval,
    mean_over_labels,
    population,
    sampled_ap,
)
from tad_distill.evaluate.matching import match
from tad_distill.evaluate.mean_ap import mean_ap

TIOU = [0.25, 0.5, 1.0]


def drawn(table: pd.DataFrame, weights: dict[str, int]) -> pd.DataFrame:
    """The table of a resample: every video as often as it was drawn, each time by another name."""
    times = table["video"].map(weights).to_numpy(int)
    copy = np.concatenate([np.arange(n) for n in times] or [np.empty(0, int)]).astype(int)
    repeated = table.loc[table.index.repeat(times)].reset_index(drop=True)
    return repeated.assign(
        video=[f"{v} #{c}" for v, c in zip(repeated["video"], copy, strict=True)]
    )


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_equals_scoring_the_drawn_videos_anew(seed: int, ties: bool) -> None:
    annotations, detections = random_case(seed, ties)
    matching = match(annotations, detections, TIOU)
    names = population(["a", "b", "c", "empty"], matching)
    weights = draw(len(names), 8, seed)
    ap = sampled_ap(matching, weights[columns(names, matching)])
    mean = mean_over_labels(ap)
    for i in range(8):
        drawn_videos = dict(zip(names, map(int, weights[:, i]), strict=True))
        drawn_videos |= {v: 0 for v in set(detections["video"]) - set(names)}
        truth, found = drawn(annotations, drawn_videos), drawn(detections, drawn_videos)
        if truth.empty:
            assert np.isnan(mean[i]).all() and np.isnan(ap[i]).all()
            continue
        scores = mean_ap(truth, found, TIOU)
        np.testing.assert_allclose(mean[i], scores.mAP, rtol=0, atol=1e-13)
        expected = brute_force.mean_ap(truth, found, TIOU)
        for k, label in enumerate(matching.labels):
            if label in expected:
                np.testing.assert_allclose(ap[i, k], expected[label], rtol=0, atol=1e-12)
            else:
                assert np.isnan(ap[i, k]).all()


def test_equals_scoring_a_whole_data_set_anew(shared: Path) -> None:
    annotations, detections = tables(golden(shared, "thumos_full"))
    matching = match(annotations, detections, TIOU)
    names = population((), matching)
    weights = draw(len(names), 3, 5)
    mean = mean_over_labels(sampled_ap(matching, weights[columns(names, matching)]))
    for i in range(3):
        drawn_videos = dict(zip(names, map(int, weights[:, i]), strict=True))
        scores = mean_ap(drawn(annotations, drawn_videos), drawn(detections, drawn_videos), TIOU)
        np.testing.assert_allclose(mean[i], scores.mAP, rtol=0, atol=1e-13)


def test_every_video_once_gives_the_figure_itself() -> None:
    annotations, detections = random_case(1, ties=True)
    matching = match(annotations, detections, TIOU)
    ones = np.ones((len(matching.videos), 1), np.int32)
    expected = mean_ap(annotations, detections, TIOU).mAP
    np.testing.assert_allclose(
        mean_over_labels(sampled_ap(matching, ones))[0], expected, rtol=0, atol=1e-15
    )


def test_a_draw_has_as_many_videos_as_there_are_and_follows_the_seed() -> None:
    weights = draw(50, 4000, 1)
    assert (weights.sum(axis=0) == 50).all()
    # Each video is drawn Binomial(50, 1/50) times: mean 1, variance 49/50.
    assert weights.mean() == 1 and weights.var() == pytest.approx(0.98, abs=0.02)
    np.testing.assert_array_equal(weights, draw(50, 4000, 1))
    assert (weights != draw(50, 4000, 2)).any()
    with pytest.raises(UsageError, match="at least 1 resample, got 0"):
        draw(50, 0, 1)


def test_the_number_scored_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    matching = match(*random_case(2, ties=True), TIOU)
    whole = bootstrap(matching, (), 50)
    monkeypatch.setattr(module, "SAMPLES_AT_ONCE", 7)
    assert bootstrap(matching, (), 50) == whole


def test_the_interval_holds_the_middle_and_is_moved_by_the_bias() -> None:
    figures = np.arange(101) / 100
    found = interval(figures, own=0.4, share=0.9)
    assert found.percentile == pytest.approx((0.05, 0.95))
    assert found.bias == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((-0.05, 0.85))
    assert found.sd == pytest.approx(np.std(figures, ddof=1))
    assert interval(np.array([0.3]), 0.3, 0.95) == Interval(0.3, 0.3, 0.0, 0.0, (0.3, 0.3))


def test_draws_without_annotation_are_counted_and_left_out() -> None:
    annotations = pd.DataFrame([("v", "x", 0.0, 1.0)], columns=ANNOTATION)
    detections = pd.DataFrame([("v", "x", 0.9, 0.0, 1.0)], columns=DETECTION)
    matching = match(annotations, detections, [0.5])
    found = bootstrap(matching, ["v", "w"], 400, seed=0)
    # v is in none of two draws with probability 1/4.
    assert found.num_videos == 2 and 70 < found.num_undefined < 130
    assert (found.average_mAP.low, found.average_mAP.high) == (1, 1)
    crowd = ["v", *(f"w{i}" for i in range(1000))]
    with pytest.raises(UserError, match="none of 1 draws has an annotation"):
        bootstrap(matching, crowd, 1, seed=1)


def test_videos_that_only_detections_name_are_drawn_too() -> None:
    annotations = pd.DataFrame([("v", "x", 0.0, 1.0)], columns=ANNOTATION)
    rows = [("w", "x", 0.9, 0.0, 1.0), ("v", "x", 0.8, 0.0, 1.0), ("u", "y", 0.7, 0.0, 1.0)]
    matching = match(annotations, pd.DataFrame(rows, columns=DETECTION), [0.5])
    # The detection of u has an unknown label and counts nowhere.
    assert population(["v"], matching) == ["v", "w"]
    weights = np.array([[1, 1, 2, 0], [1, 0, 1, 2]], np.int32)
    figures = mean_over_labels(sampled_ap(matching, weights))[:, 0]
    np.testing.assert_allclose(figures[:3], [1 / 2, 1, 2 / 3], atol=1e-15)
    assert np.isnan(figures[3])


def test_no_detections_stay_at_zero() -> None:
    annotations = pd.DataFrame([("v", "x", 0.0, 1.0)], columns=ANNOTATION)
    floats = {"score": float, "start_s": float, "end_s": float}
    matching = match(annotations, pd.DataFrame(columns=DETECTION).astype(floats), [0.5])
    found = bootstrap(matching, ["v"], 20)
    assert (found.average_mAP.low, found.average_mAP.high, found.average_mAP.bias) == (0, 0, 0)
