"""From a finished run and videos to a run with a backbone of its own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tad_distill import config as settings
from tad_distill import console
from tad_distill.config import ConfigError
from tad_distill.console import UserError
from tad_distill.data.spec import StreamSpec
from tad_distill.distill import checkpoint
from tad_distill.distill.finetune import frames as frame_files
from tad_distill.distill.finetune.config import FinetuneConfig
from tad_distill.distill.finetune.frames import FrameCache
from tad_distill.distill.finetune.loop import BACKBONES, EndToEndTrainer
from tad_distill.distill.finetune.network import Backbones, file_name, in_the_loop
from tad_distill.distill.predict import Run, check_streams, pick_device
from tad_distill.distill.run_folder import RunFolder
from tad_distill.distill.sources import Sources, open_sources


def finetune(config: FinetuneConfig, out: Path, overwrite: bool = False) -> None:
    """Train detector and backbone together, going on with whatever stands in a folder.

    Args:
        config: What to train.
        out: The run's folder; gets ``model.pt`` and a checkpoint for each stream in the loop. A
            finished run of the same settings is left as it is.
        overwrite: Begin anew, whatever stands there.

    Raises:
        UserError: Something does not fit together, or the loss is not finite any more.
        ConfigError: The folder holds a run of other settings or other data.
        Interrupted: A signal asked for a stop; the state is saved.
    """
    device = pick_device(config.train.device)
    base = open_run(config, device)
    sources = open_sources(config.experiment(), device)
    check_streams(base, sources.store)
    _refuse_other_labels(base, sources)
    backbones = open_backbones(base, sources, config, device)
    folder = RunFolder(out)
    identity = {"started_from": base.weights_hash, **sources.identity()}
    if folder.claim(config, identity, overwrite):
        console.log("finished_already", run=out)
        return
    frames = open_frames(config, sources, backbones, out)
    trainer = make_trainer(config, sources, base, backbones, frames)
    trainer.run(folder)
    finish(trainer, base, config, folder)
    if config.backbone.frames is None:
        frames.delete()
    console.log("finetuned", run=out, step=trainer.step)


def open_run(config: FinetuneConfig, device: torch.device) -> Run:
    """The run to start from, ready to learn.

    Raises:
        UserError: The folder holds no finished run.
    """
    assert config.backbone.run is not None
    base = Run.load(config.backbone.run, device)
    base.model.requires_grad_(True)
    return base


def open_backbones(
    base: Run, sources: Sources, config: FinetuneConfig, device: torch.device
) -> Backbones:
    """The networks of those of the detector's streams that are computed in the loop.

    Raises:
        UserError: See :meth:`Backbones.open`.
    """
    names = in_the_loop(base.model.streams)
    streams = [sources.dataset.grid.streams[name] for name in names]
    backbones = Backbones.open(streams, config.backbone, str(device))
    trained = sum(p.numel() for p in backbones.parameters() if p.requires_grad)
    stored = [name for name in sources.dataset.grid.streams if name not in names]
    console.log(
        "backbone",
        in_the_loop=",".join(names),
        from_the_store=",".join(stored) or "none",
        trained_parameters=trained,
        of=sum(p.numel() for p in backbones.parameters()),
    )
    return backbones


def open_frames(
    config: FinetuneConfig, sources: Sources, backbones: Backbones, out: Path
) -> FrameCache:
    """The frames of all videos that are trained or validated on.

    Raises:
        ConfigError: No videos are named.
        UserError: A video is not there, or not the one that its features were made of.
        Interrupted: A signal asked for a stop; decoded videos are kept.
    """
    if not config.backbone.videos:
        raise ConfigError("backbone.videos: not set; name the videos with --videos DIR")
    videos = list(sources.dataset.videos)
    if config.data.validation_subset is not None:
        subset = sorted(sources.annotations.subset(config.data.validation_subset).videos)
        videos += sources.dataset.present(subset, sources.dataset.grid)
    files = frame_files.find(config.backbone.videos, dict.fromkeys(videos))
    frames = FrameCache(config.backbone.frames or out / "frames", backbones.extraction)
    frames.fill(files, sources.dataset.grid.streams[backbones.streams[0]])
    return frames


def make_trainer(
    config: FinetuneConfig, sources: Sources, base: Run, backbones: Backbones, frames: FrameCache
) -> EndToEndTrainer:
    """The training, at its start.

    The lessons' own state, adapters between widths and statistics of the teacher, stands in the
    last state of the run to start from, if that is still there.
    """
    same = bool(config.transfers) and base.experiment.transfers == config.transfers
    state = RunFolder(base.path).state() if same else None
    lessons = state["objective"] if state else None
    return EndToEndTrainer(config, sources, base.model, backbones, frames, lessons)


def finish(trainer: EndToEndTrainer, base: Run, config: FinetuneConfig, folder: RunFolder) -> None:
    """Write the checkpoints of the backbones, and then the run that names them."""
    product, backbones = trainer.product(), trainer.backbones
    weights, notes = product.pop(BACKBONES), _notes(base, config, product["provenance"])
    specs: dict[str, StreamSpec] = {}
    for stream in backbones.streams:
        path = folder.path / file_name(stream)
        checkpoint.save(backbones.product(stream, weights, notes), path)
        specs[stream] = backbones.spec_of(stream, path)
    made = {stream: json.loads(spec.json()) for stream, spec in specs.items()}
    provenance = product["provenance"]
    pretraining = {name: table["weights"] for name, table in made.items()}
    product["specs"] |= made
    product["base_spec"] = made.get(product["base_spec"]["stream"], product["base_spec"])
    product["provenance"] = provenance | {
        "features": "fine-tuned",
        "pretraining": provenance["pretraining"] | pretraining,
        "started_from": {"run": str(base.path), **base.provenance, "weights": base.weights_hash},
    }
    folder.finish(product)


def _notes(base: Run, config: FinetuneConfig, provenance: dict[str, Any]) -> dict[str, Any]:
    """How the weights of a backbone came to be; goes into its checkpoint."""
    recipe = settings.dump(config.train) | settings.dump(
        replace(config.backbone, run=None, videos=(), weights={}, frames=None)
    )
    free = ("device", "workers", "log_every", "save_every_s", "videos", "weights", "checkpointing")
    return {
        "detector": {"started_from": base.weights_hash, "preset": base.experiment.preset},
        "preset": config.preset,
        "recipe": {key: value for key, value in recipe.items() if key not in free},
        "steps": provenance["selected_step"],
        "training_set": provenance["identity"]["training_set"],
        "counts": provenance["counts"],
        "teacher": provenance["identity"]["teacher"],
        "tad_distill": provenance["tad_distill"],
    }


def _refuse_other_labels(base: Run, sources: Sources) -> None:
    if base.labels != sources.annotations.labels:
        raise UserError(
            f"{base.path}: knows {len(base.labels)} labels, {sources.annotations.source} has "
            f"{len(sources.annotations.labels)} or other ones; start from a run on these labels"
        )
