"""The features of one video in the making: what its frames become, step by step."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tad_distill.extract import clips
from tad_distill.extract.encoder import Encoder
from tad_distill.extract.video import VideoError


class Encoding:
    """One video on its way through a trunk, in memory that does not grow with its frames.

    Get one from ``Trunk.begin``. The network takes the video's runs when there are enough to make
    a batch, so the last features come some time after :meth:`end`.

    Attributes:
        modality_s: Seconds spent on the modality.
        network_s: Seconds spent in the network, the video's share of each batch.
    """

    def __init__(
        self,
        encoders: Sequence[Encoder],
        add: Callable[["Encoding", list[clips.Run]], None],
        flush: Callable[[], None],
    ) -> None:
        """Begin.

        Args:
            encoders: With equal trunks.
            add: Takes runs, and calls :meth:`receive` for each of them, in any order.
            flush: Has whatever was added encoded.
        """
        first = encoders[0]
        self._modality, self._device = first.modality, first.device
        self._view, self._crop_px = first.view, first.config.crop_px
        self._cutter = clips.cutter(first.config, first.backbone)
        self._steps = [StepMaker(encoder) for encoder in encoders]
        self._add, self._flush = add, flush
        self._history: Tensor | None = None
        self._num_expected = self._num_received = 0
        self._early: dict[int, tuple[clips.Run, list[Tensor]]] = {}
        self._has_ended = False
        self._error: VideoError | None = None
        self.modality_s = self.network_s = 0.0

    def push(self, frames: NDArray[np.uint8] | Tensor) -> None:
        """Take the next ``(N, H, W, 3)`` uint8 RGB frames, resized.

        Raises:
            VideoError: They are smaller than the crop.
        """
        start = time.perf_counter()
        given = torch.from_numpy(frames) if isinstance(frames, np.ndarray) else frames
        given = self._view.cut(given.to(self._device), self._crop_px)
        before, history = self._modality.frames_before, self._history
        joined = given if history is None else torch.cat([history, given])
        inputs = self._modality(joined, has_history=history is not None)
        self._history = joined[len(joined) - before :] if before else None
        self.modality_s += time.perf_counter() - start
        self._add(self, self._cutter.push(inputs))

    def end(self) -> None:
        """The video has no more frames."""
        self._add(self, self._cutter.finish())
        self._has_ended = True

    def expect(self) -> int:
        """The number of a run that will be encoded."""
        self._num_expected += 1
        return self._num_expected - 1

    def receive(self, number: int, run: clips.Run, rows: list[Tensor]) -> None:
        """Take what became of a run.

        Args:
            number: As :meth:`expect` gave it.
            run: Without its frames.
            rows: ``(T', ...)`` on the CPU, of each encoder.
        """
        self._early[number] = run, rows
        while self._num_received in self._early:
            run, rows = self._early.pop(self._num_received)
            self._num_received += 1
            if self._error is not None:
                continue
            try:
                for steps, of_stream in zip(self._steps, rows, strict=True):
                    steps.push(of_stream, run)
            except VideoError as error:  # of this video alone: the batch may hold others
                self._error = error

    @property
    def is_complete(self) -> bool:
        """Whether all of the video has gone through the network."""
        return self._has_ended and self._num_received == self._num_expected

    def features(self) -> dict[str, NDArray[np.floating]]:
        """The features ``(T, *shape)`` of the whole video, by stream; once it is complete.

        Raises:
            VideoError: A feature is too large for the stored dtype.
        """
        assert self.is_complete
        if self._error is not None:
            raise self._error
        return {steps.encoder.spec.stream: steps.finish() for steps in self._steps}

    def finish(self) -> dict[str, NDArray[np.floating]]:
        """End the video, and wait for its :meth:`features`.

        Raises:
            VideoError: A feature is too large for the stored dtype.
        """
        self.end()
        self._flush()
        return self.features()


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
