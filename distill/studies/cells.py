"""The cells of a study: one detector of a row, on one draw of the data, with one seed.

A *draw* is a world rendered anew, or a fold of a store. All cells of a draw share its features; all
rows of a draw have the same seeds, so that their differences are paired.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tad_distill.config import ConfigError
from tad_distill.distill import config as settings
from tad_distill.distill.config import Experiment
from tad_distill.distill.studies.schema import ALL, STRONGEST, Study, expand
from tad_distill.steps import Args, Step
from tad_distill.units import Unit

# The weights and batches of another draw are drawn from other seeds.
SEEDS_PER_DRAW = 100


@dataclass(frozen=True)
class Draw:
    """What the cells of a draw read.

    Attributes:
        name: As ``world0`` or ``fold0``.
        number: Its place; seeds are made of it.
        store: The features.
        annotations: With the subsets of the study.
    """

    name: str
    number: int
    store: Path
    annotations: Path


@dataclass(frozen=True)
class Cell:
    """One detector."""

    group: str
    row: str
    draw: Draw
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        """What pairs it with the cells of other rows."""
        return self.draw.name, self.seed

    @property
    def name(self) -> str:
        """A name for its logs."""
        group = "" if self.group == ALL else f"{self.group}."
        return f"{group}{self.row}.{self.draw.name}.seed{self.seed}"

    def run(self, out: Path) -> Path:
        """The folder of its run."""
        group = "" if self.group == ALL else self.group
        return out / "runs" / group / self.row / f"{self.draw.name}_seed{self.seed}"

    def detections(self, out: Path) -> Path:
        """What it finds in the validation and test videos."""
        return self.run(out) / "detections.csv"


def only(study: Study, names: Sequence[str], groups: Sequence[str] = ()) -> Study:
    """The study with these rows, their teachers and these groups alone; no names: all of them.

    Raises:
        ConfigError: There is no such row or group.
    """
    for option, wanted, there in (("row", names, study.rows), ("group", groups, study.groups)):
        for name in wanted:
            if name not in there:
                raise ConfigError(
                    f"--{option} {name}: no such {option} (there are {', '.join(there) or 'none'})"
                )
    kept = set(names or study.rows)
    for name in list(kept):
        while (teacher := study.rows[name].teacher) is not None:
            kept.add(teacher)
            name = teacher
    left = {name: group for name, group in study.groups.items() if not groups or name in groups}
    rows = {}
    for name, row in study.rows.items():
        own = tuple(group for group in row.groups if group in left)
        if name in kept and (own or not row.groups):
            rows[name] = replace(row, upper=row.upper if row.upper in kept else None, groups=own)
    return replace(
        study,
        rows=rows,
        groups=left,
        compare=tuple(pair for pair in study.compare if set(pair) <= rows.keys()),
        control=study.control if study.control in rows else STRONGEST,
    )


def cells(study: Study, draws: Iterable[Draw], num_seeds: int) -> list[Cell]:
    """All cells, draw by draw and seed by seed; a teacher stands before its students."""
    return [
        Cell(group, row, draw, seed)
        for draw in draws
        for seed in range(num_seeds)
        for group in study.group_names
        for row in sorted(study.names(group), key=lambda row: _depth(study, row))
    ]


def _depth(study: Study, row: str) -> int:
    """How many teachers stand above a row."""
    teacher = study.rows[row].teacher
    return 0 if teacher is None else 1 + _depth(study, teacher)


def experiments(study: Study) -> dict[tuple[str, str], Experiment]:
    """The settings of every row of every group, checked before anything runs.

    Raises:
        ConfigError: Rows name presets, options or words that are not there; all of them are named.
    """
    expand(study.about, study.words, "about")
    found, wrong = {}, []
    for group in study.group_names:
        for row in study.names(group):
            where = f"rows.{row}" if group == ALL else f"rows.{row} (group {group})"
            try:
                found[group, row] = _experiment(study, group, row)
            except ConfigError as error:
                wrong.append(str(error) if str(error).startswith("rows.") else f"{where}: {error}")
    if wrong:
        raise ConfigError("; ".join(dict.fromkeys(wrong)))
    return found


def _experiment(study: Study, group: str, row: str) -> Experiment:
    stand_ins = ["data.store=store", "data.annotations=annotations"]
    if study.rows[row].teacher is not None:
        stand_ins.append("teacher.run=teacher")
    overrides = [*study.settings_of(row, group), *stand_ins]
    return settings.load_preset(study.preset_of(row, group), overrides)


def streams_of(
    study: Study, found: Mapping[tuple[str, str], Experiment], group: str, row: str
) -> list[str]:
    """The streams that training a row reads: its own, its teacher's and its grid's."""
    experiment = found[group, row]
    streams = dict.fromkeys(experiment.model.all_streams)
    if experiment.data.grid is not None:
        streams[experiment.data.grid] = None
    teacher = study.rows[row].teacher
    if teacher is not None:
        streams |= dict.fromkeys(found[group, teacher].model.all_streams)
    return list(streams)


def train_step(study: Study, cell: Cell, out: Path, needs: Sequence[str] = ()) -> Step:
    """Train a cell's detector.

    Args:
        study: The study.
        cell: The cell.
        out: Folder of the study.
        needs: The steps that make its streams.
    """
    args: Args = ["train", "--preset", study.preset_of(cell.row, cell.group)]
    args += ["--store", cell.draw.store, "--annotations", cell.draw.annotations]
    args += ["--out", cell.run(out), "--seed", SEEDS_PER_DRAW * cell.draw.number + cell.seed]
    waits = list(needs)
    teacher = study.rows[cell.row].teacher
    if teacher is not None:
        teaching = replace(cell, row=teacher)
        args += ["--teacher", teaching.run(out)]
        waits.append(f"{teaching.name}.train")
    # Which videos are labelled is drawn anew as well, the same for all rows of a draw.
    for setting in (
        f"data.label_seed={cell.draw.number}",
        *study.settings_of(cell.row, cell.group),
    ):
        args += ["--set", setting]
    return Step(f"{cell.name}.train", args, out / "logs", waits)


def detect_step(study: Study, cell: Cell, out: Path) -> Step:
    """Detect with a trained cell; nothing is scored here."""
    args: Args = ["detect", cell.draw.store, "--model", cell.run(out)]
    args += ["--annotations", cell.draw.annotations, "--pictures", 0]
    for subset in dict.fromkeys((study.validation, study.test)):
        args += ["--subset", subset]
    args += ["--out", cell.detections(out)]
    return Step(f"{cell.name}.detect", args, out / "logs", [f"{cell.name}.train"])


def share(all_cells: Sequence[Cell], unit: Unit) -> list[Cell]:
    """The cells of a share: neighbours, so that few draws and seeds meet in it."""
    size = len(all_cells)
    first, end = (size * number // unit.count for number in (unit.number, unit.number + 1))
    return list(all_cells[first:end])


def needed(plan: Sequence[Step], names: Iterable[str]) -> list[Step]:
    """The named steps of a plan and all that they need, in the plan's order."""
    by_name = {step.name: step for step in plan}
    wanted: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting += by_name[name].needs
    return [step for step in plan if step.name in wanted]
