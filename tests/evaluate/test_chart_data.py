"""The data of charts: what is drawn is what was scored."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_detectors import TRUTH, detector, hits

from tad_distill.evaluate import chart_data, chart_plots
from tad_distill.evaluate.charts import Bars, Lines, Stack
from tad_distill.evaluate.detectors import Detector

OTHER_LABEL = [("a", "y", 30.0, 35.0), ("b", "y", 30.0, 40.0), ("b", "y", 45.0, 50.0)]
FOUND = hits("a01", "b0", "c1") + [
    ("a", "y", 0.8, 30.0, 34.0),
    ("b", "y", 0.9, 50.0, 59.0),
    ("b", "y", 0.3, 31.0, 40.0),
]


@pytest.fixture
def two() -> list[Detector]:
    truth = [*TRUTH, *OTHER_LABEL]
    first = detector(truth, FOUND, tiou=(0.3, 0.5, 0.7))
    return [first, detector(truth, FOUND[:3], name="other", tiou=(0.3, 0.5, 0.7))]


def test_the_area_under_a_curve_is_the_map(two: list[Detector]) -> None:
    curves = chart_data.precision_recall(two[0].result.matching)
    # Each of the grid's steps stands for one hundredth of recall.
    assert curves[:, 1:].mean(axis=1) == pytest.approx(two[0].result.scores.mAP, abs=0.01)
    assert (np.diff(curves, axis=1) <= 1e-12).all()


def test_a_detector_that_finds_nothing_has_a_flat_curve() -> None:
    none = detector(TRUTH, [])
    assert not chart_data.precision_recall(none.result.matching).any()


def test_labels_stand_best_first_with_the_values_of_all_detectors(two: list[Detector]) -> None:
    chart = chart_data.per_class(two)
    assert [row.name for row in chart.rows] == ["x", "y"]
    assert [row.number for row in chart.rows] == [8, 3]
    for row in chart.rows:
        expected = [float(d.result.scores.ap_per_class[row.name].mean()) for d in two]
        assert row.values == pytest.approx(expected)
    assert chart.base == pytest.approx([d.result.scores.average_mAP for d in two])


def test_prices_are_those_of_the_diagnosis(two: list[Detector]) -> None:
    chart = chart_data.prices(two)
    by_name = {row.name: row.values for row in chart.rows}
    for i, made in enumerate(two):
        errors = made.diagnosis.errors
        assert by_name["background"][i] == errors.gain["background"]
        assert by_name["all of these"][i] == errors.gain_all
        assert by_name["missed annotations"][i] == errors.missed


def test_empty_bins_have_no_row(two: list[Detector]) -> None:
    for chart in (chart_data.strengths(two), chart_data.misses(two)):
        assert all(row.number for row in chart.rows)
        assert all(
            value is not None and 0 <= value <= 1 for row in chart.rows for value in row.values
        )


HISTORY = [
    {"step": 10, "epoch": 0, "loss": 2.0, "joint/cls": 1.5, "zero": 0.0, "lr": 0.1},
    {"step": 20, "epoch": 1, "validation_mAP": 0.25},
    {"step": 20, "epoch": 1, "loss": 1.0, "joint/cls": float("nan"), "zero": 0.0, "lr": 0.1},
    {"step": 30, "epoch": 2, "loss": 0.5, "joint/cls": 0.4, "zero": 0.0, "lr": 0.1},
]


def test_losses_are_drawn_without_what_a_logarithm_cannot_show() -> None:
    losses, validation = chart_data.training(HISTORY)
    assert {s.name: s.points for s in losses.series} == {
        "loss": ((10, 2.0), (20, 1.0), (30, 0.5)),
        "joint/cls": ((10, 1.5), (30, 0.4)),
    }
    assert validation.series[0].points == ((20, 0.25),)
    assert chart_data.training([]) == []


def test_every_chart_becomes_a_picture(two: list[Detector], tmp_path: Path) -> None:
    many = chart_data.per_class(two)
    many = replace(many, key="many", rows=many.rows * 50)
    charts: list[Lines | Stack | Bars] = [
        chart_data.precision_recall_charts(two)[1],
        many,
        *chart_data.profiles([detector(TRUTH, [])]),
        chart_data.strengths(two[:1]),
        chart_data.training(HISTORY)[0],
    ]
    for chart in charts:
        path = tmp_path / f"{chart.key}.png"
        chart_plots.draw(path, chart)
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000
