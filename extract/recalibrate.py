"""Estimate a network's batch statistics anew on the videos and the modality it will be used for.

Weights trained on colour normalise by the statistics of colour; shown temporal gradients, which are
small and centred, every layer is off. The weights stay, and the running means and variances become
those of the whole sample, as PreciseBN has it (Wu and Johnson, "Rethinking 'Batch' in BatchNorm",
2021). The result is a checkpoint, made once: every unit of an extraction then uses the same
numbers, and its hash names them.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tad_distill import console
from tad_distill.console import UsageError, UserError, check_stop, log, progress
from tad_distill.data import durable
from tad_distill.extract.clip_sample import NOTHING_WRITTEN, Clip, chosen, clip_frames, sample
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.device import computing
from tad_distill.extract.encoder import Encoder
from tad_distill.extract.video import content_hash
from tad_distill.extract.weights import OWN_LAYOUT
from tad_distill.extract.weights.checkpoint import read_checkpoint

BatchNorm = nn.modules.batchnorm._BatchNorm

# Clips that are normalised together while the statistics are estimated.
BATCH_CLIPS = 8


class Moments:
    """Mean and variance of the inputs of a batch norm, over all that it is shown."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._count = 0
        self._sum: Tensor | None = None
        self._squares: Tensor | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Take what comes in; a forward pre-hook."""
        x = inputs[0].double()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        total, squares = x.sum(axes), x.square().sum(axes)
        self._count += x.numel() // x.shape[1]
        self._sum = total if self._sum is None else self._sum + total
        self._squares = squares if self._squares is None else self._squares + squares

    def read(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of each channel, in float64."""
        assert self._sum is not None and self._squares is not None
        mean = self._sum / self._count
        return mean, (self._squares / self._count - mean.square()).clamp(min=0)


def recalibrate(
    files: Mapping[str, Path], encoder: Encoder, out: Path, num_clips: int
) -> dict[str, str]:
    """Write the network of ``encoder`` with statistics of a sample of the videos.

    Args:
        files: The videos by name.
        encoder: The network and what it is shown.
        out: The checkpoint to write.
        num_clips: Clips in the sample.

    Returns:
        Why, for each video that could not be used; the sample lacks it.

    Raises:
        UserError: No video can be used, ``out`` holds something else, or the network has no batch
            norm.
        Interrupted: A signal asked for a stop; nothing was written.
    """
    norms = batch_norms(encoder.backbone)
    if not norms:
        raise UserError(f"{encoder.name.backbone}: has no batch norm to recalibrate")
    asked = chosen(files, num_clips)
    notes = _notes(asked, encoder, num_clips)
    if _done_before(out, notes["key"]):
        return {}
    clips, failed = sample(asked, encoder, num_clips)
    if not clips:
        name, reason = next(iter(failed.items()))
        raise UserError(f"{asked[name]}: {reason}; none of {len(asked)} videos can be used")
    moments = estimate(encoder, clips)
    changes = [_replace(norms[name], *of.read()) for name, of in moments.items()]
    notes |= {"num_clips": len(clips), "without": sorted(failed)}
    _write(out, encoder, notes)
    shift, scale = np.median(np.array(changes), axis=0).tolist()
    log("recalibrated", norms=len(norms), clips=len(clips), shift=shift, scale=scale, file=out)
    return failed


def batch_norms(network: nn.Module) -> dict[str, BatchNorm]:
    """The batch norms of a network by name."""
    return {
        name: module for name, module in network.named_modules() if isinstance(module, BatchNorm)
    }


@torch.inference_mode()
def estimate(encoder: Encoder, clips: Sequence[Clip]) -> dict[str, Moments]:
    """Moments of the inputs of every batch norm, over all clips.

    While they are estimated each batch is normalised by its own statistics, so that deep layers see
    what they will see afterwards.
    """
    backbone, modality = encoder.backbone, encoder.modality
    moments: dict[str, Moments] = {}
    with (
        _by_batch(batch_norms(backbone), moments),
        progress("recalibrate", len(clips)) as step,
        computing(encoder.device, "float32"),
    ):
        for batch in _batches(clips):
            check_stop(NOTHING_WRITTEN)
            backbone(torch.stack([modality(clip.frames, clip.has_history) for clip in batch]))
            step(len(batch))
    return moments


