"""Filled tables as text, Markdown and LaTeX: our columns and the paper's, each under a heading."""

import re
from collections.abc import Sequence
from typing import Literal

from tad_distill.evaluate.paper import HEADING
from tad_distill.evaluate.tables import Filled, Line, Ours

Format = Literal["text", "markdown", "latex"]

OURS = "ours"
DASH = "-"
ABOUT = ("backbone", "head", "data", "labelled", "features", "preset")

LATEX = {
    "\\": r"\textbackslash{}", "_": r"\_", "&": r"\&", "%": r"\%", "#": r"\#", "$": r"\$",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def write(filled: Sequence[Filled], form: Format) -> str:
    """Write tables.

    Args:
        filled: The tables.
        form: ``text`` is aligned with blanks, ``latex`` needs the package booktabs.
    """
    writer = {"text": _text, "markdown": _markdown, "latex": _latex}[form]
    return "\n\n".join(writer(table) for table in filled)


def caption(filled: Filled) -> list[str]:
    """What a table shows, and on what each side stands; a sentence each."""
    shared = _about_all(filled)
    alike = [f"{name} {next(iter(values))}" for name, values in shared.items() if len(values) == 1]
    first, last = filled.table.tiou[0], filled.table.tiou[-1]
    return [
        f"Table {filled.table.number}: {filled.table.about}; mAP in percent, average over tIoU "
        f"{first:.4g} to {last:.4g}.",
        f"Ours: mean and standard deviation over seeds{''.join(f'; {part}' for part in alike)}.",
        f"Paper: {HEADING.partition(', ')[2]}; {filled.table.setting}.",
    ]


def columns(filled: Filled) -> tuple[list[str], list[str]]:
    """The headers of our columns, behind the row's title, and of the paper's.

    What is the same for all of our lines has no column; the caption says it.
    """
    shown = [f"{t:.4g}" for t in filled.table.shown]
    varying = [name for name, values in _about_all(filled).items() if len(values) > 1]
    return [*shown, "average", "sd", "seeds", *varying], [*shown, "average"]


def cells(filled: Filled, line: Line) -> tuple[list[str], list[str]]:
    """The cells of a line under :func:`columns`."""
    paper = [_figure(value) for value in line.paper]
    names = columns(filled)[0]
    if line.ours is None:
        return [DASH] * len(names), paper
    ours = line.ours
    numbers = [f"{100 * ours.at(t):.1f}" for t in filled.table.shown]
    sd = DASH if ours.sd is None else f"{100 * ours.sd:.1f}"
    numbers += [f"{100 * ours.average:.1f}", sd, str(len(ours.runs))]
    return [*numbers, *(value for name, value in _about(ours).items() if name in names)], paper


def _figure(value: float | None) -> str:
    """A number with the decimals that the paper gives it."""
    if value is None:
        return DASH
    return f"{value:.1f}" if round(value, 1) == value else f"{value:.2f}"


def _about(ours: Ours) -> dict[str, str]:
    """What a number of ours stands on."""
    run = ours.runs[0]
    presets = ", ".join(sorted({r.preset for r in ours.runs}))
    return {
        "backbone": run.design.backbone,
        "head": run.design.head,
        "data": run.data,
        "labelled": run.labelled,
        "features": run.frozen,
        "preset": " ".join([presets, *ours.differing]),
    }


def _about_all(filled: Filled) -> dict[str, set[str]]:
    """What all of our numbers in a table stand on: the values of each column."""
    lines = [_about(line.ours) for line in filled.lines if line.ours]
    return {name: {about[name] for about in lines} for name in ABOUT} if lines else {}


def _rows(filled: Filled) -> list[list[str]]:
    """Every line with its title in front."""
    rows = []
    for line in filled.lines:
        ours, paper = cells(filled, line)
        rows.append([line.title, *ours, *paper])
    return rows


def _text(filled: Filled) -> str:
    ours, paper = columns(filled)
    header = ["", *ours, *paper]
    rows = _rows(filled)
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    words = {0, *(1 + i for i, name in enumerate(ours) if name in ABOUT)}
    gaps = {1, 1 + len(ours)}

    def lay(row: Sequence[str]) -> str:
        parts = []
        for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
            parts.append("  | " if i in gaps else "  " if i else "")
            parts.append(cell.ljust(width) if i in words else cell.rjust(width))
        return "".join(parts).rstrip()

    width = sum(widths[1 : 1 + len(ours)]) + 2 * (len(ours) - 1)
    heads = f"{'':{widths[0]}}  | {OURS:{width}}  | {HEADING}"
    return "\n".join([*caption(filled), heads, lay(header), *map(lay, rows)])


def _markdown(filled: Filled) -> str:
    ours, paper = columns(filled)
    header = ["", *(f"{OURS}: {name}" for name in ours), *(f"{HEADING}: {name}" for name in paper)]
    align = ["---", *("---" if name in ABOUT else "---:" for name in ours), *["---:"] * len(paper)]
    rows = [[cell.replace("|", "\\|") for cell in row] for row in [header, align, *_rows(filled)]]
    return "\n".join([" ".join(caption(filled)), "", *(f"| {' | '.join(row)} |" for row in rows)])


def _latex(filled: Filled) -> str:
    ours, paper = columns(filled)
    last = 1 + len(ours)
    kinds = "".join("l" if name in ABOUT else "r" for name in ours)
    lines = [
        r"\begin{table}",
        rf"\caption{{{_escaped(' '.join(caption(filled)))}}}",
        rf"\begin{{tabular}}{{l{kinds}{'r' * len(paper)}}}",
        r"\toprule",
        rf"& \multicolumn{{{len(ours)}}}{{c}}{{{OURS}}} "
        rf"& \multicolumn{{{len(paper)}}}{{c}}{{{_escaped(HEADING)}}} \\",
        rf"\cmidrule(lr){{2-{last}}} \cmidrule(lr){{{last + 1}-{last + len(paper)}}}",
        " & ".join(["", *map(_escaped, [*ours, *paper])]).strip() + r" \\",
        r"\midrule",
        *(" & ".join(map(_escaped, row)) + r" \\" for row in _rows(filled)),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return re.sub(r"[\\_&%#${}~^]", lambda found: LATEX[found.group()], text)
