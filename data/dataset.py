"""Which videos training sees, with which labels, and which window of each in which epoch."""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tad_distill import console
from tad_distill.console import UserError
from tad_distill.data.annotations import AnnotationSet, Video
from tad_distill.data.batch import Sample
from tad_distill.data.dataset_config import DataConfig
from tad_distill.data.grid import Grid
from tad_distill.data.timeline import Timeline

__all__ = ["DataConfig", "Dataset", "Windows"]

NAMED = 5  # A message names this many videos and counts the rest.


class Dataset:
    """Annotated videos on a common grid.

    Args:
        grid: The features.
        annotations: Of the subset to read.
        labels: All labels that a model knows; the position is the label's number.
        config: What to take.
        seed: Of the windows.
        unlisted: Videos beside the annotated ones, of which nothing is known.

    Raises:
        UserError: Videos lack features, or a label is none of ``labels``.
    """

    def __init__(
        self,
        grid: Grid,
        annotations: AnnotationSet,
        labels: Sequence[str],
        config: DataConfig,
        seed: int = 0,
        unlisted: Collection[str] = (),
    ) -> None:
        """Choose the videos."""
        self.grid = grid
        self.config = config
        self.seed = seed
        self._numbers = {label: number for number, label in enumerate(labels)}
        self._source = annotations.source
        names = sorted(annotations.videos)
        present = [annotations.videos[name] for name in self.present(names, grid)]
        known = [v for v in present if v.annotations or config.empty == "background"]
        present += [Video(name, "", None, None, ()) for name in self._unlisted(unlisted)]
        chosen = _choose(len(known), config.label_fraction, config.label_seed)
        with_labels = {known[i].name for i in chosen}
        used = [v for v in present if v.name in with_labels or config.unlabelled]
        self.videos = [video.name for video in used]
        self.labelled = [video.name in with_labels for video in used]
        self._segments = [self._annotated(*pair) for pair in zip(used, self.labelled, strict=True)]
        self._windows = [pair for i in range(len(used)) for pair in self._starts(i)]
        self.counts = {
            "videos": len(names),
            "labelled": sum(self.labelled),
            "unlabelled": len(used) - sum(self.labelled),
            "unlisted": sum(v.name not in annotations.videos for v in used),
            "unused": len(present) - len(used),
            "missing": len(annotations.videos.keys() - {v.name for v in present}),
            "segments": sum(len(labels) for _, labels in self._segments),
        }
        if config.window_overlap is not None:
            self.counts["windows"] = len(self._windows)

    def __len__(self) -> int:
        """How many videos there are."""
        return len(self.videos)

    def fingerprint(self) -> str:
        """A short name for the videos, how long they are, their segments and all labels."""
        rows = zip(self.videos, self.labelled, self._segments, strict=True)
        facts = [
            [video, labelled, self.grid.num_steps(video), segments.tolist(), labels.tolist()]
            for video, labelled, (segments, labels) in rows
        ]
        text = json.dumps([list(self._numbers), facts])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def whole(self, index: int) -> Sample:
        """A video in one piece."""
        video = self.videos[index]
        segments, labels = self.on_grid(index)
        return Sample(
            video=video,
            feats=_tensors(self.grid.read(video)),
            segments=segments,
            labels=labels,
            labelled=self.labelled[index],
            timeline=self.grid.timeline(video),
        )

    def on_grid(self, index: int) -> tuple[Tensor, Tensor]:
        """``(M, 2)`` known segments of a video in grid steps, and their ``(M,)`` labels."""
        segments, labels = self._segments[index]
        return _on_grid(segments, self.grid.timeline(self.videos[index])), labels

    @property
    def num_windows(self) -> int:
        """Windows of an epoch: one of each video, or with ``window_overlap`` all that count."""
        return len(self._windows)

    def window(self, number: int, epoch: int) -> Sample:
        """A part of a video that is trained on in an epoch; the same whenever it is asked for.

        Args:
            number: Of the window, in ``range(num_windows)``; without ``window_overlap`` that of
                the video.
            epoch: Seeds what is random.
        """
        index, start = self._windows[number]
        if start is None:
            return self._random_window(index, epoch)
        length = min(self.grid.num_steps(self.videos[index]), self.config.max_len)
        return self._cut(index, start, length, *self._clipped(index, start, length))

    def _random_window(self, index: int, epoch: int) -> Sample:
        """One window of a video.

        ActionFormer's rule (libs/datasets/data_utils.py at 61ea7eb): a video longer than
        ``max_len`` gives a random window of that length, a shorter one a random window of a share
        in ``crop_ratio``; drawn until a segment is kept, and after ``crop_tries`` the last one.
        """
        config, video = self.config, self.videos[index]
        random = np.random.default_rng([self.seed, epoch, index])
        num_steps = self.grid.num_steps(video)
        length = min(num_steps, config.max_len)
        if num_steps <= config.max_len and config.crop_ratio:
            least, most = (round(ratio * num_steps) for ratio in config.crop_ratio)
            length = int(random.integers(max(least, 1), max(most, 1), endpoint=True))
        if length == num_steps:
            return self.whole(index)
        for _ in range(config.crop_tries):
            start = int(random.integers(0, num_steps - length, endpoint=True))
            clipped, share = self._clipped(index, start, length)
            if self._kept(share).any() or not len(share):
                break
        return self._cut(index, start, length, clipped, share)

    def _starts(self, index: int) -> list[tuple[int, int | None]]:
        """The windows of a video, with their first steps; None for one at random."""
        config = self.config
        if config.window_overlap is None:
            return [(index, None)]
        last = max(self.grid.num_steps(self.videos[index]) - config.max_len, 0)
        advance = max(round(config.max_len * (1 - config.window_overlap)), 1)
        starts = [*range(0, last, advance), last]
        if self.labelled[index] and len(self._segments[index][1]):
            starts = [start for start in starts if self._counts(index, start)]
        return [(index, start) for start in starts]

    def _counts(self, index: int, start: int) -> bool:
        """Whether enough of some segment lies in a window."""
        length = min(self.grid.num_steps(self.videos[index]), self.config.max_len)
        _, share = self._clipped(index, start, length)
        return bool((self._kept(share) & (share >= self.config.window_keeps)).any())

    def _clipped(self, index: int, start: int, length: int) -> tuple[Tensor, Tensor]:
        """``(M, 2)`` a video's segments, cut to a window, and ``(M,)`` what share of each is left.

        0 is the share of a segment of no length.
        """
        timeline = self.grid.timeline(self.videos[index])
        segments, _ = self.on_grid(index)
        # The first clip begins half a clip before its centre, the last one ends half a clip after.
        margin = timeline.offset_frames / timeline.stride_frames
        clipped = segments.clamp(start - margin, start + length + margin)
        inside, whole = clipped[:, 1] - clipped[:, 0], segments[:, 1] - segments[:, 0]
        return clipped, torch.where(whole > 0, inside / whole, 0.0)

    def _kept(self, share: Tensor) -> Tensor:
        return (share > 0) & (share >= self.config.trunc_thresh)

    def _cut(self, index: int, start: int, length: int, clipped: Tensor, share: Tensor) -> Sample:
        video, kept = self.videos[index], self._kept(share)
        return Sample(
            video=video,
            feats=_tensors(self.grid.read(video, start, start + length)),
            segments=clipped[kept] - start,
            labels=self._segments[index][1][kept],
            labelled=self.labelled[index],
            timeline=self.grid.timeline(video).cropped(start),
        )

    def batches(self, epoch: int, size: int, size_unlabelled: int) -> list[list[int]]:
        """Which windows make up each batch of an epoch: all labelled ones once, in random order.

        Labelled windows that fill no batch wait for the next epoch. Unlabelled ones are added to
        each batch, drawn anew per epoch.

        Args:
            epoch: Seeds the order.
            size: Labelled windows per batch; fewer if there are fewer.
            size_unlabelled: Unlabelled windows per batch, if there are any.
        """
        random = np.random.default_rng([self.seed, epoch])
        flags = np.array([self.labelled[index] for index, _ in self._windows], dtype=bool)
        labelled, unlabelled = np.flatnonzero(flags), np.flatnonzero(~flags)
        if not len(labelled):
            return []
        size = min(size, len(labelled))
        num_batches = len(labelled) // size
        order = random.permutation(labelled)[: num_batches * size].reshape(num_batches, -1)
        if len(unlabelled) and size_unlabelled:
            num_extra = num_batches * size_unlabelled
            rounds = range(-(-num_extra // len(unlabelled)))
            extra = np.concatenate([random.permutation(unlabelled) for _ in rounds])[:num_extra]
            order = np.concatenate([order, extra.reshape(num_batches, -1)], axis=1)
        return [[int(i) for i in row] for row in order]

    def present(self, videos: Sequence[str], grid: Grid) -> list[str]:
        """The videos that have features; what is done about the others is ``data.missing``.

        Raises:
            UserError: Some have none, and that is to be an error.
        """
        lacking = {video: grid.lacking(video) for video in videos}
        gone = [video for video, streams in lacking.items() if streams]
        if not gone:
            return list(videos)
        some = ", ".join(f"{name} ({' and '.join(lacking[name])})" for name in gone[:NAMED])
        more = f" and {len(gone) - NAMED} more" if len(gone) > NAMED else ""
        if self.config.missing == "error":
            raise UserError(
                f"{self._source}: {len(gone)} of {len(videos)} annotated videos lack features: "
                f"{some}{more}; extract them, or train without with --set data.missing=drop"
            )
        console.log("videos_without_features", dropped=len(gone), of=len(videos), videos=some)
        return [video for video in videos if not lacking[video]]

    def _unlisted(self, videos: Collection[str]) -> list[str]:
        """Those of the unlisted videos that have features in every stream."""
        whole = [video for video in sorted(videos) if not self.grid.lacking(video)]
        if len(whole) < len(videos):
            num_lacking = len(videos) - len(whole)
            console.log("unlisted_without_features", dropped=num_lacking, of=len(videos))
        return whole

    def _annotated(self, video: Video, labelled: bool) -> tuple[NDArray[np.float64], Tensor]:
        annotations = video.annotations if labelled else ()
        for annotation in annotations:
            if annotation.label not in self._numbers:
                raise UserError(
                    f"{self._source}: video {video.name}: label {annotation.label!r} is none of "
                    f"the {len(self._numbers)} that the model knows "
                    f"({', '.join(list(self._numbers)[:NAMED])}, ...)"
                )
        ends = np.array([[a.start_s, a.end_s] for a in annotations], dtype=np.float64)
        numbers = torch.tensor([self._numbers[a.label] for a in annotations]).long()
        return ends.reshape(-1, 2), numbers


@dataclass(frozen=True)
class Windows(torch.utils.data.Dataset[Sample]):
    """The training windows of one epoch, as a loader reads them."""

    dataset: Dataset
    epoch: int

    def __len__(self) -> int:
        """How many windows there are."""
        return self.dataset.num_windows

    def __getitem__(self, number: int) -> Sample:
        """A window."""
        return self.dataset.window(number, self.epoch)


def _choose(count: int, fraction: float, seed: int) -> list[int]:
    """A seeded share of ``count`` things, at least one; larger shares contain smaller ones."""
    order = np.random.default_rng(seed).permutation(count)
    return [int(i) for i in order[: max(round(fraction * count), 1)]]


def _on_grid(seconds: NDArray[np.float64], timeline: Timeline) -> Tensor:
    return torch.from_numpy(timeline.to_grid(seconds)).float()


def _tensors(feats: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {stream: torch.from_numpy(array) for stream, array in feats.items()}
