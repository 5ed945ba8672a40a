"""Pictures: when which action was annotated and found, and bars of mAP with their spread."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tad_distill.evaluate.figures import (
    COLOURS,
    FAINT,
    INK,
    LANE_IN,
    MAX_NAME,
    Look,
    figure,
    in_reading_order,
    shortened,
)
from tad_distill.evaluate.timelines import (
    GAP,
    Row,
    draw_legend,
    draw_row,
    legend_shape,
    timeline,
    tops,
)

if TYPE_CHECKING:
    import pandas as pd


def compare(
    path: Path,
    annotations: "pd.DataFrame",
    detections: Mapping[str, "pd.DataFrame"],
    *,
    duration_s: float,
    title: str = "",
) -> None:
    """Draw one video's annotations above the detections of several detectors.

    The manner is that of the paper's Fig. 5. So that detectors with differing scales of score
    stand side by side fairly, each shows its N highest-scoring detections, N being the number of
    annotations.

    Args:
        path: PNG, PDF or SVG.
        annotations: label, start_s, end_s of one video.
        detections: By name of the detector: label, score, start_s, end_s of the same video.
        duration_s: Length of the video.
        title: Above the picture.
    """
    rows = [Row.of("annotations", annotations)]
    for name, part in detections.items():
        best = part.nlargest(max(len(annotations), 1), "score", keep="first")
        rows.append(Row.of(name, best.drop(columns="score")))
    found = {str(label) for row in rows for label in row.segments["label"]}
    labels = sorted(found, key=in_reading_order)
    looks = {label: Look.of(i) for i, label in enumerate(labels)}
    with timeline(path, rows, duration_s, title, legend_shape(labels)) as (drawn, axes):
        for row, top in zip(rows, tops(rows), strict=True):
            draw_row(axes, row, top, looks, duration_s)
        axes.axhline(rows[0].room + GAP / 2, color=INK, linewidth=0.8)
        draw_legend(drawn, looks)


def detections(
    path: Path,
    found: "pd.DataFrame",
    *,
    duration_s: float,
    title: str = "",
    min_score: float = 0.1,
    max_shown: int = 40,
) -> None:
    """Draw the detections of one video, a row per label; the paler, the lower the score.

    Args:
        path: PNG, PDF or SVG.
        found: label, score, start_s, end_s of one video.
        duration_s: Length of the video.
        title: Above the picture; how many detections are shown is added to it.
        min_score: Detections below are not drawn.
        max_shown: At most so many are drawn, the highest-scoring ones.
    """
    shown = found[found["score"] >= min_score].nlargest(max_shown, "score", keep="first")
    labels = sorted({str(label) for label in shown["label"]}, key=in_reading_order)
    rows = [Row.of(label, shown[shown["label"] == label]) for label in labels]
    looks = {row.name: Look.of(i) for i, row in enumerate(rows)}
    said = f"{len(shown)} of {len(found)} detections, scores from {min_score:g}"
    title = f"{shortened(title, MAX_NAME)}: {said}" if title else said
    with timeline(path, rows or [Row.of("", found.head(0))], duration_s, title) as (_, axes):
        for row, top in zip(rows, tops(rows), strict=True):
            draw_row(axes, row, top, looks, duration_s)
            axes.axhline(top - GAP / 2, color=FAINT, linewidth=0.8, zorder=0)
        if not rows:
            axes.text(duration_s / 2, 0.5, "nothing to show", ha="center", va="center")


def bars(
    path: Path,
    scores: Mapping[str, Sequence[float]],
    *,
    title: str = "",
    axis: str = "average mAP (%)",
    highlight: Collection[str] = (),
) -> None:
    """Draw a bar per row: the mean over runs, the standard deviation, and each run as a dot.

    Args:
        path: PNG, PDF or SVG.
        scores: By name of the row, a value per run (seed), as fractions of 1; at least one each.
        title: Above the picture.
        axis: What the values are.
        highlight: Rows in the second colour.
    """
    values = [100 * np.asarray(runs, dtype=np.float64) for runs in scores.values()]
    means = [float(runs.mean()) for runs in values]
    stds = [float(runs.std(ddof=1)) if len(runs) > 1 else 0.0 for runs in values]
    tips = [
        max(mean + std, float(runs.max()))
        for mean, std, runs in zip(means, stds, values, strict=True)
    ]
    reach = max(tips) or 1.0
    with figure(path, len(scores) * (LANE_IN + 0.12) + 0.9) as (_, axes):
        for place, (name, runs) in enumerate(zip(scores, values, strict=True)):
            axes.barh(place, means[place], 0.62, color=COLOURS[name in highlight], zorder=2)
            text = f"{means[place]:.1f}"
            if len(runs) > 1:
                axes.errorbar(means[place], place, xerr=stds[place], color=INK, capsize=3, zorder=4)
                axes.scatter(
                    runs,
                    np.full(len(runs), place + 0.2),
                    s=14,
                    color="white",
                    ec=INK,
                    lw=0.7,
                    zorder=3,
                )
                text += f" ± {stds[place]:.1f}"
            axes.text(tips[place] + 0.015 * reach, place, text, va="center_baseline", fontsize=9)
        axes.set_yticks(range(len(scores)), [shortened(name, MAX_NAME) for name in scores])
        axes.tick_params(axis="y", length=0)
        axes.set(xlim=(0, 1.16 * reach), ylim=(len(scores) - 0.45, -0.55), xlabel=axis, title=title)
        axes.grid(axis="x", color=FAINT, zorder=0)
        axes.set_axisbelow(True)
