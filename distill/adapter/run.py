"""From a store with maps to a store with the copy's stream: probes, training, export, report."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import tad_distill
from tad_distill import config as settings
from tad_distill import console
from tad_distill.config import ConfigError
from tad_distill.console import UserError
from tad_distill.data import annotations as annotation_files
from tad_distill.data.annotations import AnnotationSet, Video
from tad_distill.data.dataset import Dataset
from tad_distill.data.store import Store
from tad_distill.distill import checkpoint
from tad_distill.distill.adapter.config import AdapterConfig
from tad_distill.distill.adapter.loop import Trainer
from tad_distill.distill.adapter.stage import Base, export
from tad_distill.distill.adapter.windows import OutputGrid, Targets
from tad_distill.distill.run_folder import RunFolder
from tad_distill.evaluate.gates import Probes, probe_stream
from tad_distill.evaluate.gates_command import advise, show_probes

PRODUCT, REPORT = "adapter.pt", "report.json"

# Where no validation subset is named, one video in this many is kept out of the training.
HELD_OUT = 10
# Measured on the built-in world: 0.40 to 0.47 where students were 3 to 9 mAP above their control;
# 0.18 to 0.38 with a backbone that knows little motion, where they still gained on RGB alone; with
# one that knows none 0.04 and less, and students gained next to nothing.
LITTLE_EXPLAINED = 0.15


@dataclass(frozen=True)
class Inputs:
    """What an adapter reads.

    Attributes:
        store: The features.
        base: The network whose last stage is copied.
        training: The training videos.
        validation: Those that the copy is held against.
        annotations: Of all subsets; None if no file was named.
        labels: All labels.
    """

    store: Store
    base: Base
    training: Dataset
    validation: Dataset
    annotations: AnnotationSet | None
    labels: tuple[str, ...]

    def identity(self, teacher: str | None) -> dict[str, Any]:
        """What makes two runs comparable: another value means other data or another base."""
        return {
            "maps": self.base.maps.spec.hash,
            "weights": self.base.encoder.spec.weights,
            "output": self.base.encoder.spec.hash,
            "teacher": self.store.stream(teacher).spec.hash if teacher else None,
            "training_set": self.training.fingerprint(),
            "validation_set": self.validation.fingerprint(),
        }


def adapt(config: AdapterConfig, out: Path, overwrite: bool = False) -> dict[str, Any]:
    """Train a copy of the last stage and write its features into the store.

    Args:
        config: What to train.
        out: The run's folder; a finished training is left as it is, and its export completed.
        overwrite: Train anew, whatever stands there.

    Returns:
        The report, as it stands in ``report.json``.

    Raises:
        UserError: Something does not fit together, or the loss is not finite any more.
        ConfigError: The folder holds a run of other settings or other data.
        Interrupted: A signal asked for a stop; the state is saved.
    """
    inputs = open_inputs(config)
    teacher = config.adapter.taught_by
    folder = RunFolder(out, PRODUCT)
    names = [inputs.base.stream(config.adapter.copy_name, p) for p in config.adapter.export]
    if overwrite or not (out / PRODUCT).is_file():
        _refuse_taken(inputs.store, names)  # before a folder is claimed for nothing
    finished = folder.claim(config, inputs.identity(teacher), overwrite)
    # Of a control too the teacher's features are probed, if they are there.
    probes = _probe(inputs, [str(inputs.base.encoder.name), teacher or config.adapter.teacher])
    if config.adapter.target == "teacher" and len(probes) == 2:
        _advise(*probes)
    if finished:
        console.log("finished_already", run=out)
    else:
        _train(config, inputs, teacher, folder)
    copy = checkpoint.load(out / PRODUCT)["copy"]
    export(inputs.base, inputs.store, out / PRODUCT, copy["name"], config.adapter.export)
    probes += _probe(inputs, names)
    report = {"streams": names, **copy, "probes": [_plain(probe) for probe in probes]}
    checkpoint.write_json(report, out / REPORT)
    if probes:
        show_probes(probes)
    explained = report["validation"].get("explained_variance")
    if config.adapter.target == "teacher" and explained is not None:
        _warn_if_little(explained)
    return report


def open_inputs(config: AdapterConfig) -> Inputs:
    """Open what an adapter reads, and hold the parts against each other.

    Raises:
        ConfigError: The store is not named, or labels are to be learned and none are named.
        UserError: A stream, a subset or features are missing, or the maps do not fit.
    """
    data, adapter = config.data, config.adapter
    if data.store is None:
        raise ConfigError("data.store: not set; name it with --store PATH")
    if adapter.target == "labels" and data.annotations is None:
        raise ConfigError("data.annotations: not set, but adapter.target is labels")
    store = Store.open(data.store)
    maps = store.stream(adapter.maps)
    base = Base.open(maps, adapter, config.train.device)
    streams = {name: store.stream(name) for name in [adapter.taught_by] if name}
    grid = OutputGrid(streams, maps, base.encoder.spec, data.cache_mb * 2**20)
    annotations = annotation_files.read(data.annotations) if data.annotations else None
    training, validation = _subsets(config, annotations, maps.videos)
    labels = training.labels
    # A teacher needs no labels; which videos have some decides what the control may see.
    taught = replace(data, unlabelled=True)
    named = annotations.videos.keys() if annotations else training.videos.keys()
    unlisted = set(maps.videos) - named if data.unlisted and annotations else set()
    seed = config.train.seed
    inputs = Inputs(
        store=store,
        base=base,
        training=Dataset(grid, training, labels, taught, seed, unlisted),
        validation=Dataset(grid, validation, labels, replace(taught, label_fraction=1.0), seed),
        annotations=annotations,
        labels=labels,
    )
    console.log("training_set", maps=maps.name, **inputs.training.counts)
    console.log("validation_set", videos=len(inputs.validation))
    if adapter.target == "labels" and not any(inputs.training.labelled):
        raise UserError(f"{data.annotations}: no video of {data.subset!r} has annotations")
    if not len(inputs.training):
        raise UserError(f"{store.path}: no video to train on has features in all streams")
    return inputs


def _subsets(
    config: AdapterConfig, annotations: AnnotationSet | None, stored: Sequence[str]
) -> tuple[AnnotationSet, AnnotationSet]:
    """The videos to train on and those to hold the copy against."""
    data = config.data
    if annotations is None:
        videos = {name: Video(name, data.subset, None, None, ()) for name in stored}
        training = AnnotationSet(videos, (), str(data.store))
    else:
        training = annotations.subset(data.subset)
        if data.validation_subset:
            return training, annotations.subset(data.validation_subset)
    names = sorted(training.videos)
    order = np.random.default_rng(config.train.seed).permutation(len(names))
    held_out = {names[i] for i in order[: max(1, len(names) // HELD_OUT)]}
    console.log("held_out", videos=len(held_out), of=len(names))
    rest = [name for name in names if name not in held_out]
    return training.without(held_out), training.without(rest)


def _train(config: AdapterConfig, inputs: Inputs, teacher: str | None, folder: RunFolder) -> None:
    targets = Targets(inputs.training, teacher, len(inputs.labels))
    trainer = Trainer(inputs.base, inputs.training, targets, config.train)
    trainer.run(folder)
    score = trainer.validate(inputs.validation)
    what = "explained_variance" if teacher else "accuracy"
    notes = {
        "name": config.adapter.copy_name,
        "target": config.adapter.target,
        "teacher": {"stream": teacher, "hash": inputs.store.stream(teacher).spec.hash}
        if teacher
        else None,
        "maps": inputs.base.maps.spec.hash,
        "recipe": {
            key: value
            for key, value in settings.dump(config.train).items()
            if key not in ("device", "log_every", "save_every_s")
        },
        "steps": trainer.step,
        "preset": config.preset,
        "training_set": inputs.training.fingerprint(),
        "counts": dict(inputs.training.counts),
        "validation": {what: None if math.isnan(score) else score},
        "tad_distill": tad_distill.__version__,
    }
    folder.finish(trainer.copy.product(notes))
    console.log("adapted", run=folder.path, step=trainer.step, **{what: score})


def _refuse_taken(store: Store, names: list[str]) -> None:
    for name in names:
        if name in store.streams():
            raise UserError(
                f"{store.path}: stream {name} is there already, made by another run; choose "
                "another name with --set adapter.name=NAME, or delete its folder "
                f"{store.stream(name).folder}"
            )


def _probe(inputs: Inputs, streams: Sequence[str]) -> list[Probes]:
    """What the features of some streams know, as far as labels and streams are there."""
    annotations, there = inputs.annotations, inputs.store.streams()
    if annotations is None or not inputs.validation.counts["segments"]:
        return []
    known = {
        video
        for video, labelled in zip(inputs.training.videos, inputs.training.labelled, strict=True)
        if labelled
    }
    scored = set(inputs.validation.videos)
    if not known:
        return []
    train, held_out = (
        annotations.without(annotations.videos.keys() - videos) for videos in (known, scored)
    )
    opened = [inputs.store.stream(name) for name in streams if name in there]
    return [probe_stream(s, train, held_out) for s in opened if len(s.spec.shape) == 1]


def _advise(rgb: Probes, teacher: Probes) -> None:
    ours, theirs = (probes.accuracy.get("motion") for probes in (rgb, teacher))
    if ours and theirs:
        advise(100 * (theirs.mean - ours.mean))


def _warn_if_little(explained: float) -> None:
    if explained < LITTLE_EXPLAINED:
        console.warn(
            f"the copy explains {explained:.2f} of the teacher's features in held-out videos; "
            f"below {LITTLE_EXPLAINED:g} a student is unlikely to gain: the maps that the copied "
            "stage reads may hold no motion; take a backbone that was pretrained on it, or streams "
            "ending in .rich"
        )


def _plain(probes: Probes) -> dict[str, Any]:
    auc = probes.action_auc
    return asdict(probes) | {"action_auc": None if math.isnan(auc) else auc}
