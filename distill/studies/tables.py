"""A study's results as a table: for the terminal, as Markdown, as JSON and as a picture."""

import json
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tad_distill import __version__, config, console
from tad_distill.data.files import write_text
from tad_distill.distill.studies.costs import RowCost
from tad_distill.distill.studies.results import GroupResult, RowResult
from tad_distill.distill.studies.schema import ALL, STRONGEST, Study, expand
from tad_distill.evaluate import forest
from tad_distill.evaluate.intervals import Interval

WIDTH = 100

Costs = Mapping[tuple[str, str], RowCost]


@dataclass(frozen=True)
class Report:
    """All that a table shows.

    Attributes:
        study: What was studied.
        draw_kind: ``world`` or ``fold``.
        num_draws: How many the grid has.
        num_seeds: Detectors per row and draw.
        groups: The results.
        costs: By group and row.
        basis: What the numbers rest on, in a line.
        num_finished: Cells that have finished.
        num_cells: Cells of the grid.
        num_reads: How often the test subset has been read for a table in this folder, this
            time included.
    """

    study: Study
    draw_kind: str
    num_draws: int
    num_seeds: int
    groups: list[GroupResult]
    costs: Costs
    basis: str
    num_finished: int
    num_cells: int
    num_reads: int


def show(report: Report) -> None:
    """Print the tables and what they rest on."""
    for line in head(report):
        _wrapped(line)
    for group in report.groups:
        console.result("")
        console.table(columns(report), rows(report, group), title=title_of(report, group))
        for line in notes(report, group):
            _wrapped(line)
    console.result("")
    for line in foot(report):
        _wrapped(line)


def _wrapped(line: str) -> None:
    console.result(textwrap.fill(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False))


def write(report: Report, out: Path) -> list[Path]:
    """Write ``table.md``, ``table.json`` and ``table.png``.

    Returns:
        The files.
    """
    paths = [out / f"table.{ending}" for ending in ("md", "json", "png")]
    write_text(paths[0], markdown(report))
    write_text(paths[1], json.dumps(document(report), indent=1) + "\n")
    draw(report, paths[2])
    return paths


def head(report: Report) -> list[str]:
    """The title and what the numbers are."""
    study = report.study
    lines = [study.title]
    if study.about:
        lines.append(expand(study.about, study.words, "about"))
    lines.append(
        f"average mAP (tIoU {study.tiou}) in percent, subset {study.test}; "
        f"{report.num_draws} {report.draw_kind}(s) x {report.num_seeds} seed(s)"
    )
    if report.num_finished < report.num_cells:
        lines.append(f"INCOMPLETE: {report.num_finished} of {report.num_cells} cells have finished")
    return lines


def title_of(report: Report, group: GroupResult) -> str | None:
    """The line above a group's table."""
    return None if group.group == ALL else report.study.groups[group.group].title


def columns(report: Report) -> list[str]:
    """The header."""
    kind = report.draw_kind
    return [
        "row",
        "cells",
        report.study.validation,
        report.study.test,
        "sd seeds",
        f"sd {kind}s",
        "- control",
        f"95 % over {kind}s",
        "95 % over pairs",
        "gap %",
        "train s",
        "once s",
        "KB/s",
        "params",
    ]


def rows(report: Report, group: GroupResult) -> list[list[str]]:
    """The cells of a group's table."""
    return [_line(report, group, row) for row in group.rows]


def _line(report: Report, group: GroupResult, row: RowResult) -> list[str]:
    cost = report.costs[group.group, row.row]
    over_draws = row.difference.over_draws if row.difference else None
    over_pairs = row.difference.over_pairs if row.difference else None
    test = row.test
    return [
        report.study.rows[row.row].title + (" *" if row.row == group.control else ""),
        f"{test.count if test else 0}/{row.num_cells}",
        number(row.validation.mean if row.validation else None),
        number(test.mean if test else None),
        number(test.sd_seeds if test else None),
        number(test.sd_draws if test else None),
        number(over_draws.mean if over_draws else None, sign=True),
        ends(over_draws),
        ends(over_pairs),
        number(row.gap_closed, digits=0),
        number(cost.train_cpu_s, digits=0),
        number(cost.once_cpu_s, digits=0),
        number(cost.kb_per_s, digits=2),
        "-" if cost.num_parameters is None else f"{cost.num_parameters:,}",
    ]


