"""Scored runs sorted into the rows of the paper's tables, seeds averaged; ours beside the paper's.

Only runs that differ in nothing but their seeds are averaged. Runs of one row that differ in more
stand under each other, with the settings in which they differ.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from tad_distill.console import UserError
from tad_distill.evaluate.paper import TABLES, Table
from tad_distill.evaluate.runs import Run, Unplaced, find, load

# How far a threshold may lie from the one that a table means: kits count them out in floats.
SAME_TIOU = 1e-6


@dataclass(frozen=True)
class Ours:
    """Runs that differ in their seeds alone.

    Attributes:
        runs: One or more.
        differing: Settings that set them apart from other runs of the row, as ``key=value``.
    """

    runs: tuple[Run, ...]
    differing: tuple[str, ...]

    @property
    def average(self) -> float:
        """Mean of the average mAP, a fraction of 1."""
        return mean(run.average_mAP for run in self.runs)

    @property
    def sd(self) -> float | None:
        """Standard deviation over seeds; ``None`` for one run."""
        return stdev(run.average_mAP for run in self.runs) if len(self.runs) > 1 else None

    def at(self, threshold: float) -> float:
        """Mean of the mAP at a threshold of the table."""
        places = [i for i, t in enumerate(self.runs[0].tiou) if abs(t - threshold) < SAME_TIOU]
        return mean(run.mAP[places[0]] for run in self.runs)


@dataclass(frozen=True)
class Line:
    """A line of a table: what we measured, what the paper reports; either may be missing.

    Attributes:
        title: The row.
        ours: Fractions of 1.
        paper: By threshold shown, and the average last; in percent, ``None`` for a dash.
    """

    title: str
    ours: Ours | None
    paper: tuple[float | None, ...]


@dataclass(frozen=True)
class Filled:
    """A table with its lines: the paper's rows in its order, then rows that are ours alone."""

    table: Table
    lines: tuple[Line, ...]

    @property
    def num_runs(self) -> int:
        """How many runs stand in it."""
        return sum(len(line.ours.runs) for line in self.lines if line.ours)


def collect(
    paths: Iterable[Path], scores_name: str = "scores.json"
) -> tuple[list[Run], list[Unplaced]]:
    """Read the runs in some folders; what cannot be read comes with the reason.

    Raises:
        UserError: A path is not there, or a folder holds no run.
    """
    runs: list[Run] = []
    unplaced: list[Unplaced] = []
    seen: dict[tuple[str, tuple[str, str]], Path] = {}
    for path in find(paths, scores_name):
        try:
            run = load(path)
        except UserError as error:
            unplaced.append(Unplaced(path, str(error)))
            continue
        before = seen.setdefault((run.key, run.seeds), path)
        if before == path:
            runs.append(run)
        else:
            unplaced.append(Unplaced(path, f"{path}: settings and seeds are those of {before}"))
    return runs, unplaced


def fill(runs: Sequence[Run]) -> tuple[list[Filled], list[Unplaced]]:
    """Sort runs into the tables; a run may stand in several.

    Returns:
        All tables, those without a run too; and the runs that stand in none.
    """
    filled = [_fill(table, runs) for table in TABLES]
    placed = {run.path for f in filled for line in f.lines if line.ours for run in line.ours.runs}
    return filled, [Unplaced(run.path, _why(run)) for run in runs if run.path not in placed]


def _fill(table: Table, runs: Sequence[Run]) -> Filled:
    rows: dict[str, list[Run]] = {title: [] for title in table.rows}
    extra: dict[str, list[Run]] = {}
    for run in runs:
        title = table.title(run.design) if _same(run.tiou, table.tiou) else None
        if title is not None:
            (rows if title in rows else extra).setdefault(title, []).append(run)
    lines = []
    for title, own in (*rows.items(), *sorted(extra.items())):
        paper = table.rows.get(title, (None,) * (len(table.shown) + 1))
        lines += [Line(title, group, paper) for group in _groups(own)]
        if not own:
            lines.append(Line(title, None, paper))
    return Filled(table, tuple(lines))


def _groups(runs: Sequence[Run]) -> list[Ours]:
    """Runs of one row by what they share."""
    by_key: dict[str, list[Run]] = {}
    for run in runs:
        by_key.setdefault(run.key, []).append(run)
    firsts = [group[0] for group in by_key.values()]
    keys = sorted({key for run in firsts for key in run.settings})
    varying = [key for key in keys if len({repr(run.settings.get(key)) for run in firsts}) > 1]
    features = len({repr(sorted(run.features.items())) for run in firsts}) > 1
    groups = []
    for group in by_key.values():
        differing = [f"{key}={group[0].settings.get(key, 'unset')}" for key in varying]
        if features:
            hashes = sorted(str(value)[:6] for value in group[0].features.values())
            differing.append(f"features {' '.join(hashes)}")
        groups.append(Ours(tuple(group), tuple(differing)))
    return groups


def _same(a: Sequence[float], b: Sequence[float]) -> bool:
    return len(a) == len(b) and all(abs(x - y) < SAME_TIOU for x, y in zip(a, b, strict=True))


def _why(run: Run) -> str:
    """Why a run stands in no table."""
    if not any(_same(run.tiou, table.tiou) for table in TABLES):
        listed = ", ".join(f"{t:.4g}" for t in run.tiou[:12])
        return f"{run.path}: no table averages over tIoU {listed}"
    return f"{run.path}: no row for {run.design}"
