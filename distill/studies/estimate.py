"""What a study will take: measured where something has finished, else as its file says."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from tad_distill.distill.studies.cells import Cell, detect_step
from tad_distill.distill.studies.grid import Grid
from tad_distill.steps import Step, cost, state


@dataclass(frozen=True)
class Estimate:
    """Of one row of a group, or of what a draw's cells share.

    Attributes:
        group: Its group; empty for what is shared.
        row: Its name; empty likewise.
        num_all: Cells, or draws.
        num_done: Those that have finished.
        num_failed: Those with a step that failed when it was last tried.
        cpu_s: Processor seconds of one; None if nothing tells.
        disk_mb: Disk space of one; None if nothing tells.
        measured: Whether finished ones tell.
    """

    group: str
    row: str
    num_all: int
    num_done: int
    num_failed: int
    cpu_s: float | None
    disk_mb: float | None
    measured: bool

    @property
    def num_left(self) -> int:
        """How many have to be run."""
        return self.num_all - self.num_done


def rows(grid: Grid) -> list[Estimate]:
    """One estimate for each row of each group."""
    by_row: dict[tuple[str, str], list[Cell]] = {}
    for cell in grid.cells:
        by_row.setdefault((cell.group, cell.row), []).append(cell)
    finished = set(grid.finished())
    found = []
    for (group, row), of_row in by_row.items():
        pairs = [(grid.train_step(c), detect_step(grid.study, c, grid.out)) for c in of_row]
        done = [cell for cell in of_row if cell in finished]
        seconds = [_seconds(pair) for c, pair in zip(of_row, pairs, strict=True) if c in finished]
        found.append(
            Estimate(
                group=group,
                row=row,
                num_all=len(of_row),
                num_done=len(done),
                num_failed=sum("failed" in map(state, pair) for pair in pairs),
                cpu_s=mean(seconds) if seconds else grid.study.rows[row].about_s,
                disk_mb=size_mb(done[0].run(grid.out)) if done else grid.study.about_run_mb,
                measured=bool(seconds),
            )
        )
    return found


def shared(grid: Grid) -> Estimate:
    """One estimate for what the cells of a draw share."""
    with_steps = [found for found in grid.draws if found.steps]
    done = [found for found in with_steps if {state(step) for step in found.steps} == {"done"}]
    seconds = [_seconds(found.steps) for found in done]
    sizes = [] if grid.setup.stores else [size_mb(found.draw.store.parent) for found in done]
    return Estimate(
        group="",
        row="",
        num_all=len(with_steps),
        num_done=len(done),
        num_failed=sum("failed" in map(state, found.steps) for found in with_steps),
        cpu_s=mean(seconds) if seconds else grid.study.about_world_s,
        disk_mb=mean(sizes) if sizes else grid.study.about_world_mb,
        measured=bool(seconds),
    )


def size_mb(folder: Path) -> float:
    """What the files of a folder take, in 1,000,000 bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def _seconds(steps: Iterable[Step]) -> float:
    return sum(found.cpu_s for step in steps if (found := cost(step)) is not None)