def _batches(clips: Sequence[Clip]) -> Iterator[Sequence[Clip]]:
    """Clips of one length side by side."""
    by_length: dict[int, list[Clip]] = {}
    for clip in clips:
        by_length.setdefault(clip.length, []).append(clip)
    for group in by_length.values():
        for start in range(0, len(group), BATCH_CLIPS):
            yield group[start : start + BATCH_CLIPS]


@contextmanager
def _by_batch(norms: Mapping[str, BatchNorm], moments: dict[str, Moments]) -> Iterator[None]:
    """Normalise by the batch meanwhile, and leave the running statistics alone."""
    hooks = []
    for name, norm in norms.items():
        moments[name] = Moments()
        hooks.append(norm.register_forward_pre_hook(moments[name]))
        norm.train()
        norm.track_running_stats = False
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for norm in norms.values():
            norm.eval()
            norm.track_running_stats = True


def check(encoder: Encoder, config: ExtractConfig) -> None:
    """Refuse what cannot be sampled.

    Raises:
        UsageError: The stream is more than a network and what it sees, or frames differ in size.
    """
    name = encoder.name
    if name.stage or name.view or name.pooling != "mean":
        raise UsageError(
            f"stream {name}: statistics belong to a network, whatever is kept of its output; name "
            f"{name.backbone}:{name.modality}"
        )
    if not config.crop_px and config.resize != "exact":
        raise UsageError("clips of several videos need frames of one size; set crop_px")


def _replace(norm: BatchNorm, mean: Tensor, variance: Tensor) -> tuple[float, float]:
    """Set the statistics; median shift in old deviations, and median factor of the deviations."""
    old_mean, old_variance = norm.running_mean, norm.running_var
    assert old_mean is not None and old_variance is not None
    before = old_variance.double() + norm.eps
    shift = float(((mean - old_mean).abs() / before.sqrt()).median())
    factor = float(((variance + norm.eps) / before).sqrt().median())
    old_mean.copy_(mean)
    old_variance.copy_(variance)
    return shift, factor


def _notes(files: Mapping[str, Path], encoder: Encoder, num_clips: int) -> dict[str, Any]:
    """How the statistics come about."""
    spec = encoder.spec
    notes: dict[str, Any] = {
        "base": {key: value for key, value in spec.weights.items() if key != "pretraining"},
        "videos_sha256": _digest([f"{name} {_hash(path)}" for name, path in files.items()]),
        "num_videos": len(files),
        "asked_clips": num_clips,
        "clip_frames": clip_frames(encoder),
        "fps": spec.fps,
        "frame": spec.details["frame"],
        "modality": spec.details["modality"],
    }
    text = json.dumps([str(encoder.name), notes], sort_keys=True, default=console.jsonable)
    return notes | {"key": _digest([text])}


def _hash(path: Path) -> str:
    try:
        return content_hash(path)
    except OSError:  # reported when its turn comes
        return ""


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _done_before(out: Path, key: str) -> bool:
    if not out.exists():
        return False
    found = read_checkpoint(out).get("pretraining")
    held = found.get("recalibration", {}) if isinstance(found, dict) else {}
    if held.get("key") != key:
        raise UserError(
            f"{out}: holds weights of other videos or settings; remove it or choose another name"
        )
    log("recalibrated_before", file=out)
    return True


def _write(out: Path, encoder: Encoder, notes: dict[str, Any]) -> None:
    spec, backbone = encoder.spec, encoder.backbone
    content = {
        "layout": OWN_LAYOUT,
        "backbone": spec.backbone,
        "modality": spec.modality,
        "normalisation": backbone.normalisation,
        "state_dict": {
            name: value.cpu().contiguous() for name, value in backbone.state_dict().items()
        },
        "pretraining": {"of": spec.weights["pretraining"], "recalibration": notes},
    }
    if "copy" in spec.weights:
        content["copy"] = spec.weights["copy"]
    buffer = io.BytesIO()  # a file's name would end up inside the archive: equal runs, other bytes
    torch.save(content, buffer)
    out.parent.mkdir(parents=True, exist_ok=True)
    durable.write_bytes(out, buffer.getvalue())
