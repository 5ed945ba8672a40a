"""Which frames a network has to see for some steps of a stream, and where its outputs lie."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tad_distill.data.timeline import Timeline


@dataclass(frozen=True)
class Span:
    """Frames that go through a network together.

    Attributes:
        begin: The first frame.
        end: The frame after the last one.
        pad: How often the last frame is repeated behind it.
        skip: Outputs to cut off at the start.
        keep: Outputs to keep after those.
    """

    begin: int
    end: int
    pad: int
    skip: int
    keep: int


@dataclass(frozen=True, kw_only=True)
class Regime:
    """How an extraction cuts videos into runs; everything in frames.

    Attributes:
        step: Per feature.
        output: Per output of the network; a feature is the mean of ``step / output`` of them.
        multiple: Runs begin and end at multiples of this, but at the end of the video.
        halo: Shown before and after a run and cut off again.
        run: Length of a run.
        seamless: Whether the halo is all that the network sees, so that the runs leave no trace
            and any others give the same features.
    """

    step: int
    output: int
    multiple: int
    halo: int
    run: int
    seamless: bool

    def spans(self, start: int, stop: int, num_frames: int, whole: bool = False) -> list[Span]:
        """What to show for the frames ``start`` to ``stop`` of a video.

        Args:
            start: A multiple of ``step``.
            stop: At most ``num_frames``.
            num_frames: Of the video.
            whole: Cut into the extraction's runs even where they leave no trace: bounds the
                memory for long videos.
        """
        return [
            self._span(run, (max(start, run[0]), min(stop, run[1])), num_frames)
            for run in self._runs(start, stop, num_frames, whole)
        ]

    def _runs(
        self, start: int, stop: int, num_frames: int, whole: bool
    ) -> Iterator[tuple[int, int]]:
        if self.seamless and not whole:
            yield start, stop
            return
        for begin in range(start // self.run * self.run, stop, self.run):
            yield begin, min(begin + self.run, num_frames)

    def _span(self, run: tuple[int, int], kept: tuple[int, int], num_frames: int) -> Span:
        multiple = self.multiple
        begin = max(0, run[0] - self.halo) // multiple * multiple
        end = min(num_frames, -(-(run[1] + self.halo) // multiple) * multiple)
        return Span(
            begin=begin,
            end=end,
            pad=-(end - begin) % multiple,
            skip=(kept[0] - begin) // self.output,
            keep=-(-(kept[1] - kept[0]) // self.output),
        )

    def pool(self, outputs: Tensor) -> Tensor:
        """``(T', D)`` outputs to ``(T, D)`` features; the last one may be over fewer."""
        size = self.step // self.output
        if size == 1:
            return outputs
        whole = len(outputs) // size * size
        means = outputs[:whole].unflatten(0, (-1, size)).mean(1)
        return means if whole == len(outputs) else torch.cat([means, outputs[whole:].mean(0)[None]])


@dataclass(frozen=True)
class Positions:
    """Where the steps of a grid lie between those of a stream.

    Attributes:
        low: ``(T,)`` the stream's step before each.
        high: ``(T,)`` the one after; the same where they coincide.
        weight: ``(T,)`` how much of the second.
    """

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    weight: NDArray[np.float32]

    @classmethod
    def of(cls, grid: Timeline, num_steps: int, own: Timeline, num_own: int) -> "Positions":
        """Those of ``num_steps`` steps of a grid, at least one, among ``num_own`` of a stream.

        As ``data.grid.interpolate``: held constant beyond the ends.
        """
        instants = grid.to_seconds(np.arange(num_steps, dtype=np.float64))
        inside = np.clip(np.round(own.to_grid(instants), 6), 0, num_own - 1)
        low = np.floor(inside).astype(np.int64)
        high = np.ceil(inside).astype(np.int64)
        return cls(low, high, (inside - low).astype(np.float32))

    @property
    def span(self) -> tuple[int, int]:
        """The stream's steps that are read: the first, and the one after the last."""
        return int(self.low[0]), int(self.high[-1]) + 1

    def read(self, feats: Tensor) -> Tensor:
        """``(T, D)`` on the grid, for the ``(T', D)`` features of the steps of :attr:`span`."""
        first = self.low[0]
        below = feats[torch.from_numpy(self.low - first).to(feats.device)]
        if not self.weight.any():
            return below
        above = feats[torch.from_numpy(self.high - first).to(feats.device)]
        weight = torch.from_numpy(self.weight).to(feats).unsqueeze(1)
        return below + weight * (above - below)
