"""What the copy is shown: windows of maps, and what it is to say about each step of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tad_distill.console import UserError
from tad_distill.data.dataset import Dataset
from tad_distill.data.grid import Grid
from tad_distill.data.spec import StreamSpec
from tad_distill.data.store import Stream
from tad_distill.data.timeline import Timeline
from tad_distill.distill.adapter.config import RecipeConfig
from tad_distill.distill.sources import statistics


class OutputGrid(Grid):
    """The steps of the stream that the copy will make, before that stream is there."""

    def __init__(
        self, streams: Mapping[str, Stream], maps: Stream, output: StreamSpec, cache_bytes: int
    ) -> None:
        """Take the place of the steps from ``output``, their number from the maps.

        Args:
            streams: Pooled streams to read at these steps.
            maps: What the copy reads.
            output: Of the stream that will be made.
            cache_bytes: Keep whole videos of ``streams`` in memory up to this much.
        """
        super().__init__(streams, maps, None, cache_bytes)
        self.output = output

    def num_steps(self, video: str) -> int:
        """Steps of a video; the last one may be over fewer maps than the others."""
        num_frames = self.base.entry(video).num_steps * self.base.spec.stride_frames
        return math.ceil(num_frames / self.output.stride_frames)

    def timeline(self, video: str) -> Timeline:
        """Where the steps of a video lie in time."""
        return Timeline(
            fps=self.output.fps or self.base.entry(video).fps,
            stride_frames=self.output.stride_frames,
            offset_frames=self.output.offset_frames,
        )


@dataclass(frozen=True, kw_only=True)
class WindowBatch:
    """Windows of maps with their targets.

    Attributes:
        maps: ``(B, T', C, H, W)`` float32.
        targets: ``(B, S, D)`` float32, what is to be said about each step.
        counts: ``(B, S)`` bool, true where a step counts in the loss.
        videos: Where each window is from.
    """

    maps: Tensor
    targets: Tensor
    counts: Tensor
    videos: list[str]


class Targets:
    """What the copy is to say: a teacher's features, standardised, or the labels of each step.

    Attributes:
        dim: Width D of a target.
    """

    dim: int

    def __init__(self, dataset: Dataset, teacher: str | None, num_labels: int) -> None:
        """Look at the training videos.

        Args:
            dataset: The training videos.
            teacher: Stream to predict; None: the labels.
            num_labels: K; a step outside every segment is of one class more, the last.
        """
        self.teacher = teacher
        self.num_labels = num_labels
        if teacher is None:
            self.dim = num_labels + 1
        else:
            self.dim = dataset.grid.dims[teacher]
            mean, std = statistics(dataset)[teacher]
            # A channel that never varies teaches nothing and must not be blown up.
            self.mean, self.std = mean.numpy(), torch.where(std > 1e-6, std, 1.0).numpy()

    def of(
        self, dataset: Dataset, index: int, start: int = 0, stop: int | None = None
    ) -> NDArray[np.float32]:
        """``(S, D)`` for the steps ``start`` to ``stop`` of a video of ``dataset``."""
        video = dataset.videos[index]
        if self.teacher is not None:
            feats = dataset.grid.read(video, start, stop)[self.teacher]
            standard = (feats.astype(np.float32) - self.mean) / self.std
            return standard.astype(np.float32)
        stop = dataset.grid.num_steps(video) if stop is None else stop
        segments, labels = dataset.on_grid(index)
        steps = np.arange(start, stop)[:, None]
        inside = (steps >= segments[:, 0].numpy()) & (steps <= segments[:, 1].numpy())
        classes = np.zeros((stop - start, self.dim), np.float32)
        for segment, label in enumerate(labels.tolist()):
            classes[inside[:, segment], label] = 1
        classes[:, -1] = classes.sum(1) == 0
        # Where segments overlap, each of their labels is as right as the others.
        return classes / classes.sum(1, keepdims=True)


class Windows:
    """The batches of a training; each depends on the seed and its number alone.

    Attributes:
        num_batches: How many a training takes.
    """

    def __init__(
        self, dataset: Dataset, targets: Targets, recipe: RecipeConfig, multiple_frames: int
    ) -> None:
        """Choose from all videos, or from the labelled ones if the targets are labels.

        Args:
            dataset: The training videos, on an :class:`OutputGrid`.
            targets: What is to be said.
            recipe: Size, number and seed of the windows.
            multiple_frames: Where runs of the backbone may begin and end.

        Raises:
            UserError: The windows are too short to keep a step.
        """
        assert isinstance(dataset.grid, OutputGrid)
        self.dataset, self.grid, self.targets = dataset, dataset.grid, targets
        self._batch_size, self._seed = recipe.batch_size, recipe.seed
        step_frames = round(self.grid.output.stride_frames)
        # Windows begin where both a step and a run of the backbone may begin.
        unit = math.lcm(step_frames, multiple_frames)
        units = max(1, round(recipe.window_frames / unit))
        self._steps_per_unit = unit // step_frames
        self._maps_per_unit = unit // round(self.grid.base.spec.stride_frames)
        self.num_units, self.num_steps = units, units * self._steps_per_unit
        self.num_edge = math.ceil(recipe.edge_frames / step_frames)
        if self.num_steps <= 2 * self.num_edge:
            raise UserError(
                f"train.window_frames: {recipe.window_frames} frames are {self.num_steps} steps of "
                f"{step_frames} frames, and {self.num_edge} at each end do not count; set more"
            )
        of_labels = targets.teacher is None
        self._rows = [i for i, known in enumerate(dataset.labelled) if known or not of_labels]
        lengths = np.array([self.grid.num_steps(video) for video in dataset.videos])
        self.num_batches = recipe.num_batches(float(lengths.sum()) * step_frames)
        self._shares = lengths[self._rows] / lengths[self._rows].sum()

    def batch(self, number: int) -> WindowBatch:
        """The batch of a step: every place of every video is as likely as any other."""
        random = np.random.default_rng([self._seed, number])
        drawn = random.choice(len(self._rows), self._batch_size, p=self._shares)
        rows = [self._rows[i] for i in drawn]
        maps, targets, counts = zip(*(self._window(row, random) for row in rows), strict=True)
        return WindowBatch(
            maps=torch.from_numpy(np.stack(maps)).float(),
            targets=torch.from_numpy(np.stack(targets)),
            counts=torch.from_numpy(np.stack(counts)),
            videos=[self.dataset.videos[row] for row in rows],
        )

    def _window(
        self, index: int, random: np.random.Generator
    ) -> tuple[NDArray[np.floating], NDArray[np.float32], NDArray[np.bool_]]:
        video, maps_stream = self.dataset.videos[index], self.grid.base
        there, num_maps = self.grid.num_steps(video), maps_stream.entry(video).num_steps
        units = -(-there // self._steps_per_unit)
        unit = int(random.integers(0, max(units - self.num_units, 0), endpoint=True))
        start = unit * self._steps_per_unit
        stop = min(start + self.num_steps, there)
        first, length = unit * self._maps_per_unit, self.num_units * self._maps_per_unit
        maps = maps_stream.read(video, first, min(first + length, num_maps))
        # A video that is shorter than a window ends in copies of its last map, which do not count.
        maps = np.concatenate([maps, np.repeat(maps[-1:], length - len(maps), axis=0)])
        targets = np.zeros((self.num_steps, self.targets.dim), np.float32)
        targets[: stop - start] = self.targets.of(self.dataset, index, start, stop)
        counts = np.zeros(self.num_steps, bool)
        counts[self.num_edge : min(stop - start, self.num_steps - self.num_edge)] = True
        return maps, targets, counts
