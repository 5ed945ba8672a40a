"""Charts as inline SVG and tables, coloured by the page's style sheet alone.

Lines and stacks have a fixed drawing area that is scaled as a whole. Bars are rows of a table, so
that they can be read without seeing them, with lengths in percent that follow the page's width.
Series are told apart by colour and dashes or shapes.
"""

import math
from collections.abc import Sequence

from tad_distill.evaluate.charts import BarRow, Bars, Lines, Stack
from tad_distill.evaluate.page.markup import lines, percent, tag, text

# The drawing area of lines and stacks, and its margins: left, top, right, bottom.
WIDTH, HEIGHT = 380, 270
LEFT, TOP, RIGHT, BOTTOM = 46, 10, 12, 42

# Rows that rest on fewer annotations are drawn paler.
FEW = 5


def line_chart(chart: Lines) -> str:
    """Draw lines with a legend below."""
    points = [point for series in chart.series for point in series.points]
    x_range, y_range = ((0.0, 1.0), (0.0, 1.0))
    if not chart.unit_square:
        x_range = min(x for x, _ in points), max(x for x, _ in points)
        y_range = _padded([y for _, y in points], chart.log)
    parts = _frame(chart.axes)
    for value in ticks(*x_range):
        at = _x(value, x_range)
        parts.append(_line(at, HEIGHT - BOTTOM, at, HEIGHT - BOTTOM + 4, "axis"))
        parts.append(_label(at, HEIGHT - BOTTOM + 17, f"{value:g}", "middle"))
    for value in log_ticks(*y_range) if chart.log else ticks(*y_range):
        at = _y(value, y_range, chart.log)
        parts.append(_line(LEFT, at, WIDTH - RIGHT, at, "grid"))
        parts.append(_label(LEFT - 6, at + 4, f"{value:g}", "end"))
    for i, series in enumerate(chart.series):
        path = "M" + "L".join(
            f"{_x(x, x_range):.1f},{_y(y, y_range, chart.log):.1f}" for x, y in series.points
        )
        parts.append(tag("path", {"d": path, **_look(chart, i)}))
    return _figure(chart.title, _svg(chart.title, parts), line_legend(chart))


def line_legend(chart: Lines) -> str:
    """The names of the series beside a stroke of each."""
    return tag(
        "ul",
        {"class": "legend"},
        *(
            tag(
                "li",
                None,
                tag(
                    "svg",
                    {"class": "key", "width": 26, "height": 10, "aria-hidden": "true"},
                    tag("path", {"d": "M1,5H25", **_look(chart, i)}),
                ),
                text(series.name),
            )
            for i, series in enumerate(chart.series)
        ),
    )


def _look(chart: Lines, place: int) -> dict[str, object]:
    if chart.ordered:
        shade = 1 - 0.72 * place / max(len(chart.series) - 1, 1)
        return {"class": "line s0", "style": f"stroke-opacity:{shade:.2f}"}
    return {"class": f"line s{place % 8} d{place % 4}"}


def stack_chart(chart: Stack) -> str:
    """Draw columns of stacked shares."""
    parts = _frame(chart.axes)
    for value in (0, 0.2, 0.4, 0.6, 0.8, 1):
        at = _y(value, (0, 1), False)
        parts.append(_line(LEFT, at, WIDTH - RIGHT, at, "grid"))
        parts.append(_label(LEFT - 6, at + 4, f"{100 * value:g} %", "end"))
    step = (WIDTH - LEFT - RIGHT) / len(chart.columns)
    for i, (name, shares) in enumerate(zip(chart.columns, chart.shares, strict=True)):
        left = LEFT + (i + 0.1) * step
        parts.append(_label(left + 0.4 * step, HEIGHT - BOTTOM + 17, name, "middle"))
        below = 0.0
        for k, share in enumerate(shares or ()):
            top = _y(below + share, (0, 1), False)
            said = f"{name}, {chart.parts[k]}: {100 * share:.1f} %"
            box = {"x": left, "y": top, "width": 0.8 * step,
                   "height": _y(below, (0, 1), False) - top, "class": f"t{k}"}  # fmt: skip
            parts.append(tag("rect", box, tag("title", None, text(said))))
            below += share
    return _figure(chart.title, _svg(f"{chart.title}: {chart.axes[1]} by type", parts), "")


def stack_legend(chart: Stack) -> str:
    """The parts of a stack, from the top as they are drawn."""
    return tag(
        "ul",
        {"class": "legend"},
        *(
            tag("li", None, tag("i", {"class": f"swatch t{k}"}), text(name))
            for k, name in reversed(list(enumerate(chart.parts)))
        ),
    )


def bar_table(charts: Sequence[Bars]) -> str:
    """Draw charts with the same rows beside each other, as one table."""
    first = charts[0]
    has_number = any(row.number is not None for row in first.rows)
    has_detail = any(row.detail for row in first.rows)
    number = [tag("th", {"class": "number", "scope": "col"}, "number")] if has_number else []
    head = [
        tag("th", {"scope": "col", "colspan": 2 if has_detail else None}, ""),
        *number,
        *(tag("th", {"scope": "col", "class": "bar"}, text(chart.axis)) for chart in charts),
    ]
    body, group = [], ""
    for place, row in enumerate(first.rows):
        if row.group != group:
            group = row.group
            span = len(charts) + 1 + has_detail + has_number
            heading = tag("th", {"colspan": span, "scope": "colgroup"}, text(group))
            body.append(tag("tr", {"class": "group"}, heading))
        body.append(_bar_row([chart.rows[place] for chart in charts], charts, has_detail, number))
    table = tag("table", {"class": "bars"}, tag("thead", None, tag("tr", None, *head)),
                tag("tbody", None, lines(body)))  # fmt: skip
    return table


