"""What all cells of a draw share, made once: world, backbones, features, copies of the last stage.

A world is rendered, its backbones pretrained and its copies trained with seeds of its own, so that
the spread over worlds holds all of that. On one's own store only copies are made.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tad_distill.config import ConfigError
from tad_distill.console import UserError
from tad_distill.data.store import Store
from tad_distill.distill.adapter import config as adapter_settings
from tad_distill.distill.adapter.config import AdapterConfig
from tad_distill.distill.studies.cells import Draw
from tad_distill.distill.studies.schema import Adaptation, Study, expand
from tad_distill.steps import Args, Step, state


@dataclass
class Shared:
    """A draw and the steps that make it.

    Attributes:
        draw: What cells read.
        steps: In an order that their needs allow.
        makers: Stream -> the step after which it is in the store.
    """

    draw: Draw
    steps: list[Step] = field(default_factory=list)
    makers: dict[str, str] = field(default_factory=dict)

    def copies(self, streams: Iterable[str]) -> list[Step]:
        """The steps that train the copies among some streams."""
        names = {self.makers.get(stream) for stream in streams if "+" in stream}
        return [step for step in self.steps if step.name in names]


def base_of(stream: str) -> str:
    """The ``BACKBONE:MODALITY`` of a stream.

    >>> base_of("tsm18:rgb+motion.rich"), base_of("tsm18:rgb@layer3")
    ('tsm18:rgb', 'tsm18:rgb')
    """
    return re.split(r"[+.@]", stream, maxsplit=1)[0]


def copy_of(stream: str) -> str | None:
    """The ``BACKBONE:MODALITY+COPY`` of a stream that a copy makes.

    >>> copy_of("tsm18:rgb+motion.rich"), copy_of("tsm18:rgb.rich")
    ('tsm18:rgb+motion', None)
    """
    return stream.split(".", 1)[0] if "+" in stream else None


def world(study: Study, number: int, folder: Path, streams: Iterable[str]) -> Shared:
    """Plan a world that has these streams.

    Args:
        study: Says how.
        number: Of the world; its seed.
        folder: Where it is put.
        streams: What the cells read.

    Raises:
        ConfigError: The study does not say how to make one of them.
    """
    name = f"world{number}"
    path, logs, store = folder / "world", folder / "logs", folder / "features"
    draw = Draw(name, number, store, path / "annotations.json")
    shared = Shared(draw)
    args: Args = ["data", "world", path, "--size", study.world.size, "--seed", number]
    args += ["--workers", 1, *_set(study.world.settings)]
    shared.steps.append(Step(f"{name}.world", args, logs))
    for stream in streams:
        _add(study, shared, stream, folder)
    return shared


def stores(
    study: Study, draws: Iterable[Draw], streams: Iterable[str], out: Path, folds: bool
) -> list[Shared]:
    """Plan draws on stores that are there already; only copies can be made.

    Raises:
        UserError: A store lacks streams, or lacks copies that it cannot be given.
    """
    planned = []
    for draw in draws:
        there = Store.open(draw.store).streams()
        shared = Shared(draw)
        wanted = list(streams)
        lacking = []
        for stream in wanted:
            copy = copy_of(stream)
            if copy in study.adapt and not folds:
                step, needs = _adapt_step(study, draw, copy, stream, out / draw.name, out / "logs")
                lacking += [name for name in needs if name not in there]
                if stream not in there or state(step) != "open":
                    _append(shared, step, stream)
            elif stream not in there:
                lacking.append(stream)
        if lacking:
            raise UserError(
                f"{draw.store}: no stream {', '.join(dict.fromkeys(lacking))} (there are "
                f"{', '.join(there) or 'none'}); make it with tad-distill extract or adapt, name "
                "others with --set words.rgb=STREAM, or leave rows out with --row"
            )
        planned.append(shared)
    return planned


def _add(study: Study, shared: Shared, stream: str, folder: Path) -> str:
    """Plan one stream of a world; the name of the step that puts it into the store."""
    if stream in shared.makers:
        return shared.makers[stream]
    copy = copy_of(stream)
    draw, logs = shared.draw, folder / "logs"
    if copy is not None:
        if copy not in study.adapt:
            raise ConfigError(f"adapt: no table for {copy!r}, which a row reads as {stream!r}")
        step, reads = _adapt_step(study, draw, copy, stream, folder, logs)
        step.needs.extend(dict.fromkeys(_add(study, shared, name, folder) for name in reads))
        return _append(shared, step, stream)
    base = base_of(stream)
    if base not in study.pretrain:
        raise ConfigError(f"pretrain: no table for {base!r}, which a row reads as {stream!r}")
    weights = folder / "weights" / f"{base.replace(':', '.')}.pt"
    args: Args = ["extract", folder / "world/videos", "--store", draw.store]
    args += ["--preset", study.world.preset, "--stream", stream, "--weights", f"{stream}={weights}"]
    needs = [_pretrain(study, shared, base, weights, logs)]
    args += _set((*study.world.extract, *study.pretrain[base].extract))
    return _append(shared, Step(f"{draw.name}.extract.{stream}", args, logs, needs), stream)


def _pretrain(study: Study, shared: Shared, base: str, weights: Path, logs: Path) -> str:
    name = f"{shared.draw.name}.pretrain.{base}"
    if all(step.name != name for step in shared.steps):
        how, (backbone, _, modality) = study.pretrain[base], base.partition(":")
        clips = shared.draw.annotations.with_name("clips") / "clips.csv"
        args: Args = ["pretrain", clips, "--preset", how.preset, "--backbone", backbone]
        args += ["--modality", modality, "--out", weights]
        args += _set((f"seed={shared.draw.number}", *how.settings))
        shared.steps.append(Step(name, args, logs, [f"{shared.draw.name}.world"]))
    return name


def _adapt_step(
    study: Study, draw: Draw, copy: str, stream: str, folder: Path, logs: Path
) -> tuple[Step, list[str]]:
    """The step that trains a copy and puts its streams into the store, and what it reads.

    Raises:
        ConfigError: The preset or a setting is wrong, or it makes other streams.
    """
    how = study.adapt[copy]
    found = adapter(study, copy)
    made = [copy if pooling == "mean" else f"{copy}.{pooling}" for pooling in found.adapter.export]
    if stream not in made:
        raise ConfigError(
            f"adapt.{copy}: makes {', '.join(made)}, but a row reads {stream}; set adapter.name "
            "or adapter.export"
        )
    args: Args = ["adapt", "--preset", how.preset, "--store", draw.store]
    args += ["--annotations", draw.annotations, "--out", folder / "copies" / copy]
    args += ["--seed", draw.number]
    args += _set((f"data.label_seed={draw.number}", *_settings(study, copy, how)))
    # A copy that learns labels, the control, needs no teacher.
    taught = [found.adapter.teacher] if found.adapter.target == "teacher" else []
    reads = [found.adapter.maps, *taught]
    return Step(f"{draw.name}.adapt.{copy}", args, logs), reads


def adapter(study: Study, copy: str) -> AdapterConfig:
    """The settings of a copy's training.

    Raises:
        ConfigError: The preset or a setting is wrong; with the dotted key.
    """
    how = study.adapt[copy]
    overrides = [
        *_settings(study, copy, how),
        "data.store=store",
        "data.annotations=annotations",
    ]
    try:
        found = adapter_settings.load_preset(how.preset, overrides)
    except ConfigError as error:
        raise ConfigError(f"adapt.{copy}: {error}") from error
    base = base_of(found.adapter.maps)
    if f"{base}+{found.adapter.copy_name}" != copy:
        raise ConfigError(
            f"adapt.{copy}: makes {base}+{found.adapter.copy_name}; set adapter.name or "
            "adapter.maps, or name the table after it"
        )
    return found


def _settings(study: Study, copy: str, how: Adaptation) -> list[str]:
    return [expand(text, study.words, f"adapt.{copy}.settings") for text in how.settings]


def _append(shared: Shared, step: Step, stream: str) -> str:
    if all(other.name != step.name for other in shared.steps):
        shared.steps.append(step)
    shared.makers[stream] = step.name
    return step.name


def _set(settings: Iterable[str]) -> Args:
    args: Args = []
    for setting in settings:
        args += ["--set", setting]
    return args
