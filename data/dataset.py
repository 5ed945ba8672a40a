"""Which videos training sees, with which labels, and which window of each in which epoch."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tad_distill import console
from tad_distill.console import UserError
from tad_distill.data.annotations import AnnotationSet, Video
from tad_distill.data.batch import Batch, Sample, collate
from tad_distill.data.grid import Grid
from tad_distill.data.timeline import Timeline

NAMED = 5  # A message names this many videos and counts the rest.


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a run reads.

    Attributes:
        store: Folder of the feature store.
        annotations: Annotation file.
        subset: Subset to train on.
        test_subset: Subset of the reported numbers: neither trained nor selected on.
        validation_subset: Subset to watch, and to select on, while training.
        grid: Stream whose steps are the common grid; by default the first that the model reads.
            A teacher and its student need the same grid.
        target_len: Resample every video to this many steps.
        standardise: Bring each channel to mean 0 and variance 1 over the training videos.
        max_len: Train on windows of at most this many steps.
        pad: Pad to the longest sample of a batch, or at least to ``max_len`` (ActionFormer's rule).
        pad_multiple: Pad to a multiple of this; for heads that cannot pad themselves.
        crop_ratio: Train on a random window of between these shares of a video no longer than
            ``max_len``; not set: on the whole video.
        trunc_thresh: A segment is kept in a window if at least this share of it lies inside.
        crop_tries: Draw a window at most this often until a segment is kept.
        label_fraction: Use the labels of this share of the labelled videos only.
        label_seed: Which videos these are; larger shares contain the smaller ones.
        unlabelled: Train on videos without labels as well; only a teacher's lessons need none.
        empty: What a video without any annotation is: unlabelled, or known to be background.
        missing: What to do about a video that lacks features: stop, or leave it out and say so.
        cache_mb: Keep features in memory up to this size.
    """

    store: Path | None = None
    annotations: Path | None = None
    subset: str = "training"
    test_subset: str = "test"
    validation_subset: str | None = None
    grid: str | None = None
    target_len: int | None = None
    standardise: bool = True
    max_len: int = 2304
    pad: Literal["longest", "max_len"] = "longest"
    pad_multiple: int = 1
    crop_ratio: tuple[float, float] | None = (0.9, 1.0)
    trunc_thresh: float = 0.5
    crop_tries: int = 200
    label_fraction: float = 1.0
    label_seed: int = 0
    unlabelled: bool = False
    empty: Literal["unlabelled", "background"] = "unlabelled"
    missing: Literal["error", "drop"] = "error"
    cache_mb: int = 2048

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        for key in ("subset", "validation_subset"):
            subset = getattr(self, key)
            if subset is not None and subset.lower() == self.test_subset.lower():
                raise ValueError(
                    f"{key}: {subset!r} is test_subset, whose numbers are reported: it cannot be "
                    "trained or selected on; name another subset"
                )
        if not 0 < self.label_fraction <= 1:
            raise ValueError(f"label_fraction must be in (0, 1], got {self.label_fraction}")
        if self.crop_ratio and not 0 < self.crop_ratio[0] <= self.crop_ratio[1] <= 1:
            raise ValueError(f"crop_ratio must be a range within (0, 1], got {self.crop_ratio}")
        if min(self.max_len, self.crop_tries, self.pad_multiple) < 1:
            raise ValueError("max_len, crop_tries and pad_multiple must be at least 1")
        if self.target_len is not None and not 1 <= self.target_len <= self.max_len:
            raise ValueError(
                f"target_len must be in 1..max_len, got {self.target_len} and {self.max_len}"
            )

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """Samples padded by the rule of ``pad`` and ``pad_multiple``."""
        least = self.max_len if self.pad == "max_len" else 1
        return collate(samples, min_len=least, multiple=self.pad_multiple)


class Dataset:
    """Annotated videos on a common grid.

    Args:
        grid: The features.
        annotations: Of the subset to read.
        labels: All labels that a model knows; the position is the label's number.
        config: What to take.
        seed: Of the windows.

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
        chosen = _choose(len(known), config.label_fraction, config.label_seed)
        with_labels = {known[i].name for i in chosen}
        used = [v for v in present if v.name in with_labels or config.unlabelled]
        self.videos = [video.name for video in used]
        self.labelled = [video.name in with_labels for video in used]
        self._segments = [self._annotated(*pair) for pair in zip(used, self.labelled, strict=True)]
        self.counts = {
            "videos": len(names),
            "labelled": sum(self.labelled),
            "unlabelled": len(used) - sum(self.labelled),
            "unused": len(present) - len(used),
            "missing": len(names) - len(present),
            "segments": sum(len(labels) for _, labels in self._segments),
        }

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
        segments, labels = self._segments[index]
        timeline = self.grid.timeline(video)
        return Sample(
            video=video,
            feats=_tensors(self.grid.read(video)),
            segments=_on_grid(segments, timeline),
            labels=labels,
            labelled=self.labelled[index],
            timeline=timeline,
        )

    def window(self, index: int, epoch: int) -> Sample:
        """The part of a video that is trained on in an epoch; the same whenever it is asked for.

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
        timeline = self.grid.timeline(video)
        seconds, labels = self._segments[index]
        segments = _on_grid(seconds, timeline)
        # The first clip begins half a clip before its centre, the last one ends half a clip after.
        margin = timeline.offset_frames / timeline.stride_frames
        for _ in range(config.crop_tries):
            start = int(random.integers(0, num_steps - length, endpoint=True))
            clipped = segments.clamp(start - margin, start + length + margin)
            inside = clipped[:, 1] - clipped[:, 0]
            whole = segments[:, 1] - segments[:, 0]
            kept = (whole > 0) & (inside >= config.trunc_thresh * whole)
            if kept.any() or not len(kept):
                break
        return Sample(
            video=video,
            feats=_tensors(self.grid.read(video, start, start + length)),
            segments=clipped[kept] - start,
            labels=labels[kept],
            labelled=self.labelled[index],
            timeline=timeline.cropped(start),
        )

    def batches(self, epoch: int, size: int, size_unlabelled: int) -> list[list[int]]:
        """Which videos make up each batch of an epoch: all labelled ones once, in random order.

        Labelled videos that fill no batch wait for the next epoch. Unlabelled ones are added to
        each batch, drawn anew per epoch.

        Args:
            epoch: Seeds the order.
            size: Labelled videos per batch; fewer if there are fewer.
            size_unlabelled: Unlabelled videos per batch, if there are any.
        """
        random = np.random.default_rng([self.seed, epoch])
        flags = np.array(self.labelled, dtype=bool)
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
        """How many videos there are."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        """A video's window."""
        return self.dataset.window(index, self.epoch)


def _choose(count: int, fraction: float, seed: int) -> list[int]:
    """A seeded share of ``count`` things, at least one; larger shares contain smaller ones."""
    order = np.random.default_rng(seed).permutation(count)
    return [int(i) for i in order[: max(round(fraction * count), 1)]]


def _on_grid(seconds: NDArray[np.float64], timeline: Timeline) -> Tensor:
    return torch.from_numpy(timeline.to_grid(seconds)).float()


def _tensors(feats: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {stream: torch.from_numpy(array) for stream, array in feats.items()}