def _bar_row(
    rows: Sequence[BarRow], charts: Sequence[Bars], has_detail: bool, number: list[str]
) -> str:
    cells = [tag("th", {"scope": "row"}, text(rows[0].name))]
    if has_detail:
        cells.append(tag("td", {"class": "detail"}, text(rows[0].detail)))
    if number:
        cells.append(tag("td", {"class": "number"}, text(rows[0].number)))
    for row, chart in zip(rows, charts, strict=True):
        said = " · ".join(
            f"{name} {_percent(value)}"
            for name, value in zip(chart.detectors, row.values, strict=True)
        )
        value = tag("span", {"class": "value"}, text(_percent(row.values[0])))
        cells.append(tag("td", {"class": "bar", "title": said}, value, _bar(row, chart)))
    return tag("tr", {"class": "few" if _is_few(rows[0]) else None}, *cells)


def _is_few(row: BarRow) -> bool:
    return row.number is not None and row.number < FEW


def _bar(row: BarRow, chart: Bars) -> str:
    """A bar for the first value and a mark for each of the others."""
    shares = [None if v is None else min(max(v / chart.reach, 0), 1) for v in row.values]
    parts = []
    if shares[0] is not None:
        box = {"y": 3, "height": 12, "width": percent(shares[0]), "class": "s0 fill"}
        parts.append(tag("rect", box))
    if chart.base and chart.base[0] is not None:
        at = percent(chart.base[0] / chart.reach)
        parts.append(tag("line", {"x1": at, "x2": at, "y1": 0, "y2": 18, "class": "base"}))
    for i, share in enumerate(shares[1:], start=1):
        if share is not None:
            parts.append(mark(i, percent(share)))
    svg = {"class": "strip", "width": "100%", "height": 18, "aria-hidden": "true"}
    return tag("svg", svg, *parts)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def mark(place: int, x: str) -> str:
    """The mark of a detector: its colour and its shape, centred at ``x`` in a strip 18 high."""
    shapes = ("M0,-5.5 5.5,0 0,5.5 -5.5,0Z", "M0,-5.5 5,4 -5,4Z", "M-4.5,-4.5H4.5V4.5H-4.5Z")
    shape = shapes[(place - 1) % len(shapes)]
    # A nested drawing of no size carries the shape to a place in percent.
    inner = tag("path", {"d": shape, "class": f"s{place % 8} fill mark"})
    return tag("svg", {"x": x, "y": 9, "overflow": "visible", "width": 1, "height": 1}, inner)


def mark_legend(chart: Bars) -> str:
    """What bars, marks, the line and pale rows stand for."""
    strip = {"class": "key", "width": 26, "height": 18, "aria-hidden": "true"}
    items = [
        tag(
            "li",
            None,
            tag(
                "svg",
                strip,
                mark(i, "13")
                if i
                else tag("rect", {"y": 3, "height": 12, "width": 26, "class": "s0 fill"}),
            ),
            text(name),
        )  # fmt: skip
        for i, name in enumerate(chart.detectors)
    ]
    if chart.base:
        line = tag("line", {"x1": 13, "x2": 13, "y1": 0, "y2": 18, "class": "base"})
        items.append(tag("li", None, tag("svg", strip, line), "all annotations"))
    if any(_is_few(row) for row in chart.rows):
        items.append(tag("li", {"class": "few"}, f"pale: fewer than {FEW} annotations"))
    return tag("ul", {"class": "legend"}, *items)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values within a range.

    >>> ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if high <= low:
        return [low]
    raw = (high - low) / most
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Values of the form 1, 2 or 5 times a power of ten within a range.

    >>> log_ticks(0.15, 4)
    [0.2, 0.5, 1.0, 2.0]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [round(factor * 10.0**p, 12) for p in powers for factor in (1, 2, 5)]
    return [value for value in values if low <= value <= high]


def _padded(values: list[float], log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        return low / 1.15, high * 1.15
    return min(low, 0.0), high * 1.05 or 1.0


def _x(value: float, bounds: tuple[float, float]) -> float:
    share = (value - bounds[0]) / ((bounds[1] - bounds[0]) or 1)
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(value: float, bounds: tuple[float, float], log: bool) -> float:
    low, high = bounds
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return HEIGHT - BOTTOM - (value - low) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)


def _frame(axes: tuple[str, str]) -> list[str]:
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    turned = {"x": 0, "y": 0, "text-anchor": "middle",
              "transform": f"translate(12 {middle:g}) rotate(-90)"}  # fmt: skip
    return [
        _line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis"),
        _label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, axes[0], "middle"),
        tag("text", turned, text(axes[1])),
    ]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return tag("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "class": kind})


def _label(x: float, y: float, said: str, anchor: str) -> str:
    return tag("text", {"x": x, "y": y, "text-anchor": anchor}, text(said))


def _svg(about: str, parts: Sequence[str]) -> str:
    settings = {"class": "chart", "viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img",
                "aria-label": about}  # fmt: skip
    return tag("svg", settings, *parts)


def _figure(title: str, drawn: str, legend: str) -> str:
    return tag("figure", None, tag("figcaption", None, text(title)), drawn, legend)
