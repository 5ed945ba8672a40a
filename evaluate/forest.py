"""The picture of a study: what each row reaches, and its difference to the control."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from tad_distill.evaluate.figures import COLOURS, FAINT, INK, LANE_IN, MAX_NAME, figure, shortened
from tad_distill.evaluate.intervals import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Line:
    """One row of the picture.

    Attributes:
        title: Beside it.
        heading: Of the rows that it is compared with; rows of one heading are neighbours.
        mean: Its bar.
        dots: Single values on the bar.
        difference: To the reference of its heading; None draws nothing.
        highlight: In the second colour.
        reference: It is what the others are compared with.
    """

    title: str
    heading: str | None
    mean: float
    dots: Sequence[float]
    difference: Interval | None
    highlight: bool = False
    reference: bool = False


def draw(path: Path, lines: Sequence[Line], *, title: str, axes: tuple[str, str]) -> None:
    """Draw bars on the left, differences with their intervals, where there are any, on the right.

    Args:
        path: PNG, PDF or SVG.
        lines: From top to bottom.
        title: Above the picture.
        axes: What the bars are, and what the differences are.
    """
    places, headings = _layout(lines)
    num_lanes = len(lines) + len(headings)
    with figure(path, max(num_lanes, 1) * (LANE_IN + 0.06) + 1.2) as (drawn, first):
        sides = [first]
        if any(line.difference is not None for line in lines):
            first.remove()
            sides = list(drawn.subplots(1, 2, sharey=True, width_ratios=(3, 2)))
        drawn.suptitle(title, x=0.01, ha="left", fontsize=11)
        left = sides[0]
        for place, line in zip(places, lines, strict=True):
            _bar(left, place, line)
        reach = max((max([line.mean, *line.dots]) for line in lines), default=1.0) or 1.0
        left.set(xlim=(0, 1.16 * reach), xlabel=axes[0], ylim=(num_lanes - 0.45, -0.55))
        titles = [shortened(line.title, MAX_NAME) for line in lines]
        left.set_yticks(
            [*places, *headings],
            [*titles, *(shortened(heading, MAX_NAME) for heading in headings.values())],
        )
        for label in left.get_yticklabels()[len(places) :]:
            label.set_fontweight("bold")
        for right in sides[1:]:
            for place, line in zip(places, lines, strict=True):
                _difference(right, place, line)
            right.axvline(0, color=INK, linewidth=0.8)
            right.set(xlabel=axes[1])
        for side in sides:
            side.tick_params(axis="y", length=0)
            side.grid(axis="x", color=FAINT, zorder=0)
            side.set_axisbelow(True)


def _layout(lines: Sequence[Line]) -> tuple[list[int], dict[int, str]]:
    """The place of each line, and of each heading."""
    places: list[int] = []
    headings: dict[int, str] = {}
    at = 0
    for heading, of_heading in groupby(lines, key=lambda line: line.heading):
        if heading is not None:
            headings[at] = heading
            at += 1
        for _ in of_heading:
            places.append(at)
            at += 1
    return places, headings


def _bar(axes: "Axes", place: int, line: Line) -> None:
    colour = COLOURS[line.highlight]
    axes.barh(place, line.mean, 0.62, color=colour, zorder=2)
    if len(line.dots) > 1:
        heights = [place + 0.2] * len(line.dots)
        axes.scatter(line.dots, heights, s=10, color="white", ec=INK, lw=0.6, zorder=3)
    tip = max([line.mean, *line.dots])
    axes.annotate(
        f"{line.mean:.1f}",
        (tip, place),
        xytext=(5, 0),
        textcoords="offset points",
        va="center_baseline",
        fontsize=9,
    )


def _difference(axes: "Axes", place: int, line: Line) -> None:
    if line.reference:
        axes.text(0, place, " control", va="center_baseline", fontsize=9)
    if line.difference is None:
        return
    found, colour = line.difference, COLOURS[line.highlight]
    if found.low is not None and found.high is not None:
        axes.plot([found.low, found.high], [place, place], color=colour, lw=2.2, zorder=2)
    axes.scatter([found.mean], [place], s=28, color=colour, ec=INK, lw=0.7, zorder=3)
