"""What is kept of the maps of the last stage: their mean, or how they spread and change as well.

A mean over space and over the frames of a step hides what moves inside. ``rich`` pooling keeps, at
five times the storage, what a frozen backbone knows of it: a detector of frozen features of an
appearance-heavy backbone gains more from it than from a teacher's lessons.
"""

from typing import Protocol

import torch
from torch import Tensor

from tad_distill.extract.backbones import Backbone
from tad_distill.extract.clips import Cutter

# Of rich pooling; stands in the spec of such a stream.
RICH = (
    "mean; standard deviation over space; over time, half a step beyond both ends; differences of "
    "half steps, inside the step and to the next one"
)
NUM_RICH = 5


class Pooling(Protocol):
    """Turns what a network makes of a video, run by run, into the steps of a stream."""

    def push(self, rows: Tensor) -> list[Tensor]:
        """Take the next ``(T', ...)`` outputs; returns runs of steps that are complete."""

    def finish(self) -> list[Tensor]:
        """The steps that are left when the video has ended."""


class ByRun:
    """The mean over the outputs of each step; no step needs another run's outputs."""

    def __init__(self, cutter: Cutter) -> None:
        """Pool as the runs were cut."""
        self._cutter = cutter

    def push(self, rows: Tensor) -> list[Tensor]:
        """Take the outputs ``(T', ...)`` of the next run."""
        return [self._cutter.steps(rows)]

    def finish(self) -> list[Tensor]:
        """Nothing is left."""
        return []


class AsTheyAre:
    """No pooling: a step per output."""

    def push(self, rows: Tensor) -> list[Tensor]:
        """Take the outputs ``(T', ...)`` of the next run."""
        return [rows]

    def finish(self) -> list[Tensor]:
        """Nothing is left."""
        return []


class Rich:
    """Five vectors per step of P outputs, side by side; f is an output's mean over space.

    With half a step W = max(1, P // 2) and the step's middle output M = P // 2, all counted from
    the step's first output: the mean of f over the step; the mean over the step of f's standard
    deviation over space; the standard deviation of f over the outputs -W ... P + W - 1; and the
    differences of neighbouring half steps, ``mean f[M : M + W] - mean f[M - W : M]`` and
    ``mean f[M + W : M + 2 W] - mean f[M : M + W]``. Before the first and after the last output of
    a video stand copies of it. For P = 2 these are the deviation over 4 frames and two signed
    differences of neighbouring frames.
    """

    def __init__(self, num_outputs: int) -> None:
        """Make steps of ``num_outputs`` = P outputs."""
        self._size = num_outputs
        self._half = max(1, num_outputs // 2)
        self._buffer: Tensor | None = None  # half a step before the next step, and what follows

    def push(self, rows: Tensor) -> list[Tensor]:
        """Take the next ``(T', 2 D)`` outputs, as :func:`moments` makes them."""
        if not len(rows):
            return []
        if self._buffer is None:
            self._buffer = rows[:1].expand(self._half, -1)
        self._buffer = torch.cat([self._buffer, rows])
        span = self._size + 2 * self._half
        count = (len(self._buffer) - span) // self._size + 1
        if count < 1:
            return []
        made = self._made(self._buffer[: (count - 1) * self._size + span])
        self._buffer = self._buffer[count * self._size :]
        return [made]

    def finish(self) -> list[Tensor]:
        """The last steps; the very last one may be over fewer outputs."""
        if self._buffer is None or (left := len(self._buffer) - self._half) < 1:
            return []
        buffer, lacking = self._buffer, -left % self._size
        padded = torch.cat([buffer, buffer[-1:].expand(lacking + self._half, -1)])
        made = self._made(padded)
        if lacking:
            rest = buffer[-(self._size - lacking) :].mean(0)
            made[-1, : len(rest)] = rest
        return [made]

    def _made(self, rows: Tensor) -> Tensor:
        half, middle = self._half, self._half + self._size // 2
        spans = rows.unfold(0, self._size + 2 * half, self._size)  # (S, 2 D, P + 2 W)
        means = spans[:, :, half : half + self._size].mean(-1)
        feats = spans[:, : spans.shape[1] // 2]
        before, after, later = (
            feats[:, :, start : start + half].mean(-1)
            for start in (middle - half, middle, middle + half)
        )
        over_time = feats.std(-1, correction=0)
        return torch.cat([means, over_time, after - before, later - after], dim=-1)


def moments(backbone: Backbone, maps: Tensor) -> Tensor:
    """Mean and standard deviation over space, as the backbone pools.

    Args:
        backbone: Its ``pool`` is a mean of some kind.
        maps: ``(B, T', C', H', W')`` of the last stage.

    Returns:
        ``(B, T', 2 D)``: mean, then standard deviation.
    """
    maps = maps.float()
    mean = backbone.pool(maps)
    variance = backbone.pool(maps.square()) - mean.square()
    return torch.cat([mean, variance.clamp(min=0).sqrt()], dim=-1)
