"""Finished runs that were scored: their settings, their scores, and what design they are.

A run's folder holds ``config.json``, its resolved settings, and the file that ``eval --json``
wrote. What a run is follows from the settings, never from a name.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tad_distill.console import UserError
from tad_distill.data.files import parse_json, read_text
from tad_distill.evaluate.paper import NAMES, Design, Kind

# Settings that differ between runs whose scores are averaged: seeds, and where files lie.
FREE = (
    "preset",
    "train.seed",
    "data.label_seed",
    "data.store",
    "data.annotations",
    "data.test_subset",
    "data.cache_mb",
    "teacher.run",
    "adapter.weights",
    "train.device",
    "train.workers",
    "train.log_every",
    "train.save_every_s",
)

# Modalities by the beginning of their name: what a teacher or a stream looks at.
MODALITIES = (("rgb", "RGB"), ("tg", "gradient"), ("flow", "flow"), ("tvl1", "flow"))

Flat = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A run that was scored.

    Attributes:
        path: Its file of scores.
        design: What it is.
        settings: Its settings by dotted key, without those in ``FREE``.
        features: Hash of each stream's spec.
        preset: What it began as.
        seeds: Of the training and of the choice of labelled videos.
        data: What was scored: annotations, subset, videos, protocol.
        tiou: Thresholds.
        mAP: One per threshold; fractions of 1.
        labelled: Labelled and all training videos, as ``24/60``; ``?`` if nothing says so.
        frozen: ``frozen``, or what the provenance says of the features; ``?`` if nothing does.
    """

    path: Path
    design: Design
    settings: Flat = field(repr=False)
    features: Mapping[str, str] = field(repr=False)
    preset: str
    seeds: tuple[str, str]
    data: str
    tiou: tuple[float, ...]
    mAP: tuple[float, ...]
    labelled: str
    frozen: str

    @property
    def average_mAP(self) -> float:
        """The mean over thresholds."""
        return sum(self.mAP) / len(self.mAP)

    @property
    def key(self) -> str:
        """Equal for runs that differ in nothing but their seeds."""
        compared = [self.settings, dict(self.features), self.data, self.tiou, self.labelled]
        text = json.dumps([*compared, self.frozen], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Unplaced:
    """What was found and stands in no table, and why."""

    path: Path
    reason: str


def find(paths: Iterable[Path], scores_name: str = "scores.json") -> list[Path]:
    """The files of scores in some folders, at any depth; a file stands for itself.

    Folders of runs without such a file come as the place where it would be.

    Raises:
        UserError: A path is not there, or a folder holds no run.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_file():
            found.append(path)
            continue
        if not path.is_dir():
            raise UserError(f"{path}: no such file or folder")
        inside = {p.parent for p in (*path.rglob(scores_name), *path.rglob("config.json"))}
        if not inside:
            raise UserError(f"{path}: no run in it: no {scores_name} and no config.json")
        found += sorted(folder / scores_name for folder in inside)
    return list(dict.fromkeys(found))


def load(path: Path) -> Run:
    """Read a run from its file of scores and the ``config.json`` beside it.

    Raises:
        UserError: The run was not scored, a file is not what it should be, or the settings are
            none of a design that the tables know.
    """
    config_path = path.with_name("config.json")
    if not path.is_file():
        raise UserError(f"{path}: not scored yet; write it with: tad-distill eval --json {path}")
    if not config_path.is_file():
        raise UserError(f"{config_path}: not there, so nothing says what was run")
    scores = _table(path)
    config = _table(config_path)
    experiment = _part(config_path, config, "experiment")
    inputs = _part(config_path, config, "inputs")
    tiou, precisions = (_numbers(path, scores, key) for key in ("tiou", "mAP"))
    if not tiou or len(tiou) != len(precisions):
        raise UserError(f'{path}: "mAP": expected one value for each of {len(tiou)} thresholds')
    provenance = _provenance(path, scores)
    flat = flatten(experiment)
    counts = provenance.get("counts")
    counts = counts if isinstance(counts, dict) else {}
    return Run(
        path=path,
        design=design_of(config_path, experiment, inputs, provenance),
        settings={key: value for key, value in flat.items() if key not in FREE},
        features=_part(config_path, inputs, "streams"),
        preset=str(experiment.get("preset", "custom")),
        seeds=(str(flat.get("train.seed")), str(flat.get("data.label_seed"))),
        data=_data(path, scores),
        tiou=tiou,
        mAP=precisions,
        labelled=f"{counts.get('labelled', '?')}/{counts.get('videos', '?')}" if counts else "?",
        frozen=str(provenance.get("features", "?")),
    )


def design_of(
    path: Path,
    experiment: Mapping[str, Any],
    inputs: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Design:
    """What a run is, from its settings.

    Args:
        path: Named in errors.
        experiment: The settings as ``config.json`` holds them.
        inputs: What the inputs were, likewise; names the streams that were read.
        provenance: What stands beside the detections, if it does: names the teacher's streams.

    Raises:
        UserError: The settings are none of a design that the tables know.
    """
    model, head = _part(path, experiment, "model"), _part(path, experiment, "head")
    transfers = experiment.get("transfers") or []
    if not all(isinstance(t, dict) for t in transfers):
        raise UserError(f'{path}: "transfers": expected a list of tables')
    lessons = tuple(sorted(str(t.get("kind")) for t in transfers))
    decomposed = model.get("kind") == "decomposed"
    own = [model.get("appearance"), model.get("motion")] if decomposed else model.get("streams")
    if not isinstance(own, list) or not own or not all(isinstance(s, str) and s for s in own):
        raise UserError(f'{path}: "model": names no streams')
    seen = {name: _modality(path, name) for name in own}
    motions = {m for m in seen.values() if m != "RGB"}
    if lessons:
        motions |= {_modality(path, name) for name in _taught_by(inputs, provenance, own)}
    if len(motions) > 1:
        raise UserError(f"{path}: motion is both {' and '.join(sorted(motions))}")
    if lessons and not motions:
        raise UserError(f"{path}: nothing says which motion the teacher looks at")
    first_rgb = next((name for name, m in seen.items() if m == "RGB"), own[0])
    copies = [name.partition("+")[2].partition(".")[0] for name in own if "+" in name]
    fusion = str(_part(path, experiment, "fusion").get("kind")) if decomposed else ""
    backbone, kind = first_rgb.partition(":")[0], str(head.get("kind"))
    return Design(
        kind=_kind(decomposed, bool(lessons), set(seen.values())),
        backbone=NAMES.get(backbone, backbone),
        head=NAMES.get(kind, kind),
        fusion=NAMES.get(fusion, fusion),
        motion=next(iter(motions), ""),
        lessons=lessons,
        copy="+".join(copies),
    )


def _kind(decomposed: bool, taught: bool, seen: set[str]) -> Kind:
    if decomposed:
        return "decomposed" if taught else "control"
    if taught:
        return "conventional"
    if seen == {"RGB"}:
        return "rgb"
    return "two_stream" if "RGB" in seen else "motion"


def _modality(path: Path, stream: str) -> str:
    """What a stream looks at, from the second half of its name."""
    modality = re.split(r"[+.@]", stream.partition(":")[2])[0]
    for beginning, name in MODALITIES:
        if modality.startswith(beginning):
            return name
    raise UserError(f"{path}: stream {stream}: {modality or 'nothing'} is no known modality")


def _taught_by(
    inputs: Mapping[str, Any], provenance: Mapping[str, Any], own: Iterable[str]
) -> list[str]:
    """The streams of the teacher: as the detections say, else those read beside the run's own."""
    teacher = provenance.get("teacher")
    identity = teacher.get("identity") if isinstance(teacher, dict) else None
    streams = identity.get("streams") if isinstance(identity, dict) else None
    if not isinstance(streams, dict):
        read = inputs.get("streams")
        streams = read.keys() - set(own) if isinstance(read, dict) else ()
    return [str(name) for name in streams]


def flatten(table: Mapping[str, Any], at: str = "") -> Flat:
    """Settings by dotted key; lists are values, lists of tables are numbered."""
    flat: Flat = {}
    for key, value in table.items():
        name = f"{at}{key}"
        if isinstance(value, dict):
            flat |= flatten(value, f"{name}.")
        elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            for i, item in enumerate(value):
                flat |= flatten(item, f"{name}.{i}.")
        else:
            flat[name] = value
    return flat


def _data(path: Path, scores: Mapping[str, Any]) -> str:
    """What was scored, in a few words."""
    annotations = Path(str(scores.get("annotations", "?")))
    stem = annotations.name.partition(".")[0]
    name = annotations.parent.name if stem == "annotations" else stem
    parts = [name or stem, str(scores.get("subset") or "all")]
    parts.append(f"{scores.get('num_videos', '?')} videos")
    if scores.get("protocol") != "plain":
        parts.append(str(scores.get("protocol")))
    return " ".join(parts)


def _provenance(path: Path, scores: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the detections rest on: noted in the scores, or read from the detections."""
    noted = scores.get("provenance")
    if isinstance(noted, dict):
        return noted
    recorded = Path(str(scores.get("detections", "")))
    for place in (recorded, path.with_name(recorded.name)):
        if place.suffix == ".json" and place.is_file():
            found = _table(place).get("provenance")
            return found if isinstance(found, dict) else {}
    return {}


def _table(path: Path) -> dict[str, Any]:
    table = parse_json(path, read_text(path))
    if not isinstance(table, dict):
        raise UserError(f"{path}: expected a JSON object, found a {type(table).__name__}")
    return table


def _part(path: Path, table: Mapping[str, Any], key: str) -> dict[str, Any]:
    part = table.get(key)
    if not isinstance(part, dict):
        raise UserError(f'{path}: "{key}": expected a table, found {part!r:.60}')
    return part


def _numbers(path: Path, scores: Mapping[str, Any], key: str) -> tuple[float, ...]:
    values = scores.get(key)
    fine = isinstance(values, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 1 for v in values
    )
    if not fine:
        raise UserError(f'{path}: "{key}": expected fractions of 1, found {values!r:.60}')
    assert isinstance(values, list)
    return tuple(float(v) for v in values)
