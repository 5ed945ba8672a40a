"""The charts of a report as pictures, by matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tad_distill.evaluate.charts import BarRow, Bars, Chart, Lines, Stack
from tad_distill.evaluate.figures import (
    COLOURS,
    FAINT,
    INK,
    LANE_IN,
    MAX_NAME,
    figure,
    paler,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DASHES = ("-", (0, (6, 2)), (0, (1.5, 2)), (0, (6, 2, 1.5, 2)))
MARKS = ("D", "^", "s")
# The colours of what detections can be, as on the page.
PARTS = ("#009E73", "#56B4E9", "#D55E00", "#E69F00", "#CC79A7", "#A3A9B0")
# A picture of more rows shows the first and the last of them.
MAX_ROWS = 60


def draw(path: Path, chart: Chart) -> None:
    """Draw a chart.

    Args:
        path: PNG, PDF or SVG.
        chart: What to show.
    """
    if isinstance(chart, Lines):
        _lines(path, chart)
    elif isinstance(chart, Stack):
        _stack(path, chart)
    else:
        _bars(path, chart)


def _lines(path: Path, chart: Lines) -> None:
    with figure(path, 4.6) as (_, axes):
        for i, series in enumerate(chart.series):
            shade = 1 - 0.72 * i / max(len(chart.series) - 1, 1)
            colour = paler(COLOURS[0], shade) if chart.ordered else _colour(i)
            dashes = "-" if chart.ordered else DASHES[i % len(DASHES)]
            axes.plot(*zip(*series.points, strict=True), color=colour, ls=dashes, label=series.name)
        axes.set(xlabel=chart.axes[0], ylabel=chart.axes[1], title=chart.title)
        if chart.log:
            axes.set_yscale("log")
        if chart.unit_square:
            axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.grid(color=FAINT)
        axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))


def _stack(path: Path, chart: Stack) -> None:
    with figure(path, 4.0) as (_, axes):
        places = range(len(chart.columns))
        below = [0.0] * len(chart.columns)
        for k, name in enumerate(chart.parts):
            shares = [100 * row[k] if row else 0.0 for row in chart.shares]
            axes.bar(places, shares, 0.8, bottom=below, color=PARTS[k % len(PARTS)], label=name)
            below = [low + share for low, share in zip(below, shares, strict=True)]
        axes.set_xticks(places, list(chart.columns))
        axes.set(ylim=(0, 100), xlabel=chart.axes[0], ylabel=f"{chart.axes[1]} (%)")
        axes.set_title(chart.title)
        handles, names = axes.get_legend_handles_labels()
        axes.legend(
            handles[::-1],
            names[::-1],
            frameon=False,
            fontsize=9,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
        )


def _bars(path: Path, chart: Bars) -> None:
    left_out = max(len(chart.rows) - MAX_ROWS, 0)
    half = MAX_ROWS // 2
    rows = (*chart.rows[:half], *chart.rows[-half:]) if left_out else chart.rows
    title = f"{chart.title} ({left_out} in the middle left out)" if left_out else chart.title
    with figure(path, len(rows) * LANE_IN + 1.2) as (drawn, axes):
        reach = 100 * chart.reach
        for place, row in enumerate(rows):
            for i, value in enumerate(row.values):
                if value is None:
                    continue
                if i:
                    mark = MARKS[(i - 1) % len(MARKS)]
                    axes.scatter(100 * value, place, s=34, marker=mark, color=_colour(i),
                                 ec="white", lw=0.8, zorder=3)  # fmt: skip
                else:
                    axes.barh(place, 100 * value, 0.62, color=COLOURS[0], zorder=2)
        if chart.base and chart.base[0] is not None:
            axes.axvline(100 * chart.base[0], color=INK, ls="--", lw=1, zorder=4)
        axes.set_yticks(range(len(rows)), _row_names(rows))
        axes.tick_params(axis="y", length=0)
        axes.set(xlim=(0, 1.04 * reach), ylim=(len(rows) - 0.45, -0.55), title=title)
        axes.set_xlabel(chart.axis)
        axes.grid(axis="x", color=FAINT, zorder=0)
        axes.set_axisbelow(True)
        _legend(drawn, chart)


def _row_names(rows: Sequence[BarRow]) -> list[str]:
    """The names of rows; that of the first of a group is preceded by the group's."""
    names, group = [], ""
    for row in rows:
        name = f"{row.name} ({row.detail})" if row.detail else shortened(row.name, MAX_NAME)
        names.append(f"{row.group}:  {name}" if row.group not in ("", group) else name)
        group = row.group
    return names


def _legend(drawn: "Figure", chart: Bars) -> None:
    """Name the detectors below the chart."""
    from matplotlib.lines import Line2D

    if len(chart.detectors) < 2:
        return
    handles = [
        Line2D(
            [],
            [],
            ls="",
            marker=MARKS[(i - 1) % len(MARKS)] if i else "s",
            color=_colour(i),
            markersize=7,
            label=shortened(name, MAX_NAME),
        )  # fmt: skip
        for i, name in enumerate(chart.detectors)
    ]
    drawn.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def _colour(place: int) -> str:
    """The colour of a detector, as on the page."""
    order = (0, 5, 2, 1, 3, 4, 6, 7)
    return COLOURS[order[place % len(order)]]
