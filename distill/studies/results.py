"""What a study has found: scores of its cells, the control that validation chose, differences.

Validation is scored first and decides which control the others are held against; only then is the
test subset looked at, once for each table that is made.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import pandas as pd

from tad_distill.console import UserError, check_stop, progress
from tad_distill.data import annotations as annotation_files
from tad_distill.data.annotations import AnnotationSet
from tad_distill.data.files import write_text
from tad_distill.distill.predict import Run
from tad_distill.distill.studies.cells import Cell
from tad_distill.distill.studies.schema import STRONGEST, WITHOUT_TEACHER, Study
from tad_distill.evaluate.intervals import Paired, Spread, Values, paired, spread
from tad_distill.evaluate.protocols import PROTOCOLS, parse_tiou, score
from tad_distill.evaluate.report import document

# Average mAP in percent, by group and row.
Scores = Mapping[tuple[str, str], Values]


@dataclass(frozen=True)
class RowResult:
    """One line of the table; all mAPs in percent.

    Attributes:
        row: Its name.
        num_cells: How many cells the grid has.
        validation: Of the finished cells; None if there are none.
        test: Likewise.
        values: The test mAP of each.
        difference: To the control, on test; None for the control itself and for teachers.
        on_validation: The same on validation, where the control was chosen.
        gap_closed: Per cent of the way from baseline to upper, on test; None without both, or
            where the upper row is not above the baseline.
    """

    row: str
    num_cells: int
    validation: Spread | None
    test: Spread | None
    values: Values
    difference: Paired | None
    on_validation: Paired | None
    gap_closed: float | None


@dataclass(frozen=True)
class GroupResult:
    """Rows that are compared with each other.

    Attributes:
        group: Its name.
        control: The row that they are compared with; None if no cell of one has finished.
        rows: In the study's order.
        comparisons: The study's further pairs: better, worse, difference on test.
    """

    group: str
    control: str | None
    rows: list[RowResult]
    comparisons: list[tuple[str, str, Paired]]


class Scorer:
    """Scores finished cells; each file of annotations is read once."""

    def __init__(self, study: Study, out: Path) -> None:
        """Score the cells of the study in ``out``."""
        self.out = out
        self.protocol = replace(PROTOCOLS["plain"], tiou=parse_tiou(study.tiou))
        self._annotations: dict[Path, AnnotationSet] = {}

    def scores(
        self, cells: Sequence[Cell], subset: str, keep: bool = False
    ) -> dict[tuple[str, str], Values]:
        """The average mAP of each cell on a subset.

        Args:
            cells: Finished ones.
            subset: Of their annotations.
            keep: Write each cell's ``scores.json`` as ``eval --json`` does, for ``eval tables``.

        Raises:
            UserError: A file cannot be read, or the subset is not there or has no annotation.
        """
        found: dict[tuple[str, str], dict[tuple[str, int], float]] = {}
        with progress(f"scores on {subset}", len(cells)) as tick:
            for cell in cells:
                check_stop("run the command with --report to make the table")
                value = self._score(cell, subset, keep)
                found.setdefault((cell.group, cell.row), {})[cell.key] = value
                tick(1)
        return {key: dict(values) for key, values in found.items()}

    def _score(self, cell: Cell, subset: str, keep: bool) -> float:
        path = cell.draw.annotations
        if path not in self._annotations:
            self._annotations[path] = annotation_files.read(path)
        truth = self._annotations[path].subset(subset)
        table = truth.table()
        if table.empty:
            raise UserError(f"{path}: subset {subset!r} has no annotation to score on")
        detections = read_detections(cell.detections(self.out))
        inside = detections[detections["video"].isin(truth.videos.keys())]
        # Labels of other subsets change no precision; of each cell the log would say so.
        known = inside[inside["label"].isin(table["label"])]
        if known.empty:  # a detector that has learned nothing
            return 0.0
        result = score(truth, known, self.protocol, subset)
        if keep:
            run = cell.run(self.out)
            notes = {
                "detections": str(cell.detections(self.out)),
                "annotations": str(path),
                "detections_with_labels_of_other_subsets": len(inside) - len(known),
                "provenance": Run.load(run, "cpu").provenance,
            }
            text = json.dumps(notes | document(result), indent=1) + "\n"
            write_text(run / "scores.json", text)
        return 100 * result.scores.average_mAP


def read_detections(path: Path) -> pd.DataFrame:
    """The detections that a cell has written.

    Raises:
        UserError: The file is gone or damaged.
    """
    # Not the reader of foreign files: it says a line about each, and there are hundreds.
    try:
        return pd.read_csv(path, dtype={"video": str, "label": str}, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); delete the log of its detect step and run the "
            "study again"
        ) from error


def choose_control(study: Study, group: str, validation: Scores) -> str | None:
    """The row that the others of a group are compared with.

    The one that the study names, or of all rows without a motion teacher the one with the highest
    mAP on validation, over the cells that they all have.
    """
    if study.control != STRONGEST:
        return study.control if study.control in study.names(group) else None
    candidates = {
        row: validation[group, row]
        for row in study.names(group)
        if study.rows[row].role in WITHOUT_TEACHER and validation.get((group, row))
    }
    if not candidates:
        return None
    shared = set.intersection(*(set(values) for values in candidates.values()))

    def strength(row: str) -> float:
        values = candidates[row]
        return mean(value for key, value in values.items() if key in shared or not shared)

    return max(candidates, key=strength)


def sum_up(
    study: Study,
    cells: Iterable[Cell],
    validation: Scores,
    test: Scores,
    controls: Mapping[str, str | None],
) -> list[GroupResult]:
    """The lines of the table.

    Args:
        study: The study.
        cells: All cells of the grid, finished or not.
        validation: Scores of the finished ones.
        test: Likewise.
        controls: Of each group, as :func:`choose_control` says.
    """
    numbers: dict[tuple[str, str], int] = {}
    for cell in cells:
        numbers[cell.group, cell.row] = numbers.get((cell.group, cell.row), 0) + 1
    found = []
    for group in study.group_names:
        rows = []
        for row in study.names(group):
            key = group, row
            rows.append(
                RowResult(
                    row=row,
                    num_cells=numbers.get(key, 0),
                    validation=spread(validation[key]) if validation.get(key) else None,
                    test=spread(test[key]) if test.get(key) else None,
                    values=test.get(key, {}),
                    difference=_difference(study, key, controls[group], test),
                    on_validation=_difference(study, key, controls[group], validation),
                    gap_closed=gap_closed(study, group, row, test),
                )
            )
        found.append(GroupResult(group, controls[group], rows, _compare(study, group, test)))
    return found


def gap_closed(study: Study, group: str, row: str, test: Scores) -> float | None:
    """Per cent of the way from baseline to upper that a row goes, over the cells all three have."""
    baseline, upper = study.baseline(group), study.upper(row, group)
    if baseline is None or upper is None or row in (baseline, upper):
        return None
    if study.rows[row].role == "teacher":
        return None
    values = [test.get((group, name), {}) for name in (row, baseline, upper)]
    shared = set.intersection(*(set(of_row) for of_row in values))
    if not shared:
        return None
    at, low, high = (spread({key: of_row[key] for key in shared}).mean for of_row in values)
    return 100 * (at - low) / (high - low) if high > low else None


def _difference(
    study: Study, key: tuple[str, str], control: str | None, scores: Scores
) -> Paired | None:
    group, row = key
    if control is None or row == control or study.rows[row].role == "teacher":
        return None
    return paired(scores.get(key, {}), scores.get((group, control), {}))


def _compare(study: Study, group: str, test: Scores) -> list[tuple[str, str, Paired]]:
    found = []
    for better, worse in study.compare:
        difference = paired(test.get((group, better), {}), test.get((group, worse), {}))
        if difference is not None:
            found.append((better, worse, difference))
    return found
