"""Settings of what training reads; in a module of its own because every run keeps them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tad_distill.data.batch import Batch, Sample, collate


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
        step_s: Resample every video to steps of this many seconds, so that what counts steps
            (windows, ranges, anchors) means the same for every backbone; a grid whose own steps
            are within 2 % of that stays as it is. 0: as the features are.
        standardise: Bring each channel to mean 0 and variance 1 over the training videos.
        max_len: Train on windows of at most this many steps.
        pad: Pad to the longest sample of a batch, or at least to ``max_len`` (ActionFormer's rule).
        pad_multiple: Pad to a multiple of this; for heads that cannot pad themselves.
        crop_ratio: Train on a random window of between these shares of a video no longer than
            ``max_len``; not set: on the whole video.
        trunc_thresh: A segment is kept in a window if at least this share of it lies inside.
        crop_tries: Draw a window at most this often until a segment is kept.
        window_overlap: Train on all windows of ``max_len`` steps that overlap by this share and
            keep a segment, in place of one random window of each video (0.75 in TadTR, 0.5 in
            G-TAD, for THUMOS'14). The last window of a video overlaps more.
        window_keeps: Of these windows take those in which some segment lies with at least this
            share; below ``trunc_thresh`` it says nothing.
        label_fraction: Use the labels of this share of the labelled videos only.
        label_seed: Which videos these are; larger shares contain the smaller ones.
        unlabelled: Train on videos without labels as well; only a teacher's lessons need none.
        unlisted: Of these also take the store's videos that the annotation file does not name in
            any subset. Let it name the test videos, to keep them out.
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
    step_s: float = 0.0
    standardise: bool = True
    max_len: int = 2304
    pad: Literal["longest", "max_len"] = "longest"
    pad_multiple: int = 1
    crop_ratio: tuple[float, float] | None = (0.9, 1.0)
    trunc_thresh: float = 0.5
    crop_tries: int = 200
    window_overlap: float | None = None
    window_keeps: float = 0.0
    label_fraction: float = 1.0
    label_seed: int = 0
    unlabelled: bool = False
    unlisted: bool = False
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
        if self.unlisted and not self.unlabelled:
            raise ValueError("unlisted: true, but of unlabelled videos none are used; set both")
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
        if self.step_s < 0 or (self.step_s and self.target_len is not None):
            raise ValueError(
                f"step_s must not be negative, nor set beside target_len, got {self.step_s}"
            )
        if self.window_overlap is not None and not 0 <= self.window_overlap < 1:
            raise ValueError(f"window_overlap must be in [0, 1), got {self.window_overlap}")

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """Samples padded by the rule of ``pad`` and ``pad_multiple``."""
        least = self.max_len if self.pad == "max_len" else 1
        return collate(samples, min_len=least, multiple=self.pad_multiple)
