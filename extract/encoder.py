"""One stream's way from frames to features: modality, runs, network, pooling."""

import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tad_distill import __version__
from tad_distill import config as settings
from tad_distill.console import UsageError, log
from tad_distill.data.spec import StreamSpec
from tad_distill.extract import clips, modalities, weights
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.device import OutOfMemory, computing, device_name
from tad_distill.extract.geometry import resized_sides
from tad_distill.extract.video import VideoError

# What is fixed in this code and changes numbers.
RULES = {
    "decoder": "opencv-ffmpeg, sequential",
    "resampling": "nearest frame, ties to the earlier",
    "rotation": "by the file's metadata",
    "crop": "centre",
}


@dataclass(frozen=True)
class StreamName:
    """The parts of a stream's name: ``BACKBONE:MODALITY`` or ``BACKBONE:MODALITY@STAGE``."""

    backbone: str
    modality: str
    stage: str | None

    @classmethod
    def parse(cls, name: str) -> "StreamName":
        """Take a name apart.

        Raises:
            UsageError: It has not this form.
        """
        backbone, colon, rest = name.partition(":")
        modality, at, stage = rest.partition("@")
        if not (backbone and colon and modality and bool(at) == bool(stage)) or "+" in name:
            raise UsageError(f"stream {name!r}: expected BACKBONE:MODALITY, as in tsm18:rgb")
        return cls(backbone, modality, stage or None)


class Encoder:
    """Makes the features of one stream; :meth:`begin` starts a video.

    Attributes:
        spec: What a store records about the stream.
        batch_frames: Frames per network call; halved when the GPU's memory does not suffice.
    """

    def __init__(
        self, name: str, source: Path, config: ExtractConfig, device: torch.device
    ) -> None:
        """Build the modality and the backbone of a stream.

        Args:
            name: ``BACKBONE:MODALITY``, with ``@STAGE`` for the maps of an inner stage.
            source: Checkpoint, or ``random:SEED``.
            config: How to extract.
            device: Where the network runs.

        Raises:
            UserError: An impossible combination, or weights that do not fit.
        """
        parts = StreamName.parse(name)
        options = config.modality.get(parts.modality) or modalities.default(parts.modality)
        # Channels and normalisation depend on each other's class alone, so build twice.
        channels = options.build("imagenet").channels
        self.backbone, provenance = weights.prepare(
            parts.backbone, parts.modality, channels, source
        )
        self.modality = options.build(self.backbone.normalisation)
        self.config, self.device, self.stage = config, device, parts.stage
        self.batch_frames = config.batch_frames
        if self.stage and self.stage not in self.backbone.stages:
            raise UsageError(
                f"stream {name!r}: {parts.backbone} has the stages "
                f"{', '.join(self.backbone.stages)}, not {self.stage!r}"
            )
        if self.stage and not config.crop_px and config.resize != "exact":
            raise UsageError(f"stream {name!r}: maps need frames of one size; set crop_px")
        self.backbone.to(device)
        self.spec = self._spec(name, parts, source, provenance, settings.dump(options))

    def begin(self) -> "Encoding":
        """Start a video."""
        return Encoding(self)

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """``(B, T, C, H, W)`` frames to ``(B, T', *shape)`` float32 features, on the CPU.

        Halves the batch when memory does not suffice, and goes on.

        Raises:
            OutOfMemory: Not even one run fits.
        """
        try:
            with computing(self.device, self.config.precision):
                frames = frames.to(self.device)
                out = (
                    self.backbone.maps(frames, self.stage) if self.stage else self.backbone(frames)
                )
            return out.float().cpu()
        except torch.OutOfMemoryError as error:
            if len(frames) == 1:
                raise OutOfMemory(
                    f"stream {self.spec.stream}: {frames.shape[1]} frames of {frames.shape[4]}x"
                    f"{frames.shape[3]} do not fit the GPU's memory; set a smaller window_frames"
                ) from error
        half = len(frames) // 2
        self.batch_frames = half * frames.shape[1]
        log("out_of_memory", stream=self.spec.stream, batch_frames=self.batch_frames)
        return torch.cat([self.encode(frames[:half]), self.encode(frames[half:])])

    def _spec(
        self,
        name: str,
        parts: StreamName,
        source: Path,
        provenance: dict[str, Any],
        options: dict[str, Any],
    ) -> StreamSpec:
        config = self.config
        cut = clips.cutter(config, self.backbone)
        details: dict[str, Any] = {**RULES, "regime": config.regime, "precision": config.precision}
        details["frame"] = _frame_details(config)
        details["modality"] = options
        if config.regime == "window":
            halo = clips.halo_frames(config, self.backbone)
            whole = halo >= self.backbone.halo_frames
            # A sufficient halo leaves no trace, whatever the length of the runs.
            details["window"] = (
                "whole video" if whole else {"frames": config.window_frames, "halo_frames": halo}
            )
        return StreamSpec(
            stream=name,
            backbone=parts.backbone,
            modality=parts.modality,
            weights=provenance,
            fps=config.fps,
            clip_frames=cut.clip_frames,
            stride_frames=cut.stride_frames,
            offset_frames=cut.clip_frames / 2,
            shape=self._shape(),
            dtype=config.dtype,
            details=details,
            software={
                "tad_distill": __version__,
                "torch": torch.__version__,
                "opencv": cv2.__version__,
                "python": platform.python_version(),
                "device": device_name(self.device),
            },
            origin={
                "settings": settings.dump(config),
                "weights": str(source.resolve() if source.exists() else source),
            },
        )

    def _shape(self) -> tuple[int, ...]:
        if self.stage is None:
            return (self.backbone.dim,)
        config = self.config
        height, width = (config.crop_px, config.crop_px) if config.crop_px else config.exact_px
        frames = torch.zeros(1, self.backbone.stride_frames, self.modality.channels, height, width)
        return tuple(self.encode(frames).shape[2:])


