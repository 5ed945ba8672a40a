"""What a report shows, as plain data: drawn as SVG on the page and by matplotlib as PNG."""

from dataclasses import dataclass
from typing import NamedTuple

Points = tuple[tuple[float, float], ...]


class Series(NamedTuple):
    """A line: its name in the legend, and its points."""

    name: str
    points: Points


@dataclass(frozen=True)
class Lines:
    """Lines over a common axis.

    Attributes:
        key: Names the file and the place on the page.
        title: Above the chart.
        axes: What x and y are.
        series: The lines.
        ordered: The series are steps of one quantity, to be drawn as shades of one colour.
        unit_square: Both axes go from 0 to 1.
        log: The y axis is logarithmic.
    """

    key: str
    title: str
    axes: tuple[str, str]
    series: tuple[Series, ...]
    ordered: bool = False
    unit_square: bool = False
    log: bool = False


@dataclass(frozen=True)
class Stack:
    """Columns of shares that add up to one.

    Attributes:
        key: Names the file and the place on the page.
        title: Above the chart.
        axes: What x and y are.
        columns: Names of the columns.
        parts: Names of the parts, from the bottom.
        shares: By column the share of each part; ``None`` for an empty column.
    """

    key: str
    title: str
    axes: tuple[str, str]
    columns: tuple[str, ...]
    parts: tuple[str, ...]
    shares: tuple[tuple[float, ...] | None, ...]


class BarRow(NamedTuple):
    """One row of a bar chart.

    Attributes:
        group: Rows of one group stand together under its name.
        name: Of the row.
        detail: What the name means, in small.
        number: How many things the values rest on; ``None`` where that says nothing.
        values: A value per detector; ``None`` where there is none.
    """

    group: str
    name: str
    detail: str
    number: int | None
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Bars:
    """Rows of values: a bar for the first detector, marks for the others.

    Attributes:
        key: Names the file and the place on the page.
        title: Above the chart.
        axis: What the values are, with the unit that 100 times a value has.
        detectors: Their names; the first is the one that is reported on.
        rows: From the top.
        base: The value of all rows together per detector, drawn as a line; empty for none.
    """

    key: str
    title: str
    axis: str
    detectors: tuple[str, ...]
    rows: tuple[BarRow, ...]
    base: tuple[float | None, ...] = ()

    @property
    def reach(self) -> float:
        """The largest value, where the axis ends; never 0."""
        values = [value for row in self.rows for value in row.values if value is not None]
        values += [value for value in self.base if value is not None]
        return max([*values, 1e-9])


Chart = Lines | Stack | Bars
