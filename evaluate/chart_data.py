"""The charts of a report, shaped from scores and diagnoses; drawn elsewhere."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tad_distill.evaluate.charts import BarRow, Bars, Lines, Points, Series, Stack
from tad_distill.evaluate.detectors import Detector, taken
from tad_distill.evaluate.diagnosis import TYPES
from tad_distill.evaluate.diagnosis.errors import NUM_GROUPS
from tad_distill.evaluate.matching import Floats, Matching

# Precision is drawn at so many places of recall.
NUM_RECALLS = 101

# A legend of more thresholds than this leaves some out.
MAX_LEVELS = 6

# Columns of a run's history that are no losses.
NO_LOSS = ("epoch", "step", "lr", "steps_per_s", "validation_mAP")


def precision_recall(matching: Matching) -> Floats:
    """Mean over labels of the precision envelope; the area under it is the mAP.

    Returns:
        ``(T, NUM_RECALLS)`` precision at recalls from 0 to 1.
    """
    num_labels = len(matching.labels)
    positive = np.bincount(matching.owner_label, minlength=num_labels)
    begin = np.searchsorted(matching.label, np.arange(num_labels))
    grid = np.linspace(0, 1, NUM_RECALLS)
    curves = np.zeros((len(matching.tiou), NUM_RECALLS))
    for t, holders in enumerate(matching.taken_by):
        hits = np.sort(taken(holders))
        bounds = np.searchsorted(matching.label[hits], np.arange(num_labels + 1))
        for k in np.flatnonzero(np.diff(bounds)):
            place = hits[bounds[k] : bounds[k + 1]] - begin[k]
            precision = np.arange(1, len(place) + 1) / (place + 1)
            envelope = np.maximum.accumulate(precision[::-1])[::-1]
            # At recall r stands the best precision at r or more.
            needed = np.ceil(grid * positive[k] - 1e-9).astype(int).clip(1)
            reached = needed <= len(place)
            curves[t, reached] += envelope[needed[reached] - 1]
    return curves / num_labels


def precision_recall_charts(detectors: Sequence[Detector]) -> list[Lines]:
    """By threshold for the first detector; at one threshold for all of them."""
    first, axes = detectors[0], ("recall", "precision, mean over labels")
    curves = precision_recall(first.result.matching)
    every = -(-len(curves) // MAX_LEVELS)
    scores = first.result.scores
    levels = tuple(
        Series(f"tIoU {scores.tiou[t]:.2g}, mAP {100 * scores.mAP[t]:.1f}", _curve(curves[t]))
        for t in range(0, len(curves), every)
    )
    title = f"{first.name}, by overlap"
    charts = [Lines("pr_tiou", title, axes, levels, ordered=True, unit_square=True)]
    if len(detectors) > 1:
        lines = tuple(
            Series(
                f"{d.name}, mAP {100 * d.result.scores.mAP[d.level]:.1f}",
                _curve(precision_recall(d.result.matching)[d.level]),
            )
            for d in detectors
        )
        title = f"all detectors, tIoU {first.tiou:.2g}"
        charts.append(Lines("pr_detectors", title, axes, lines, unit_square=True))
    return charts


def _curve(precision: Floats) -> Points:
    recall = np.linspace(0, 1, len(precision))
    return tuple((float(x), float(y)) for x, y in zip(recall, precision, strict=True))


def per_class(detectors: Sequence[Detector]) -> Bars:
    """Average precision of each label, the best first."""
    first = detectors[0].result
    number = first.annotations["label"].value_counts()
    mean = {label: float(ap.mean()) for label, ap in first.scores.ap_per_class.items()}
    rows = [
        BarRow(
            "",
            label,
            "",
            int(number[label]),
            tuple(float(d.result.scores.ap_per_class[label].mean()) for d in detectors),
        )
        for label in sorted(mean, key=lambda name: (-mean[name], name))
    ]
    base = tuple(d.result.scores.average_mAP for d in detectors)
    names = tuple(d.name for d in detectors)
    axis = "average precision, mean over tIoU, %"
    return Bars("per_class", "Average precision by label", axis, names, tuple(rows), base)


def profiles(detectors: Sequence[Detector]) -> list[Stack]:
    """What the best detections of each detector are."""
    groups = tuple(f"{g + 1}G" for g in range(NUM_GROUPS))
    axes = ("G best detections of each label, then the next G", "share")
    return [
        Stack(
            f"profile_{i}" if i else "profile",
            detector.name,
            axes,
            groups,
            TYPES,
            tuple(
                None if np.isnan(row).any() else tuple(map(float, row))
                for row in detector.diagnosis.errors.shares
            ),
        )
        for i, detector in enumerate(detectors)
    ]


def prices(detectors: Sequence[Detector]) -> Bars:
    """What average mAP gains without each type of error, and what misses cost."""
    errors = [d.diagnosis.errors for d in detectors]
    rows = [
        BarRow("gained without", name, "", None, tuple(e.gain[name] for e in errors))
        for name in TYPES[1:]
    ]
    everything = tuple(e.gain_all for e in errors)
    rows.append(BarRow("gained without", "all of these", "", None, everything))
    missed = tuple(e.missed for e in errors)
    rows.append(BarRow("lost to", "missed annotations", "", None, missed))
    names = tuple(d.name for d in detectors)
    return Bars("prices", "What errors cost", "points of average mAP", names, tuple(rows))


def strengths(detectors: Sequence[Detector]) -> Bars:
    """Sensitivity: normalised mAP by characteristic."""
    base = tuple(d.diagnosis.mAP_N for d in detectors)
    title = "Strengths by kind of annotation"
    rows = _strata(detectors, "mAP_N")
    names = tuple(d.name for d in detectors)
    return Bars("strengths", title, "average mAP, normalised, %", names, rows, base)


def misses(detectors: Sequence[Detector]) -> Bars:
    """False negatives by characteristic."""
    base = tuple(d.diagnosis.missed for d in detectors)
    title = "Misses by kind of annotation"
    rows = _strata(detectors, "missed")
    names = tuple(d.name for d in detectors)
    return Bars("misses", title, "annotations missed, %", names, rows, base)


def _strata(detectors: Sequence[Detector], what: str) -> tuple[BarRow, ...]:
    """A row for each bin that holds annotations."""
    rows = []
    for i, stratum in enumerate(detectors[0].diagnosis.strata):
        columns = [getattr(d.diagnosis.strata[i], what) for d in detectors]
        for b, number in enumerate(stratum.num_annotations):
            if number:
                values = tuple(float(column[b]) for column in columns)
                of = stratum.of
                rows.append(BarRow(of.name, of.bins[b], of.ranges[b], int(number), values))
    return tuple(rows)


def training(history: Sequence[Mapping[str, Any]]) -> list[Lines]:
    """The losses of a run over its steps, and its validation mAP if it has looked."""
    names = dict.fromkeys(key for row in history for key in row if key not in NO_LOSS)
    losses = [Series(name, _over_steps(history, name, floor=True)) for name in names]
    losses = [series for series in losses if len(series.points) > 1]
    charts = []
    if losses:
        axes = ("step", "loss, weighted, log scale")
        charts.append(Lines("training", "Losses", axes, tuple(losses), log=True))
    looks = _over_steps(history, "validation_mAP")
    if looks:
        shown = (Series("validation", looks),)
        charts.append(Lines("validation", "Validation", ("step", "average mAP"), shown))
    return charts


def _over_steps(history: Sequence[Mapping[str, Any]], name: str, floor: bool = False) -> Points:
    """The points of one column; those that a logarithm cannot show are left out."""
    return tuple(
        (float(row["step"]), float(row[name]))
        for row in history
        if name in row and np.isfinite(row[name]) and (row[name] > 0 or not floor)
    )
