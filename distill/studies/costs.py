"""What the rows of a study cost: processor time, storage, size of the detector."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from torch import nn

from tad_distill.data.store import Store
from tad_distill.data.summary import summarise
from tad_distill.distill.model import Decomposed, Detector
from tad_distill.distill.predict import Run
from tad_distill.steps import Step, cost


@dataclass(frozen=True)
class RowCost:
    """What one row costs; None where nothing has finished that tells.

    Attributes:
        streams: What its detector reads at inference.
        train_cpu_s: Processor seconds to train it, mean over its cells; its teacher's aside.
        once_cpu_s: Processor seconds to train the copies that it reads, mean over draws.
        kb_per_s: Stored kilobytes (1,000 bytes) of its streams per second of video.
        num_parameters: Of the detector at inference; backbones aside.
    """

    streams: list[str]
    train_cpu_s: float | None
    once_cpu_s: float | None
    kb_per_s: float | None
    num_parameters: int | None


def row_cost(
    streams: Sequence[str],
    train: Iterable[Step],
    copies: Sequence[Sequence[Step]],
    store: Path | None,
    run: Path | None,
) -> RowCost:
    """Sum up what a row costs.

    Args:
        streams: What its detector reads.
        train: The training step of each cell.
        copies: For each draw, the steps that train the copies it reads.
        store: A finished store.
        run: A finished run.
    """
    trained = [found.cpu_s for step in train if (found := cost(step)) is not None]
    made = [[found.cpu_s for step in steps if (found := cost(step))] for steps in copies]
    once = [sum(seconds) for seconds in made if seconds]
    return RowCost(
        streams=list(streams),
        train_cpu_s=mean(trained) if trained else None,
        once_cpu_s=mean(once) if once else None,
        kb_per_s=None if store is None else kb_per_s(store, streams),
        num_parameters=None if run is None else num_parameters(Run.load(run, "cpu").model),
    )


def kb_per_s(store: Path, streams: Iterable[str]) -> float | None:
    """Stored kilobytes of some streams per second of video; None if durations are not known."""
    opened = Store.open(store)
    total = 0.0
    for name in streams:
        stream = opened.stream(name)
        durations = [stream.entry(video).duration_s for video in stream.videos]
        known = [seconds for seconds in durations if seconds is not None]
        if not known or len(known) < len(durations):
            return None
        total += summarise(stream)["bytes"] / sum(known) / 1000
    return total


def num_parameters(model: Detector) -> int:
    """Parameters that detection uses: not those of the heads that only training has."""
    unused: list[nn.Module | None] = [model.branch_head]
    if isinstance(model, Decomposed):
        unused.append(model.motion_encoder)
    left_out = {id(p) for module in unused if module is not None for p in module.parameters()}
    return sum(p.numel() for p in model.parameters() if id(p) not in left_out)