class Encoding:
    """The features of one video in the making, in memory that does not grow with its frames.

    Attributes:
        modality_s: Seconds spent on the modality.
        network_s: Seconds spent in the network.
    """

    def __init__(self, encoder: Encoder) -> None:
        """Use :meth:`Encoder.begin`."""
        self._encoder = encoder
        self._cutter = clips.cutter(encoder.config, encoder.backbone)
        self._dtype = np.dtype(encoder.config.dtype)
        self._history: NDArray[np.uint8] | None = None
        self._waiting: list[clips.Run] = []
        self._steps: list[NDArray[np.floating]] = []
        self.modality_s = self.network_s = 0.0

    def push(self, frames: NDArray[np.uint8]) -> None:
        """Take the next ``(N, H, W, 3)`` uint8 RGB frames."""
        start = time.perf_counter()
        before = self._encoder.modality.frames_before
        history = self._history
        joined = frames if history is None else np.concatenate([history, frames])
        inputs = self._encoder.modality(joined, has_history=history is not None)
        self._history = joined[len(joined) - before :] if before else None
        self.modality_s += time.perf_counter() - start
        self._add(self._cutter.push(inputs))

    def finish(self) -> NDArray[np.floating]:
        """The features ``(T, *shape)`` of the whole video.

        Raises:
            VideoError: A feature is too large for the stored dtype.
        """
        self._add(self._cutter.finish())
        self._encode_waiting()
        return np.concatenate(self._steps)

    def _add(self, runs: list[clips.Run]) -> None:
        for run in runs:
            if self._waiting and _kind(run) != _kind(self._waiting[0]):
                self._encode_waiting()
            self._waiting.append(run)
            if (len(self._waiting) + 1) * len(run.frames) > self._encoder.batch_frames:
                self._encode_waiting()

    def _encode_waiting(self) -> None:
        if not self._waiting:
            return
        start = time.perf_counter()
        outputs = self._encoder.encode(torch.stack([run.frames for run in self._waiting]))
        for run, output in zip(self._waiting, outputs, strict=True):
            kept = output[run.skip : run.skip + run.keep]
            self._steps.append(self._stored(self._cutter.steps(kept).numpy()))
        self._waiting = []
        self.network_s += time.perf_counter() - start

    def _stored(self, steps: NDArray[np.float32]) -> NDArray[np.floating]:
        largest = float(np.abs(steps).max())
        if not largest <= float(np.finfo(self._dtype).max):
            what = "not a number" if np.isnan(largest) else f"{largest:.4g}"
            raise VideoError(
                f"a feature is {what}, more than {self._dtype} holds; set dtype=float32"
            )
        return steps.astype(self._dtype)


def _kind(run: clips.Run) -> tuple[int, ...]:
    return tuple(run.frames.shape)


def _frame_details(config: ExtractConfig) -> dict[str, Any]:
    frame: dict[str, Any] = {"resize": config.resize, "crop_px": config.crop_px}
    if config.resize != "none":
        frame["interpolation"] = config.interpolation
    if config.resize == "short_side":
        frame["short_side_px"] = config.short_side_px
    elif config.resize == "exact":
        frame["exact_px"] = list(resized_sides(config, 1, 1))
    return frame
