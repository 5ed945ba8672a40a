"""A study on its data: draws, cells and the steps that make them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tad_distill import config, console
from tad_distill.config import ConfigError
from tad_distill.data import annotations as annotation_files
from tad_distill.data.files import write_text
from tad_distill.distill.config import Experiment
from tad_distill.distill.studies import shared as draws
from tad_distill.distill.studies.cells import (
    SEEDS_PER_DRAW,
    Cell,
    Draw,
    cells,
    detect_step,
    experiments,
    needed,
    streams_of,
    train_step,
)
from tad_distill.distill.studies.schema import Study
from tad_distill.distill.studies.shared import Shared
from tad_distill.evaluate.folds import fold
from tad_distill.steps import Step, finished

SAVED = "study.json"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A study and the data that it is run on.

    Attributes:
        study: What is compared.
        shared: Folder of the worlds; other studies may use it as well.
        stores: Feature stores with their annotations; none: worlds are rendered.
        folds: Cut the only store's videos into so many folds; 0: take subsets as they are.
    """

    study: Study
    shared: Path
    stores: tuple[tuple[Path, Path], ...] = ()
    folds: int = 0

    def __post_init__(self) -> None:
        """Refuse a setup without sense."""
        if self.study.seeds > SEEDS_PER_DRAW:
            raise ConfigError(f"seeds: at most {SEEDS_PER_DRAW}, got {self.study.seeds}")
        if self.folds and len(self.stores) != 1:
            raise ConfigError(
                f"--folds cuts one store's videos, found {len(self.stores)}; name one --store and "
                "its --annotations"
            )

    def save(self, out: Path) -> None:
        """Write it down, for a later table."""
        write_text(out / SAVED, json.dumps(config.dump(self), indent=1) + "\n")

    @classmethod
    def saved(cls, out: Path) -> "Setup":
        """What was run in a folder.

        Raises:
            ConfigError: No study has been run there, or one of another version.
        """
        path = out / SAVED
        if not path.is_file():
            raise ConfigError(f"{out}: no {SAVED} in it; no study has been run there")
        try:
            return config.load(cls, config.read(path))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error


class Grid:
    """All cells of a study and the steps to them.

    Attributes:
        setup: What it is made of.
        out: Folder of the study.
        study: What is compared.
        experiments: The settings of each group and row.
        draws: With what their cells share.
        cells: Draw by draw.
    """

    def __init__(self, setup: Setup, out: Path) -> None:
        """Plan everything; nothing is written or run.

        Raises:
            ConfigError: A row, a word or an option is not there.
            UserError: A store lacks streams or annotations lack subsets.
        """
        self.setup, self.out, self.study = setup, out, setup.study
        self.experiments: dict[tuple[str, str], Experiment] = experiments(self.study)
        self.draws = self._stores() if setup.stores else self._worlds()
        self.cells = cells(self.study, [found.draw for found in self.draws], self.study.seeds)

    @property
    def kind(self) -> str:
        """What a draw is called."""
        return "fold" if self.setup.stores else "world"

    @property
    def streams(self) -> list[str]:
        """Every stream that a row reads in training."""
        found = [
            stream
            for group, row in self.experiments
            for stream in streams_of(self.study, self.experiments, group, row)
        ]
        return list(dict.fromkeys(found))

    @cached_property
    def steps(self) -> list[Step]:
        """Every step, the shared ones of a draw before its cells."""
        plan: list[Step] = []
        for found in self.draws:
            plan += found.steps
            for cell in self.cells:
                if cell.draw == found.draw:
                    plan += [self.train_step(cell), detect_step(self.study, cell, self.out)]
        return plan

    def train_step(self, cell: Cell) -> Step:
        """The step that trains a cell."""
        makers = next(found.makers for found in self.draws if found.draw == cell.draw)
        streams = streams_of(self.study, self.experiments, cell.group, cell.row)
        needs = dict.fromkeys(makers[stream] for stream in streams if stream in makers)
        return train_step(self.study, cell, self.out, list(needs))

    def steps_of(self, chosen: Sequence[Cell]) -> list[Step]:
        """The steps of some cells and all that they need."""
        return needed(self.steps, [f"{cell.name}.detect" for cell in chosen])

    def finished(self) -> list[Cell]:
        """The cells whose detections are there."""
        done = finished(self.steps)
        return [cell for cell in self.cells if f"{cell.name}.detect" in done]

    def write_folds(self) -> None:
        """Write the annotations of each fold, if the study has folds."""
        if not self.setup.folds:
            return
        ((_, path),) = self.setup.stores
        whole = annotation_files.read(path)
        for found in self.draws:
            parts = fold(whole, found.draw.number, self.setup.folds)
            annotation_files.write(found.draw.annotations, parts)
        console.log("folds", annotations=path, folds=self.setup.folds)

    def _worlds(self) -> list[Shared]:
        return [
            draws.world(self.study, number, self.setup.shared / f"world{number}", self.streams)
            for number in range(self.study.worlds)
        ]

    def _stores(self) -> list[Shared]:
        if self.setup.folds:
            ((store, path),) = self.setup.stores
            fold(annotation_files.read(path), 0, self.setup.folds)  # refuses what cannot be cut
            self._check_subsets({"training", "validation", "test"}, path)
            numbers = range(self.setup.folds)
            found = [Draw(f"fold{n}", n, store, self.out / f"folds/fold{n}.json") for n in numbers]
        else:
            found = []
            for number, (store, path) in enumerate(self.setup.stores):
                there = {name.lower() for name in annotation_files.read(path).subsets()}
                self._check_subsets(there, path)
                found.append(Draw(f"fold{number}", number, store, path))
        return draws.stores(self.study, found, self.streams, self.out, bool(self.setup.folds))

    def _check_subsets(self, there: set[str], path: Path) -> None:
        subsets = {experiment.data.subset for experiment in self.experiments.values()}
        for name in (*sorted(subsets), self.study.validation, self.study.test):
            if name.lower() not in there:
                raise ConfigError(
                    f"{path}: no subset {name!r} (there are {', '.join(sorted(there)) or 'none'}); "
                    "name others with --set validation=NAME, --set test=NAME and --set-train "
                    "data.subset=NAME, or let --folds cut the videos"
                )
        chosen = {self.study.validation.lower(), self.study.test.lower()}
        if len(chosen) < 2 or self.study.test.lower() in {name.lower() for name in subsets}:
            raise ConfigError(
                f"test: {self.study.test!r} is also trained or chosen on; name another subset"
            )
