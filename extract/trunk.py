"""Frames through a network, once for all streams that share everything below the last stage.

``tsm18:rgb``, its maps, ``tsm18:rgb+motion`` and their rich forms differ in their last stage or
behind it; what they have in common, most of the work, is done for all of them together.
"""

import time
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tad_distill.console import check_stop, log
from tad_distill.extract import clips
from tad_distill.extract.device import OutOfMemory, computing
from tad_distill.extract.encoder import Encoder
from tad_distill.extract.video import VideoError


class Trunk:
    """The shared part of some encoders; :meth:`begin` starts a video.

    Attributes:
        encoders: At least one; of one configuration, with equal trunks.
        batch_frames: Frames per network call; halved when the GPU's memory does not suffice.
    """

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        """Join encoders with equal trunks; see :func:`share`."""
        self.encoders = list(encoders)
        self.batch_frames = encoders[0].config.batch_frames

    def begin(self) -> "Encoding":
        """Start a video."""
        return Encoding(self)

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> list[Tensor]:
        """``(B, T, C, H, W)`` frames to each encoder's ``(B, T', ...)`` float32, on the CPU.

        Halves the batch when memory does not suffice, and goes on.

        Raises:
            OutOfMemory: Not even one run fits.
        """
        first = self.encoders[0]
        try:
            with computing(first.device, first.config.precision):
                return [outputs.cpu() for outputs in self._forward(frames.to(first.device))]
        except torch.OutOfMemoryError as error:
            if len(frames) == 1:
                raise OutOfMemory(
                    f"stream {first.spec.stream}: {frames.shape[1]} frames of {frames.shape[4]}x"
                    f"{frames.shape[3]} do not fit the GPU's memory; set a smaller window_frames"
                ) from error
        half = len(frames) // 2
        self.batch_frames = half * frames.shape[1]
        log("out_of_memory", stream=first.spec.stream, batch_frames=self.batch_frames)
        halves = zip(self.encode(frames[:half]), self.encode(frames[half:]), strict=True)
        return [torch.cat(pair) for pair in halves]

    def _forward(self, frames: Tensor) -> list[Tensor]:
        backbone = self.encoders[0].backbone
        *inner, last = backbone.stages
        deepest = max(backbone.stages.index(encoder.stage) for encoder in self.encoders)
        outputs: dict[int, Tensor] = {}
        maps = backbone.enter(frames)
        for stage in inner[: deepest + 1]:
            maps = backbone.advance(maps, stage)
            for number, encoder in enumerate(self.encoders):
                if encoder.stage == stage:
                    outputs[number] = encoder.read(maps)
        finals: dict[str, Tensor] = {}
        for number, encoder in enumerate(self.encoders):
            if encoder.stage == last:
                key = encoder.last_key if len(self.encoders) > 1 else ""
                if key not in finals:
                    finals[key] = encoder.backbone.advance(maps, last)
                outputs[number] = encoder.read(finals[key])
        return [outputs[number] for number in range(len(self.encoders))]


