"""Pictures: when which action was annotated and found, and bars of mAP with their spread."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tad_distill.evaluate.figures import COLOURS, FAINT, INK, WIDTH_IN, Look, figure, paler

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MultipleLocator

LANE_IN = 0.3
# Rows have room for this many segments above one another; more share it.
MAX_LANES = 4
# Room between rows, in lanes.
GAP = 0.5
# Longer videos get minutes on the axis.
MINUTES_FROM_S = 120.0


@dataclass(frozen=True)
class _Row:
    """One line of a timeline, with the lane of each segment in it.

    Attributes:
        name: Stands to the left.
        segments: Columns label, start_s, end_s; score, where it sets how strong the colour is.
        lanes: ``(N,)`` lanes, so that segments which overlap do not hide each other.
    """

    name: str
    segments: "pd.DataFrame"
    lanes: "np.typing.NDArray[np.int64]"

    @classmethod
    def of(cls, name: str, segments: "pd.DataFrame") -> "_Row":
        """Give each segment the first lane that is free at its start."""
        segments = segments.sort_values(["start_s", "end_s"], kind="stable")
        ends: list[float] = []
        lanes = []
        for start, end in segments[["start_s", "end_s"]].to_numpy():
            lane = next((i for i, taken in enumerate(ends) if taken <= start), len(ends))
            ends[lane : lane + 1] = [end]
            lanes.append(lane)
        return cls(name, segments, np.array(lanes, dtype=np.int64))

    @property
    def num_lanes(self) -> int:
        """How many lanes are in use, at least one."""
        return int(self.lanes.max(initial=0)) + 1

    @property
    def room(self) -> int:
        """Height of the row, in lanes of full height."""
        return min(self.num_lanes, MAX_LANES)


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
    rows = [_Row.of("annotations", annotations)]
    for name, found in detections.items():
        best = found.nlargest(max(len(annotations), 1), "score", keep="first")
        rows.append(_Row.of(name, best.drop(columns="score")))
    labels = sorted({label for row in rows for label in row.segments["label"]})
    looks = {label: Look.of(i) for i, label in enumerate(labels)}
    with _timeline(path, rows, duration_s, title) as (drawn, axes):
        for row, top in zip(rows, _tops(rows), strict=True):
            _draw_row(axes, row, top, looks, duration_s)
        axes.axhline(rows[0].room + GAP / 2, color=INK, linewidth=0.8)
        _legend(drawn, looks)


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
    by_label = [(str(label), part) for label, part in shown.groupby("label", sort=True)]
    rows = [_Row.of(label, part) for label, part in by_label]
    looks = {row.name: Look.of(i) for i, row in enumerate(rows)}
    said = f"{len(shown)} of {len(found)} detections, scores from {min_score:g}"
    title = f"{title}: {said}" if title else said
    with _timeline(path, rows or [_Row.of("", found.head(0))], duration_s, title) as (_, axes):
        for row, top in zip(rows, _tops(rows), strict=True):
            _draw_row(axes, row, top, looks, duration_s)
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
        axes.set_yticks(range(len(scores)), list(scores))
        axes.tick_params(axis="y", length=0)
        axes.set(xlim=(0, 1.16 * reach), ylim=(len(scores) - 0.45, -0.55), xlabel=axis, title=title)
        axes.grid(axis="x", color=FAINT, zorder=0)
        axes.set_axisbelow(True)


@contextmanager
def _timeline(
    path: Path, rows: Sequence[_Row], duration_s: float, title: str
) -> "Iterator[tuple[Figure, Axes]]":
    """A figure with an axis of time and a labelled place for each row."""
    from matplotlib.ticker import FuncFormatter

    height = sum(row.room for row in rows) + GAP * len(rows)
    with figure(path, height * LANE_IN + 1.0) as (drawn, axes):
        yield drawn, axes
        middles = [top + row.room / 2 for row, top in zip(rows, _tops(rows), strict=True)]
        axes.set_yticks(middles, [row.name for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.set(xlim=(0, duration_s), ylim=(height - GAP / 2, -GAP / 2), title=title)
        if duration_s >= MINUTES_FROM_S:
            axes.xaxis.set_major_locator(_minute_ticks(duration_s))
            axes.xaxis.set_major_formatter(
                FuncFormatter(lambda s, _: f"{int(s) // 60}:{int(s) % 60:02d}")
            )
            axes.set_xlabel("time (min:s)")
        else:
            axes.set_xlabel("time (s)")
        axes.grid(axis="x", color=FAINT)
        axes.set_axisbelow(True)


def _minute_ticks(duration_s: float) -> "MultipleLocator":
    """A tick every so many seconds that people count in, eight to about fifteen of them."""
    from matplotlib.ticker import MultipleLocator

    steps = (15, 30, 60, 120, 300, 600, 900, 1800, 3600)
    return MultipleLocator(next((s for s in steps if duration_s / s <= 12), duration_s / 10))


def _tops(rows: Sequence[_Row]) -> list[float]:
    """The upper edge of each row."""
    tops, top = [], 0.0
    for row in rows:
        tops.append(top)
        top += row.room + GAP
    return tops


def _draw_row(
    axes: "Axes", row: _Row, top: float, looks: Mapping[str, Look], duration_s: float
) -> None:
    """Draw the segments of a row; those with a score are the paler, the lower it is."""
    height = row.room / row.num_lanes
    scores = row.segments.get("score")
    for i, (label, start, end) in enumerate(
        row.segments[["label", "start_s", "end_s"]].itertuples(index=False)
    ):
        score = None if scores is None else float(scores.iloc[i])
        strength = 1.0 if score is None else 0.25 + 0.75 * min(max(score, 0.0), 1.0)
        y = top + row.lanes[i] * height
        axes.barh(
            y + height / 2,
            max(end - start, duration_s / 1000),
            0.86 * height,
            left=start,
            facecolor=paler(looks[label].colour, strength),
            hatch=looks[label].hatch,
            edgecolor="white",
            linewidth=0.6,
        )
        if score is not None and height > 0.7 and (end - start) / duration_s > 0.04:
            axes.text(
                (start + end) / 2,
                y + height / 2,
                f"{score:.2f}",
                ha="center",
                va="center_baseline",
                fontsize=7.5,
                color="white" if strength > 0.75 else INK,
            )


def _legend(drawn: "Figure", looks: Mapping[str, Look]) -> None:
    """Put the labels under the picture, as many to a line as fit."""
    from matplotlib.patches import Patch

    if not looks:
        return
    widest = max(len(label) for label in looks)
    columns = max(1, min(len(looks), int(WIDTH_IN * 13 / (widest + 6))))
    handles = [
        Patch(
            label=label,
            facecolor=look.colour,
            hatch=look.hatch,
            edgecolor="white",
            linewidth=0.6,
        )
        for label, look in looks.items()
    ]
    drawn.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )
