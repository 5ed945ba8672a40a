"""What training reads: the features and segments of one video, and several of them padded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tad_distill.data.timeline import Timeline


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One video, or a window of one, on its grid.

    Attributes:
        video: Name of the video.
        feats: For each stream ``(T, D)`` features; T is the same for all streams, D is not.
        segments: ``(M, 2)`` float32 start and end in grid steps of ``feats``; M may be 0.
        labels: ``(M,)`` int64.
        labelled: Whether the segments are known. A labelled video without any segment is all
            background; of an unlabelled one nothing is known.
        timeline: Where the grid steps lie in time.
    """

    video: str
    feats: dict[str, Tensor]
    segments: Tensor
    labels: Tensor
    labelled: bool
    timeline: Timeline


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples padded to one length.

    Attributes:
        feats: For each stream ``(B, T, D)`` float32, zero where not real.
        mask: ``(B, T)`` bool, true where real.
        segments: For each video ``(M, 2)`` start and end in grid steps; M may be 0.
        labels: For each video ``(M,)`` int64.
        labelled: ``(B,)`` bool, true where the segments of the video are known.
        videos: Names of the videos.
        timelines: Where the grid steps of each video lie in time.
    """

    feats: dict[str, Tensor]
    mask: Tensor
    segments: list[Tensor]
    labels: list[Tensor]
    labelled: Tensor
    videos: list[str]
    timelines: list[Timeline]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its tensors on a device."""
        return replace(
            self,
            feats={stream: feats.to(device) for stream, feats in self.feats.items()},
            mask=self.mask.to(device),
            segments=[segments.to(device) for segments in self.segments],
            labels=[labels.to(device) for labels in self.labels],
            labelled=self.labelled.to(device),
        )


def collate(samples: Sequence[Sample], min_len: int = 1, multiple: int = 1) -> Batch:
    """Pad samples at the end to one length.

    Args:
        samples: At least one; all with the same streams.
        min_len: The batch has at least this many grid steps.
        multiple: Its number of grid steps is a multiple of this.
    """
    assert samples, "a batch needs a sample"
    lengths = [next(iter(sample.feats.values())).shape[0] for sample in samples]
    length = -(-max(*lengths, min_len) // multiple) * multiple
    mask = torch.arange(length) < torch.tensor(lengths).unsqueeze(1)
    feats = {}
    for stream, first in samples[0].feats.items():
        padded = torch.zeros(len(samples), length, first.shape[1])
        for row, sample in zip(padded, samples, strict=True):
            row[: sample.feats[stream].shape[0]] = sample.feats[stream]
        feats[stream] = padded
    return Batch(
        feats=feats,
        mask=mask,
        segments=[sample.segments for sample in samples],
        labels=[sample.labels for sample in samples],
        labelled=torch.tensor([sample.labelled for sample in samples]),
        videos=[sample.video for sample in samples],
        timelines=[sample.timeline for sample in samples],
    )