class Encoding:
    """The features of one video in the making, in memory that does not grow with its frames.

    Attributes:
        modality_s: Seconds spent on the modality.
        network_s: Seconds spent in the network.
    """

    def __init__(self, trunk: Trunk) -> None:
        """Use :meth:`Trunk.begin`."""
        self._trunk = trunk
        first = trunk.encoders[0]
        self._modality = first.modality
        self._cutter = clips.cutter(first.config, first.backbone)
        self._steps = [StepMaker(encoder) for encoder in trunk.encoders]
        self._history: NDArray[np.uint8] | None = None
        self._waiting: list[clips.Run] = []
        self.modality_s = self.network_s = 0.0

    def push(self, frames: NDArray[np.uint8]) -> None:
        """Take the next ``(N, H, W, 3)`` uint8 RGB frames."""
        start = time.perf_counter()
        before, history = self._modality.frames_before, self._history
        joined = frames if history is None else np.concatenate([history, frames])
        inputs = self._modality(joined, has_history=history is not None)
        self._history = joined[len(joined) - before :] if before else None
        self.modality_s += time.perf_counter() - start
        self._add(self._cutter.push(inputs))

    def finish(self) -> dict[str, NDArray[np.floating]]:
        """The features ``(T, *shape)`` of the whole video, by stream.

        Raises:
            VideoError: A feature is too large for the stored dtype.
        """
        self._add(self._cutter.finish())
        self._encode_waiting()
        return {steps.encoder.spec.stream: steps.finish() for steps in self._steps}

    def _add(self, runs: list[clips.Run]) -> None:
        for run in runs:
            if self._waiting and run.frames.shape != self._waiting[0].frames.shape:
                self._encode_waiting()
            self._waiting.append(run)
            if (len(self._waiting) + 1) * len(run.frames) > self._trunk.batch_frames:
                self._encode_waiting()

    def _encode_waiting(self) -> None:
        if not self._waiting:
            return
        start = time.perf_counter()
        outputs = self._trunk.encode(torch.stack([run.frames for run in self._waiting]))
        for steps, of_stream in zip(self._steps, outputs, strict=True):
            for run, rows in zip(self._waiting, of_stream, strict=True):
                steps.push(rows, run)
        self._waiting = []
        self.network_s += time.perf_counter() - start
        # On a processor a batch takes seconds, and a chunk of frames may fill several.
        check_stop("finished videos are in the store, the one in flight was dropped")


class StepMaker:
    """The steps of one stream of one video in the making, as they are stored."""

    def __init__(self, encoder: Encoder) -> None:
        """Start a video of ``encoder``'s stream."""
        self.encoder = encoder
        self._pooling = encoder.pooling(clips.cutter(encoder.config, encoder.backbone))
        self._dtype = np.dtype(encoder.config.dtype)
        self._steps: list[NDArray[np.floating]] = []

    def push(self, rows: Tensor, run: clips.Run) -> None:
        """Take what became of a run: ``(T', ...)``, its edges included."""
        # The run counts features; the maps of a stage may be more, or fewer: they hold whole steps.
        backbone = self.encoder.backbone
        of_maps = backbone.stride_of(self.encoder.name.stage)
        skip = run.skip * backbone.stride_frames // of_maps
        keep = -(-run.keep * backbone.stride_frames // of_maps)
        self._store(self._pooling.push(rows[skip : skip + keep]))

    def finish(self) -> NDArray[np.floating]:
        """All steps ``(T, *shape)`` in the stored dtype.

        Raises:
            VideoError: A feature is too large for the stored dtype.
        """
        self._store(self._pooling.finish())
        return np.concatenate(self._steps)

    def _store(self, made: list[Tensor]) -> None:
        for steps in made:
            values = steps.numpy()
            largest = float(np.abs(values).max())
            if not largest <= float(np.finfo(self._dtype).max):
                what = "not a number" if np.isnan(largest) else f"{largest:.4g}"
                raise VideoError(
                    f"a feature is {what}, more than {self._dtype} holds; set dtype=float32"
                )
            self._steps.append(values.astype(self._dtype))


def share(encoders: Iterable[Encoder]) -> list[Trunk]:
    """Join the encoders that can share a trunk; the others stay alone.

    Args:
        encoders: All of one extraction.
    """
    families: dict[tuple[str, str], list[Encoder]] = {}
    for encoder in encoders:
        families.setdefault((encoder.name.backbone, encoder.name.modality), []).append(encoder)
    trunks = []
    for family in families.values():
        groups: dict[str, list[Encoder]] = {}
        for encoder in family:
            # A network that has nobody to share with needs no name for what it could share.
            groups.setdefault(encoder.trunk_key if len(family) > 1 else "", []).append(encoder)
        trunks += [Trunk(group) for group in groups.values()]
    return trunks
