"""Cut a stream of frames into runs for the backbone, and its output into the steps of a stream.

Two regimes, which differ at the boundaries and are named in a stream's spec:

``window``
    Runs of ``window_frames``, encoded in one pass with ``halo_frames`` extra frames on both sides
    that are cut off afterwards. Without a halo each run stands alone, with zero shift at its ends,
    as E2E-TAD encodes its windows (but a short last run stays short, where E2E-TAD fills it up with
    grey). With the halo that the backbone needs, the result is that of the whole video in one pass.
``snippet``
    Clips of ``clip_frames`` every ``clip_stride_frames``, each encoded alone and averaged over
    time; a rest shorter than a clip gives nothing, a video shorter than a clip repeats its last
    frame.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tad_distill.console import UsageError
from tad_distill.extract.backbones import Backbone
from tad_distill.extract.config import ExtractConfig


@dataclass(frozen=True)
class Run:
    """Frames that go through the backbone together.

    Attributes:
        frames: ``(T, C, H, W)``.
        skip: Output steps to cut off at the start.
        keep: Output steps to keep after those.
    """

    frames: Tensor
    skip: int
    keep: int

    def without_frames(self) -> "Run":
        """What is left to know when the frames have gone through."""
        return Run(self.frames.new_empty(0), self.skip, self.keep)


class Cutter(Protocol):
    """Cuts one video, whose frames come in any pieces; make a new one for every video.

    Attributes:
        clip_frames: Frames that a step stands for.
        stride_frames: Frames between the centres of neighbouring steps.
        offset_frames: The centre of the first step, in frames from the start of the video.
    """

    clip_frames: int
    stride_frames: int
    offset_frames: float

    def push(self, frames: Tensor) -> list[Run]:
        """Take the next ``(N, C, H, W)`` frames; returns the runs that are complete."""

    def finish(self) -> list[Run]:
        """The runs that are left when the video has ended."""

    def steps(self, output: Tensor) -> Tensor:
        """Turn what the backbone made of a run, ``(T', ...)`` after cutting, into its steps."""


class Buffer:
    """Frames that wait for those behind them, joined no sooner than they are read."""

    def __init__(self) -> None:
        """Start empty."""
        self._pieces: list[Tensor] = []
        self._num_frames = 0

    def __len__(self) -> int:
        """How many frames wait."""
        return self._num_frames

    def append(self, frames: Tensor) -> None:
        """Put ``(N, C, H, W)`` frames behind the others."""
        self._pieces.append(frames)
        self._num_frames += len(frames)

    def first(self, num_frames: int, repeats: int = 0) -> Tensor:
        """The first frames, ``(num_frames + repeats, C, H, W)``, the last one repeated."""
        taken, left = [], num_frames
        for piece in self._pieces:
            if left <= 0:
                break
            taken.append(piece[:left])
            left -= len(piece)
        if repeats:
            taken.append(taken[-1][-1:].expand(repeats, -1, -1, -1))
        return taken[0] if len(taken) == 1 else torch.cat(taken)

    def drop(self, num_frames: int) -> None:
        """Forget the first frames."""
        self._num_frames -= num_frames
        while num_frames:
            piece = self._pieces[0]
            if len(piece) <= num_frames:
                del self._pieces[0]
            else:
                self._pieces[0] = piece[num_frames:]
            num_frames -= min(num_frames, len(piece))


class Windows:
    """The ``window`` regime."""

    def __init__(
        self,
        window_frames: int,
        halo_frames: int,
        pool_frames: int,
        stride: int,
        multiple: int = 1,
    ) -> None:
        """Cut windows.

        Args:
            window_frames: Length of a run, a multiple of ``pool_frames`` and of ``multiple``.
            halo_frames: Extra frames on each side, a multiple of ``stride`` and of ``multiple``.
            pool_frames: Frames per step, a multiple of ``stride``.
            stride: Frames per output step of the backbone.
            multiple: Runs have a length that is a multiple of this, and of ``stride``.
        """
        self.clip_frames = self.stride_frames = pool_frames
        self.offset_frames = pool_frames / 2
        self._window, self._halo, self._stride = window_frames, halo_frames, stride
        self._multiple = math.lcm(stride, multiple)
        self._pool_steps = pool_frames // stride
        self._buffer = Buffer()
        self._num_before = 0  # frames at the start of the buffer that earlier runs have covered

    def push(self, frames: Tensor) -> list[Run]:
        """Take the next ``(N, C, H, W)`` frames; returns the runs that are complete."""
        self._buffer.append(frames)
        runs = []
        while len(self._buffer) >= self._num_before + self._window + self._halo:
            runs.append(self._cut(self._window))
        return runs

    def finish(self) -> list[Run]:
        """The runs that are left when the video has ended; the last one may be shorter."""
        runs = []
        while (left := len(self._buffer) - self._num_before) > 0:
            runs.append(self._cut(min(self._window, left)))
        return runs

    def _cut(self, num_frames: int) -> Run:
        end = self._num_before + num_frames
        num_shown = min(end + self._halo, len(self._buffer))
        frames = self._buffer.first(num_shown, repeats=-num_shown % self._multiple)
        run = Run(frames, self._num_before // self._stride, -(-num_frames // self._stride))
        start = max(0, end - self._halo)
        self._buffer.drop(start)
        self._num_before = end - start
        return run

    def steps(self, output: Tensor) -> Tensor:
        """Mean over every ``pool_frames``; the last step of a video may be over fewer."""
        if self._pool_steps == 1:
            return output
        return torch.stack([part.mean(0) for part in output.split(self._pool_steps)])


class Snippets:
    """The ``snippet`` regime."""

    def __init__(self, clip_frames: int, stride_frames: int) -> None:
        """Cut clips of ``clip_frames``, one every ``stride_frames``."""
        self.clip_frames, self.stride_frames = clip_frames, stride_frames
        self.offset_frames = clip_frames / 2
        self._buffer = Buffer()
        self._num_skipped = 0  # frames still to drop before the next clip, where stride > clip
        self._num_runs = 0

    def push(self, frames: Tensor) -> list[Run]:
        """Take the next ``(N, C, H, W)`` frames; returns the clips that are complete."""
        self._buffer.append(frames)
        buffer = self._buffer.first(len(self._buffer))
        start, runs = self._num_skipped, []
        while len(buffer) - start >= self.clip_frames:
            runs.append(Run(buffer[start : start + self.clip_frames], 0, self.clip_frames))
            start += self.stride_frames
        used = min(start, len(buffer))
        self._buffer.drop(used)
        self._num_skipped = start - used
        self._num_runs += len(runs)
        return runs

    def finish(self) -> list[Run]:
        """One clip with repeated last frames, if the whole video is shorter than a clip."""
        num_frames = len(self._buffer)
        if self._num_runs or not num_frames:
            return []
        frames = self._buffer.first(num_frames, repeats=self.clip_frames - num_frames)
        return [Run(frames, 0, self.clip_frames)]

    def steps(self, output: Tensor) -> Tensor:
        """The mean over the clip."""
        return output.mean(0, keepdim=True)


def cutter(config: ExtractConfig, backbone: Backbone) -> Cutter:
    """Make the cutter of one video.

    Raises:
        UsageError: A length is no multiple of the frames that the backbone makes one step of.
    """
    stride, multiple = backbone.stride_frames, backbone.multiple_frames
    if config.regime == "snippet":
        _check_multiple("clip_frames", config.clip_frames, multiple)
        return Snippets(config.clip_frames, config.clip_stride_frames)
    pool = stride if config.pool_frames == 1 else config.pool_frames
    halo = halo_frames(config, backbone)
    _check_multiple("pool_frames", pool, stride)
    _check_multiple("window_frames", config.window_frames, math.lcm(pool, multiple))
    _check_multiple("halo_frames", halo, multiple)
    windows = Windows(config.window_frames, halo, pool, stride, multiple)
    windows.offset_frames = backbone.centre_of(None) + (pool - stride) / 2
    return windows


def halo_frames(config: ExtractConfig, backbone: Backbone) -> int:
    """The halo asked for, or the one the backbone needs, rounded up to where runs may begin."""
    if config.halo_frames is not None:
        return config.halo_frames
    return -(-backbone.halo_frames // backbone.multiple_frames) * backbone.multiple_frames


def _check_multiple(name: str, value: int, of: int) -> None:
    if value % of:
        raise UsageError(f"{name}: expected a multiple of {of}, got {value}")
