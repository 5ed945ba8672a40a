"""The command ``study``: rows x seeds x worlds (or folds) to one table, as steps of this tool.

Every cell is a command that a user could type, so a study that was killed goes on where it stopped,
runs on as many cores as there are, and may be shared out over the tasks of a cluster array.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tad_distill import units
from tad_distill.console import FAILED, UsageError, log, result, table
from tad_distill.steps import explain, run_steps, state

if TYPE_CHECKING:
    from tad_distill.distill.studies.estimate import Estimate
    from tad_distill.distill.studies.grid import Grid, Setup
    from tad_distill.distill.studies.tables import Report

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("name")
@click.option("--out", type=PATH, help="Folder for everything. [default: runs/NAME]")
@click.option("--seeds", type=click.IntRange(1), help="Detectors per row and world or fold.")
@click.option("--worlds", type=click.IntRange(1), help="Worlds that are rendered.")
@click.option(
    "--store",
    "stores",
    type=PATH,
    multiple=True,
    help="Features of your own instead of worlds. Repeatable, with --annotations in the same "
    "order: each pair is a fold.",
)
@click.option("--annotations", type=PATH, multiple=True, help="What is true of a --store.")
@click.option("--folds", type=click.IntRange(3), help="Cut the videos of one --store into folds.")
@click.option("--row", "rows", multiple=True, help="Only this row (and its teacher). Repeatable.")
@click.option("--group", "groups", multiple=True, help="Only this group of rows. Repeatable.")
@click.option("--jobs", type=click.IntRange(1), help="Commands at once. [default: the cores]")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the study, as world.size=tiny or words.rgb=i3d:rgb. Repeatable.",
)
@click.option(
    "--set-train",
    "train_overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="A --set option for every train, as train.steps=100. Repeatable.",
)
@click.option(
    "--shared",
    type=PATH,
    help="Folder of the worlds, which several studies may use. [default: OUT/worlds]",
)
@units.options
@click.option("--plan", is_flag=True, help="Say what would be run and what it takes; run nothing.")
@click.option(
    "--report",
    is_flag=True,
    help="Only make the table of what is finished in --out, as it was run.",
)
def study(
    name: str,
    out: Path | None,
    seeds: int | None,
    worlds: int | None,
    stores: tuple[Path, ...],
    annotations: tuple[Path, ...],
    folds: int | None,
    rows: tuple[str, ...],
    groups: tuple[str, ...],
    jobs: int | None,
    overrides: tuple[str, ...],
    train_overrides: tuple[str, ...],
    shared: Path | None,
    unit: int | None,
    units_: int | None,
    plan: bool,
    report: bool,
) -> int:
    """Run the study NAME (a shipped one or a TOML file) and print its table.

    Shipped: ablation, backbones, fusions, heads, labels, modality. The table is also written to OUT
    as Markdown, JSON and PNG. A failing cell is named and makes the exit code 1; the others go on.
    """
    from dataclasses import replace

    from tad_distill.distill.studies.cells import only
    from tad_distill.distill.studies.files import load
    from tad_distill.distill.studies.grid import Setup

    started = time.monotonic()
    out = (out or Path("runs") / Path(name).stem).resolve()  # the logs know it by one name
    if report:
        grid = make_grid(Setup.saved(out), out)
        publish(grid)
        return 0
    named = {"seeds": seeds, "worlds": worlds}
    settings = [*overrides, *(f"{key}={n}" for key, n in named.items() if n is not None)]
    data = pair(stores, annotations)
    found = only(load(name, settings), rows, groups)
    found = replace(found, overrides=(*found.overrides, *train_overrides))
    worlds_at = shared.resolve() if shared else out / "worlds"
    setup = Setup(study=found, shared=worlds_at, stores=data, folds=folds or 0)
    grid = make_grid(setup, out)
    jobs = jobs or len(os.sched_getaffinity(0))
    if plan:
        show_plan(grid, jobs)
        return 0
    failed = run(grid, units.own(units_, unit), jobs, name)
    log("study", out=out, failed=failed, minutes=round((time.monotonic() - started) / 60, 2))
    return FAILED if failed else 0


def make_grid(setup: "Setup", out: Path) -> "Grid":
    """Plan all cells; whatever is not there is named before anything runs."""
    from tad_distill.distill.studies.grid import Grid

    grid = Grid(setup, out)
    if not setup.stores:
        check_world(grid)
    return grid


def check_world(grid: "Grid") -> None:
    """Refuse worlds, backbones and modalities that are not there.

    Raises:
        ConfigError: With the key of the study, what was found and what there is.
    """
    from tad_distill import config
    from tad_distill.config import ConfigError
    from tad_distill.data.world.config import SIZES, WorldConfig
    from tad_distill.extract import backbones, modalities, pretrain
    from tad_distill.extract import config as extraction
    from tad_distill.extract.stream_name import StreamName

    options = grid.study.world
    where = "world.settings"
    try:
        config.load(WorldConfig, SIZES[options.size], options.settings)
        for stream in dict.fromkeys(s for found in grid.draws for s in found.makers):
            where = f"stream {stream}"
            parts = StreamName.parse(stream)
            backbones.build(parts.backbone)
            modalities.default(parts.modality)
            base = f"{parts.backbone}:{parts.modality}"
            where = f"pretrain.{base}"
            how = grid.study.pretrain[base]
            pretrain.load_config(parts.modality, how.preset, how.settings)
            extraction.load(options.preset, (*options.extract, *how.extract))
    except UsageError as error:
        raise ConfigError(f"{where}: {error}") from error


def pair(stores: Sequence[Path], annotations: Sequence[Path]) -> tuple[tuple[Path, Path], ...]:
    """Stores with their annotations."""
    if len(stores) != len(annotations):
        raise UsageError(
            f"{len(stores)} --store and {len(annotations)} --annotations: each store needs its own"
        )
    for path in (*stores, *annotations):
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
    return tuple((s.resolve(), a.resolve()) for s, a in zip(stores, annotations, strict=True))


def run(grid: "Grid", unit: units.Unit, jobs: int, name: str) -> int:
    """Run a share of the cells; make the table when it is all of them.

    Returns:
        How many steps failed.
    """
    from tad_distill.distill.studies.cells import share

    grid.setup.save(grid.out)
    grid.write_folds()
    chosen = share(grid.cells, unit)
    if not chosen:
        log("nothing_to_do", share=unit.name, cells=len(grid.cells))
        return 0
    ended = run_steps(grid.steps_of(chosen), jobs, f"study {Path(name).stem}", keep_going=True)
    finished = len(grid.finished())
    if unit.count > 1:
        result(f"share {unit.name} has ended; {finished} of {len(grid.cells)} cells have finished")
        result(f"for the table: tad-distill study {name} --out {grid.out} --report")
    elif finished:
        publish(grid)
    if ended.failed:
        result(
            f"{len(ended.failed)} failed, {len(ended.blocked)} steps that need them did not start:"
        )
        for why in ended.failed.values():
            result(f"  {why}")
    return len(ended.failed)


def publish(grid: "Grid") -> None:
    """Make the table of what is finished, write it and print it."""
    from tad_distill.distill.studies import report, tables

    made: Report = report.make(grid)
    paths = tables.write(made, grid.out)  # first: who reads the table may hang up before its end
    tables.show(made)
    result(f"written: {' '.join(map(str, paths))}")


def show_plan(grid: "Grid", jobs: int) -> None:
    """Say which cells there are, which have finished, and what the others will take."""
    from tad_distill.distill.studies import estimate

    shared, rows = estimate.shared(grid), estimate.rows(grid)
    lines = []
    if shared.num_all:
        steps = max(len(found.steps) for found in grid.draws)
        lines.append([f"shared by a {grid.kind} ({steps} steps)", "-", "-", *_cells(shared)])
    for row in rows:
        of_row = grid.study.rows[row.row]
        preset = grid.study.preset_of(row.row, row.group)
        name = row.row if row.group == "all" else f"{row.group} / {row.row}"
        lines.append([name, of_row.role, preset, *_cells(row)])
    columns = ["what", "role", "preset", "all", "done", "failed", "CPU s of one", "MB of one"]
    title = (
        f"{grid.study.title}: {len(grid.draws)} {grid.kind}(s) x {grid.study.seeds} seed(s), "
        f"{len(grid.cells)} cells, {len(grid.steps)} steps"
    )
    table(columns, lines, title=title, align_left=3)
    for step in grid.steps:
        if state(step) == "failed":
            result(f"failed: {explain(step)}")
    everything = [*rows, shared]
    seconds = [e.cpu_s * e.num_left for e in everything if e.cpu_s is not None]
    disk = [e.disk_mb * e.num_left for e in everything if e.disk_mb is not None]
    told = all(e.cpu_s is not None for e in everything if e.num_left)
    hours = sum(seconds) / 3600
    result(
        f"left: {sum(e.num_left for e in rows)} cells, {'' if told else 'at least '}{hours:.2f} "
        f"CPU hours, {hours / jobs:.2f} hours with {jobs} at once, {sum(disk) / 1000:.2f} GB"
    )
    result("CPU s marked ~ are the study file's, measured elsewhere; the others were measured here")


def _cells(found: "Estimate") -> list[str]:
    seconds = "-" if found.cpu_s is None else f"{'' if found.measured else '~'}{found.cpu_s:.0f}"
    size = "-" if found.disk_mb is None else f"{found.disk_mb:.0f}"
    return [str(found.num_all), str(found.num_done), str(found.num_failed), seconds, size]