def notes(report: Report, group: GroupResult) -> list[str]:
    """The lines below a group's table: which control, and the study's further pairs."""
    study = report.study
    lines = []
    if group.control is not None:
        title = study.rows[group.control].title
        why = "named by the study"
        if study.control == STRONGEST:
            why = f"the strongest without a motion teacher on {study.validation}"
        lines.append(f"* control: {title}, {why}")
    for better, worse, difference in group.comparisons:
        lines.append(
            f"{study.rows[better].title} minus {study.rows[worse].title}: "
            f"{number(difference.over_draws.mean, sign=True)}, 95 % over {report.draw_kind}s "
            f"{ends(difference.over_draws)}, over pairs {ends(difference.over_pairs)}; "
            f"{difference.num_positive} of {difference.over_pairs.count} positive"
        )
    return lines


def foot(report: Report) -> list[str]:
    """How to read the table, and what it rests on."""
    kind = report.draw_kind
    return [
        f"sd seeds: within a {kind}, pooled; sd {kind}s: of the {kind}s' means. 95 %: Student's t "
        f"over the {kind}s' mean paired differences, and over all pairs as if each were a {kind} "
        "of its own.",
        "gap %: share of the way from the baseline to the upper row. train s, once s: processor "
        "seconds to train the detector (its teacher's aside) and the copies it reads; KB/s: stored "
        "features it reads per second of video; params: of the detector at inference.",
        report.basis,
        f"choices on {report.study.validation}; {report.study.test} read for the table number "
        f"{report.num_reads} of this folder; tad-distill {__version__}",
    ]


def markdown(report: Report) -> str:
    """The same as a Markdown document."""
    title, *about = head(report)
    lines = [f"# {title}", ""]
    for line in about:
        lines += [line, ""]
    for group in report.groups:
        name = title_of(report, group)
        lines += [f"## {name}", ""] if name else []
        header = columns(report)
        lines.append(f"| {' | '.join(header)} |")
        lines.append("| --- |" + " ---: |" * (len(header) - 1))
        lines += [f"| {' | '.join(line)} |" for line in rows(report, group)]
        lines.append("")
        for note in notes(report, group):
            lines += [note.replace("* control", "\\* control"), ""]
    for line in foot(report):
        lines += [line, ""]
    return "\n".join(lines)


def document(report: Report) -> dict[str, Any]:
    """Everything that was found, as plain values; mAPs in percent."""
    return {
        "tad_distill": __version__,
        "study": config.dump(report.study),
        "draws": {"kind": report.draw_kind, "number": report.num_draws},
        "seeds": report.num_seeds,
        "cells": {"finished": report.num_finished, "all": report.num_cells},
        "test_reads": report.num_reads,
        "basis": report.basis,
        "groups": [
            {
                "group": group.group,
                "control": group.control,
                "rows": [
                    asdict(row)
                    | {
                        "values": [
                            {"draw": draw, "seed": seed, "mAP": value}
                            for (draw, seed), value in row.values.items()
                        ],
                        "cost": asdict(report.costs[group.group, row.row]),
                    }
                    for row in group.rows
                ],
                "comparisons": [
                    {"better": better, "worse": worse} | asdict(difference)
                    for better, worse, difference in group.comparisons
                ],
            }
            for group in report.groups
        ],
    }


def draw(report: Report, path: Path) -> None:
    """Draw each row's mAP and its difference to the control."""
    lines = []
    for group in report.groups:
        name = title_of(report, group)
        for row in group.rows:
            if row.test is None:
                continue
            spec = report.study.rows[row.row]
            over_draws = row.difference.over_draws if row.difference else None
            lines.append(
                forest.Line(
                    title=spec.title,
                    heading=name,
                    mean=row.test.mean,
                    dots=list(row.values.values()),
                    # The upper row is far away: beside it the others would shrink to dots.
                    difference=None if spec.role == "upper" else over_draws,
                    highlight=spec.role == "student",
                    reference=row.row == group.control,
                )
            )
    forest.draw(
        path,
        lines,
        title=report.study.title,
        axes=(
            f"average mAP (%), {report.study.test}",
            f"minus control, 95 % over {report.draw_kind}s",
        ),
    )


def number(value: float | None, digits: int = 1, sign: bool = False) -> str:
    """A number for a table; a dash for none.

    >>> number(3.14159), number(2.0, sign=True), number(None)
    ('3.1', '+2.0', '-')
    """
    if value is None:
        return "-"
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def ends(interval: Interval | None) -> str:
    """The ends of an interval; a dash where there is none.

    >>> ends(Interval(1.0, -0.5, 2.5, 1.0, 3)), ends(Interval(1.0, None, None, None, 1))
    ('[-0.5, +2.5]', '-')
    """
    if interval is None or interval.low is None or interval.high is None:
        return "-"
    return f"[{interval.low:+.1f}, {interval.high:+.1f}]"
