"""What a run reads: store, annotations and teacher, opened and held against each other."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import tad_distill
from tad_distill import console
from tad_distill.config import ConfigError
from tad_distill.console import UserError
from tad_distill.data import annotations as annotation_files
from tad_distill.data.annotations import AnnotationSet
from tad_distill.data.dataset import Dataset
from tad_distill.data.grid import Grid
from tad_distill.data.store import Store
from tad_distill.distill.config import Experiment
from tad_distill.distill.predict import Run, check_streams


@dataclass(frozen=True)
class Sources:
    """What a run reads.

    Attributes:
        store: The features.
        annotations: Of all subsets.
        dataset: The training videos.
        teacher: The finished run that teaches, if any.
    """

    store: Store
    annotations: AnnotationSet
    dataset: Dataset
    teacher: Run | None

    def identity(self) -> dict[str, Any]:
        """What makes two runs comparable: another value means other data or another teacher."""
        grid, dataset = self.dataset.grid, self.dataset
        teacher = self.teacher
        return {
            "streams": {name: stream.spec.hash for name, stream in grid.streams.items()},
            "grid": {"stream": grid.base.name, "hash": grid.base.spec.hash},
            "training_set": dataset.fingerprint(),
            "teacher": None if teacher is None else teacher.weights_hash,
        }

    def provenance(self, experiment: Experiment) -> dict[str, Any]:
        """What goes beside every number of this run; plain values only."""
        teacher, grid = self.teacher, self.dataset.grid
        return {
            "tad_distill": tad_distill.__version__,
            "torch": str(torch.__version__),
            "preset": experiment.preset,
            "seed": experiment.train.seed,
            "store": str(self.store.path),
            "annotations": self.annotations.source,
            "subset": experiment.data.subset,
            "counts": dict(self.dataset.counts),
            "features": "frozen",
            "pretraining": {
                name: json.loads(stream.spec.json())["weights"]
                for name, stream in grid.streams.items()
            },
            "identity": self.identity(),
            "teacher": None
            if teacher is None
            else {"run": str(teacher.path), **teacher.provenance, "weights": teacher.weights_hash},
        }


def open_sources(experiment: Experiment, device: torch.device) -> Sources:
    """Open what an experiment reads, and hold the parts against each other.

    Raises:
        ConfigError: Store or annotations are not named.
        UserError: A stream, a subset, features or labels are missing, or a teacher does not fit.
    """
    data = experiment.data
    check_named(experiment)
    assert data.store is not None and data.annotations is not None
    store = Store.open(data.store)
    teacher = None
    if experiment.teacher.run is not None:
        teacher = Run.load(experiment.teacher.run, device)
    streams = experiment.model.all_streams
    taught = streams if teacher is None else (*streams, *teacher.model.streams)
    grid = make_grid(store, tuple(dict.fromkeys(taught)), experiment)
    annotations = annotation_files.read(data.annotations)
    if teacher is not None:
        check_teacher(teacher, store, grid, annotations.labels, experiment)
    subset = find_subset(annotations, experiment)
    unlisted = set(grid.base.videos) - annotations.videos.keys() if data.unlisted else set()
    dataset = Dataset(grid, subset, annotations.labels, data, experiment.train.seed, unlisted)
    console.log("training_set", subset=data.subset, streams=",".join(grid.dims), **dataset.counts)
    if not any(dataset.labelled):
        raise UserError(
            f"{data.annotations}: no video of subset {data.subset!r} has annotations: "
            "there is nothing to learn"
        )
    if not dataset.batches(0, 1, 0):
        raise UserError(
            f"{data.annotations}: in no window of {data.max_len} steps lies enough of a segment of "
            f"subset {data.subset!r}; raise data.max_len, or lower data.trunc_thresh "
            f"({data.trunc_thresh:g}) and data.window_keeps ({data.window_keeps:g})"
        )
    return Sources(store, annotations, dataset, teacher)


def check_named(experiment: Experiment) -> None:
    """Refuse an experiment that does not say where its data is.

    Raises:
        ConfigError: With the option, and where the data comes from if the preset knows.
    """
    data, needs = experiment.data, experiment.needs
    for key, path, source in (
        ("store", data.store, needs.features),
        ("annotations", data.annotations, needs.annotations),
    ):
        if path is None:
            raise ConfigError(
                f"data.{key}: not set; name it with --{key} PATH{_where(experiment, source)}"
            )
    lacks_scores = experiment.model.class_agnostic and experiment.predict.external_scores is None
    if needs.scores and lacks_scores:
        raise ConfigError(
            "predict.external_scores: not set, and the detector says where and not what; name the "
            "file of label scores with --set predict.external_scores=FILE"
            f"{_where(experiment, needs.scores)}; to find segments without labels, or to name the "
            "file when detecting, --set needs.scores="
        )


def find_subset(annotations: AnnotationSet, experiment: Experiment) -> AnnotationSet:
    """The training videos.

    Raises:
        UserError: There is no such subset.
    """
    try:
        return annotations.subset(experiment.data.subset)
    except UserError as error:
        where = _where(experiment, experiment.needs.annotations)
        raise UserError(f"{error}; name another with --set data.subset=NAME{where}") from error


def _where(experiment: Experiment, source: str) -> str:
    return f" (preset {experiment.preset}: {source})" if source else ""


def make_grid(store: Store, streams: Iterable[str], experiment: Experiment) -> Grid:
    """The common grid of some streams; all that the store lacks are named at once.

    Raises:
        UserError: The store lacks streams.
    """
    data = experiment.data
    names = tuple(streams)
    base = data.grid or experiment.model.all_streams[0]
    there = store.streams()
    lacking = [name for name in dict.fromkeys((*names, base)) if name not in there]
    if lacking:
        raise UserError(
            f"{store.path}: no stream {', '.join(lacking)} (there are {', '.join(there) or 'none'})"
            f"; preset {experiment.preset} needs them: {_remedy(lacking)}"
            f"{_where(experiment, experiment.needs.features)}"
        )
    opened = {name: store.stream(name) for name in names}
    return Grid(opened, store.stream(base), data.target_len, data.cache_mb * 2**20, data.step_s)


def _remedy(lacking: list[str]) -> str:
    """How to make streams; those of a copy of the last stage come from its training."""
    plain = [name for name in lacking if "+" not in name]
    copies = [name for name in lacking if "+" in name]
    ways = ["extract with " + " ".join(f"--stream {name}" for name in plain)] if plain else []
    ways += [f"make {', '.join(copies)} with tad-distill adapt"] if copies else []
    return "; ".join(ways)


def check_teacher(
    teacher: Run, store: Store, grid: Grid, labels: tuple[str, ...], experiment: Experiment
) -> None:
    """Refuse a teacher that speaks of other features, other labels or other instants.

    Raises:
        UserError: With what differs and the remedy.
    """
    check_streams(teacher, store)
    if teacher.labels != labels:
        only_teacher = sorted(set(teacher.labels) - set(labels))
        only_student = sorted(set(labels) - set(teacher.labels))
        raise UserError(
            f"{teacher.path}: the teacher knows {len(teacher.labels)} labels, the annotations have "
            f"{len(labels)}; only the teacher: {', '.join(only_teacher) or 'none'}; only the "
            f"annotations: {', '.join(only_student) or 'none'}; train it on the same annotations"
        )
    theirs, ours = teacher.experiment.data, experiment.data
    same_steps = teacher.base_spec.differences(grid.base.spec) == [] or all(
        getattr(teacher.base_spec, key) == getattr(grid.base.spec, key)
        for key in ("fps", "clip_frames", "stride_frames", "offset_frames")
    )
    # Both resampled to steps of the same length: their own steps do not matter.
    same_steps = same_steps or theirs.step_s > 0
    if (theirs.target_len, theirs.step_s) != (ours.target_len, ours.step_s) or not same_steps:
        raise UserError(
            f"{teacher.path}: the teacher's grid is that of {teacher.base_spec.stream} "
            f"(target_len={theirs.target_len}, step_s={theirs.step_s:g}), the student's that of "
            f"{grid.base.name} (target_len={ours.target_len}, step_s={ours.step_s:g}): their "
            "predictions do not correspond; train both with one data.grid, data.target_len and "
            "data.step_s"
        )


def statistics(dataset: Dataset) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation ``(D,)`` of each stream over all steps of the training videos."""
    count = 0
    sums = {s: torch.zeros(d, dtype=torch.float64) for s, d in dataset.grid.dims.items()}
    squares = {s: torch.zeros(d, dtype=torch.float64) for s, d in dataset.grid.dims.items()}
    for video in dataset.videos:
        feats = dataset.grid.read(video)
        count += dataset.grid.num_steps(video)
        for stream, array in feats.items():
            values = torch.from_numpy(array).double()
            sums[stream] += values.sum(0)
            squares[stream] += values.square().sum(0)
    found = {}
    for stream in sums:
        mean = sums[stream] / count
        variance = (squares[stream] / count - mean.square()).clamp(min=0)
        found[stream] = (mean.float(), variance.sqrt().float())
    return found
