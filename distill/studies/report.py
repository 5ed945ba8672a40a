"""From finished cells to the table: validation first, then the test subset, once."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tad_distill import console
from tad_distill.console import UserError
from tad_distill.distill.predict import Run
from tad_distill.distill.studies.cells import Cell
from tad_distill.distill.studies.costs import RowCost, row_cost
from tad_distill.distill.studies.grid import Grid
from tad_distill.distill.studies.results import Scorer, choose_control, sum_up
from tad_distill.distill.studies.shared import copy_of
from tad_distill.distill.studies.tables import Report

READS = "test_reads.jsonl"


def make(grid: Grid) -> Report:
    """Score what is finished, choose the controls on validation, then read the test subset.

    Raises:
        UserError: No cell has finished, or a file of one cannot be read.
    """
    study, finished = grid.study, grid.finished()
    if not finished:
        raise UserError(f"{grid.out}: none of the {len(grid.cells)} cells has finished: no table")
    scorer = Scorer(study, grid.out)
    validation = scorer.scores(finished, study.validation)
    controls = {group: choose_control(study, group, validation) for group in study.group_names}
    for group, control in controls.items():
        console.log("control", group=group, row=control or "none", chosen_on=study.validation)
    num_reads = count_read(grid.out, len(finished), controls)
    test = scorer.scores(finished, study.test, keep=True)
    return Report(
        study=study,
        draw_kind=grid.kind,
        num_draws=len(grid.draws),
        num_seeds=study.seeds,
        groups=sum_up(study, grid.cells, validation, test, controls),
        costs=costs(grid, finished),
        basis=basis(grid, finished),
        num_finished=len(finished),
        num_cells=len(grid.cells),
        num_reads=num_reads,
    )


def count_read(out: Path, num_cells: int, controls: dict[str, str | None]) -> int:
    """Note that the test subset is about to be read, and how often it has been."""
    path = out / READS
    note = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cells": num_cells,
        "controls": controls,
    }
    with path.open("a") as file:
        file.write(json.dumps(note) + "\n")
    return len(path.read_text().splitlines())


def costs(grid: Grid, finished: Sequence[Cell]) -> dict[tuple[str, str], RowCost]:
    """What each row costs."""
    found = {}
    for (group, row), experiment in grid.experiments.items():
        of_row = [cell for cell in finished if (cell.group, cell.row) == (group, row)]
        streams = list(experiment.model.all_streams)
        first = of_row[0] if of_row else None
        found[group, row] = row_cost(
            streams,
            [grid.train_step(cell) for cell in of_row],
            [shared.copies(streams) for shared in grid.draws],
            None if first is None else first.draw.store,
            None if first is None else first.run(grid.out),
        )
    return found


def basis(grid: Grid, finished: Sequence[Cell]) -> str:
    """What the numbers rest on, in one line."""
    presets = dict.fromkeys(grid.study.preset_of(row, group) for group, row in grid.experiments)
    # The students read and are taught by most streams.
    some = max(finished, key=lambda cell: grid.study.rows[cell.row].teacher is not None)
    notes = Run.load(some.run(grid.out), "cpu").provenance
    pretraining: dict[str, Any] = dict(notes["pretraining"])
    for cell in finished:
        if cell.draw == some.draw and grid.study.rows[cell.row].role in ("teacher", "upper"):
            pretraining |= Run.load(cell.run(grid.out), "cpu").provenance["pretraining"]
            break
    trained = [
        f"{stream}: {_pretraining(weights)}"
        for stream, weights in pretraining.items()
        if not set("+.@") & set(stream)
    ]
    read = {copy_of(stream) for stream in grid.streams}
    copies = [f"{copy} by {how.preset}" for copy, how in grid.study.adapt.items() if copy in read]
    counts = notes["counts"]
    renewed = {
        "world": "for each world the videos are rendered, the backbones pretrained, copies "
        "trained and labels chosen anew",
        "fold": "for each fold the labels are chosen anew",
    }[grid.kind]
    return (
        f"presets {', '.join(presets)}; {some.row}: {counts['labelled']} of "
        f"{counts['videos']} training videos labelled; {renewed}, weights and order for each seed; "
        f"features {notes['features']}; backbones: {'; '.join(trained)}"
        + (f"; copies: {', '.join(copies)}" if copies else "")
    )


def _pretraining(weights: dict[str, Any]) -> str:
    """What is known of a stream's weights, shortly."""
    notes = weights.get("pretraining")
    if isinstance(notes, dict) and "tasks" in notes:
        tasks = " + ".join(f"{weight:g} {task}" for task, weight in notes["tasks"].items())
        return f"pretrained on rendered clips, {notes['config']['steps']} steps on {tasks}"
    return str(notes or weights.get("layout", "unknown weights"))
