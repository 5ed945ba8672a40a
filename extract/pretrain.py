"""Teach a backbone to recognise trimmed clips: what its features will know is decided here.

Features of a backbone pretrained on appearance alone hold hardly any motion for a teacher to
sharpen, so the weight of each label column is a setting, and the checkpoint tells it.
"""

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from tad_distill import config as settings
from tad_distill import console
from tad_distill.console import UserError
from tad_distill.data import durable
from tad_distill.extract import backbones, modalities, trimmed
from tad_distill.extract.device import computing
from tad_distill.extract.pretrain_config import PretrainConfig
from tad_distill.extract.pretrain_loop import (
    ClipClassifier,
    ResumePoint,
    TaskResult,
    train,
    validate,
)
from tad_distill.extract.trimmed import ClipList
from tad_distill.extract.trimmed_batches import ClipBatches
from tad_distill.extract.trimmed_frames import TrimmedFrames, decode
from tad_distill.extract.weights import OWN_LAYOUT, prepare

PRESETS = Path(__file__).parent / "presets"

# What reading a file raises that is no checkpoint of this command.
NOT_OURS = (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, UnpicklingError)

# Settings that decide nothing about the weights.
NEUTRAL = {"memory_gb", "save_every_s"}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to pretrain on what.

    Attributes:
        clips: The CSV, see :mod:`tad_distill.extract.trimmed`.
        backbone: As streams name it.
        modality: As streams name it.
        out: The checkpoint to write.
        init: Weights to start from; None: random ones by the config's seed.
    """

    clips: Path
    backbone: str
    modality: str
    out: Path
    init: Path | None = None


def load_config(
    modality: str, preset: str | None = None, overrides: Iterable[str] = ()
) -> PretrainConfig:
    """Build the settings from a shipped preset and ``key=value`` overrides.

    Raises:
        ConfigError: With the key, what was found and what is allowed.
    """
    table = settings.read(settings.preset(PRESETS, preset)) if preset else {}
    for override in overrides:
        settings.assign(table, override)
    if isinstance(table.get("modality"), dict):
        table["modality"]["kind"] = modality
    return settings.build(PretrainConfig, table)


def pretrain(job: Job, config: PretrainConfig, device: torch.device) -> list[TaskResult]:
    """Train a backbone on trimmed clips and write its checkpoint.

    A checkpoint that this very job has written before is left alone. An interrupted run leaves
    ``OUT.resume``, from which the next one goes on to the same weights.

    Returns:
        Validation accuracy by task, in the order of the tasks.

    Raises:
        UserError: Something in the clips or the settings is wrong, ``out`` holds other weights,
            or the loss is no number.
        Interrupted: A signal has asked for a stop; the resume point is written.
    """
    clips = trimmed.read(job.clips, config.tasks)
    tasks = config.tasks or dict.fromkeys(clips.classes, 1.0)
    shown = config.modality or modalities.default(job.modality)
    init = job.init or Path(f"random:{config.seed}")
    channels = shown.build("imagenet").channels
    backbone, source = prepare(job.backbone, job.modality, channels, init)
    modality = shown.build(backbone.normalisation)
    backbone.clips_alone = True
    if config.clip_frames % backbone.multiple_frames:
        raise UserError(
            f"clip_frames: {config.clip_frames} is no multiple of {backbone.multiple_frames}, as "
            f"{job.backbone} needs it"
        )
    notes = _notes(job, config, clips, tasks, source)
    if done := _done_before(job.out, notes):
        return done
    job.out.parent.mkdir(parents=True, exist_ok=True)
    durable.sweep(job.out.parent)
    torch.manual_seed(config.seed)
    widths = [len(clips.classes[task]) for task in tasks]
    network = ClipClassifier(backbone, widths, config.dropout).to(device)
    resume = ResumePoint(job.out.with_name(f"{job.out.name}.resume"), notes["key"])
    spill = TrimmedFrames(len(clips.clips), job.out, config.memory_gb * 1e9)
    with spill as frames, computing(device, "float32"):
        decode(clips, frames, config.fps, config.size)
        batches = ClipBatches(clips, list(tasks), frames, modality, config)
        train(network, batches, list(tasks.values()), config, resume)
        results = validate(network, batches, list(tasks), config)
    notes["validation"] = [asdict(result) for result in results]
    _write(job, network.backbone, notes)
    resume.path.unlink(missing_ok=True)
    return results


def _notes(
    job: Job,
    config: PretrainConfig,
    clips: ClipList,
    tasks: dict[str, float],
    source: dict[str, Any],
) -> dict[str, Any]:
    """How the weights came about; goes into the checkpoint and from there into every store."""
    num_train = sum(clip.split == "train" for clip in clips.clips)
    notes: dict[str, Any] = {
        "on": job.clips.name,
        "clips_sha256": clips.sha256,
        "video_bytes": sum(video.stat().st_size for video, _ in trimmed.by_video(clips.clips)),
        "num_train": num_train,
        "num_validation": len(clips.clips) - num_train,
        "tasks": dict(tasks),
        "num_classes": {task: len(clips.classes[task]) for task in tasks},
        "init": source,
        "config": {k: v for k, v in settings.dump(config).items() if k not in NEUTRAL},
    }
    decides = [job.backbone, job.modality, notes]
    text = json.dumps(decides, sort_keys=True, default=console.jsonable)
    return notes | {"key": hashlib.sha256(text.encode()).hexdigest()}


def _done_before(out: Path, notes: dict[str, Any]) -> list[TaskResult] | None:
    """The results of this very job if ``out`` is its checkpoint already."""
    if not out.exists():
        return None
    try:
        found = torch.load(out, map_location="cpu", weights_only=True)["pretraining"]
        same = found["key"] == notes["key"]
    except NOT_OURS as error:
        raise UserError(f"{out}: exists and is no checkpoint of ours; choose another") from error
    if not same:
        raise UserError(
            f"{out}: holds weights of other clips or settings; remove it or choose another name"
        )
    console.log("pretrained_before", path=out)
    return [TaskResult(**result) for result in found["validation"]]


def _write(job: Job, backbone: backbones.Backbone, notes: dict[str, Any]) -> None:
    state = {name: value.cpu().contiguous() for name, value in backbone.state_dict().items()}
    buffer = io.BytesIO()  # a file's name would end up inside the archive: equal runs, other bytes
    torch.save(
        {
            "layout": OWN_LAYOUT,
            "backbone": job.backbone,
            "modality": job.modality,
            "normalisation": backbone.normalisation,
            "state_dict": state,
            "pretraining": notes,
        },
        buffer,
    )
    durable.write_bytes(job.out, buffer.getvalue())
