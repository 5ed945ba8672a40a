"""Rows of segments on an axis of time, for :mod:`tad_distill.evaluate.plots`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tad_distill.evaluate.figures import (
    FAINT,
    INK,
    LANE_IN,
    MAX_NAME,
    MAX_TITLE,
    WIDTH_IN,
    Look,
    figure,
    paler,
    shortened,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MultipleLocator

# Rows have room for this many segments above one another; more share it.
MAX_LANES = 4
# Room between rows, in lanes.
GAP = 0.5
# Longer videos get minutes on the axis.
MINUTES_FROM_S = 120.0


@dataclass(frozen=True)
class Row:
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
    def of(cls, name: str, segments: "pd.DataFrame") -> "Row":
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


@contextmanager
def timeline(
    path: Path,
    rows: Sequence[Row],
    duration_s: float,
    title: str,
    legend: tuple[int, int] = (0, 0),
) -> "Iterator[tuple[Figure, Axes]]":
    """A figure with an axis of time, a labelled place for each row, room for lines of a legend."""
    from matplotlib.ticker import FuncFormatter

    height = sum(row.room for row in rows) + GAP * len(rows)
    with figure(path, height * LANE_IN + 1.0 + 0.2 * legend[0]) as (drawn, axes):
        yield drawn, axes
        middles = [top + row.room / 2 for row, top in zip(rows, tops(rows), strict=True)]
        axes.set_yticks(middles, [shortened(row.name, MAX_NAME) for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.set(xlim=(0, duration_s), ylim=(height - GAP / 2, -GAP / 2))
        axes.set_title(shortened(title, MAX_TITLE))
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


def tops(rows: Sequence[Row]) -> list[float]:
    """The upper edge of each row."""
    edges, edge = [], 0.0
    for row in rows:
        edges.append(edge)
        edge += row.room + GAP
    return edges


def draw_row(
    axes: "Axes", row: Row, top: float, looks: Mapping[str, Look], duration_s: float
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


def legend_shape(labels: Sequence[str]) -> tuple[int, int]:
    """How many lines and columns a legend of the labels takes across the picture."""
    if not labels:
        return 0, 0
    widest = max(len(shortened(label, MAX_NAME)) for label in labels)
    columns = max(1, min(len(labels), int(WIDTH_IN * 13 / (widest + 8))))
    return -(-len(labels) // columns), columns


def draw_legend(drawn: "Figure", looks: Mapping[str, Look]) -> None:
    """Put the labels under the picture, as many to a line as fit."""
    from matplotlib.patches import Patch

    if not looks:
        return
    handles = [
        Patch(
            label=shortened(label, MAX_NAME),
            facecolor=look.colour,
            hatch=look.hatch,
            edgecolor="white",
            linewidth=0.6,
        )
        for label, look in looks.items()
    ]
    drawn.legend(
        handles=handles,
        loc="outside lower center",
        ncols=legend_shape(list(looks))[1],
        frameon=False,
        fontsize=9,
    )
