"""The command ``eval tables``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tad_distill import console
from tad_distill.console import FAILED

if TYPE_CHECKING:
    from tad_distill.evaluate.table_text import Format


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown", "latex"]),
    default="text",
    show_default=True,
    help="How the tables are written; latex needs the package booktabs.",
)
@click.option(
    "--table",
    "numbers",
    multiple=True,
    type=click.Choice(["2", "3", "4", "5", "6a", "6b"]),
    help="Only this table; may be repeated. By default all in which a run stands.",
)
@click.option(
    "--scores",
    "scores_name",
    default="scores.json",
    show_default=True,
    help="Name of the file that eval --json wrote into each run's folder.",
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file instead."
)
def tables(
    runs: tuple[Path, ...],
    form: "Format",
    numbers: tuple[str, ...],
    scores_name: str,
    out: Path | None,
) -> int:
    """Sort scored RUNS into the paper's Tables 2 to 6: ablation, fusions, backbones, heads, others.

    RUNS are folders of runs, or folders of such folders. The row of a run follows from its
    settings; runs that differ in their seeds alone are averaged. The paper's own numbers stand
    under a heading of their own. Runs that fit no row are named.
    """
    from tad_distill.data.files import write_text
    from tad_distill.evaluate import table_text
    from tad_distill.evaluate.tables import collect, fill

    found, unread = collect(runs, scores_name)
    filled, unplaced = fill(found)
    shown = [f for f in filled if (f.table.number in numbers if numbers else f.num_runs)]
    for table in filled:
        if table not in shown and not numbers:
            console.log("no_run", table=table.table.number, about=table.table.about)
    for run in (*unread, *unplaced):
        console.warn(f"in no table: {run.reason}")
    if shown:
        text = table_text.write(shown, form)
        if out is None:
            console.result(text)
        else:
            write_text(out, text + "\n")
            console.result(str(out))
    console.log("tables", runs=len(found), in_no_table=len(unplaced), unread=len(unread))
    return FAILED if unread or not shown else 0
