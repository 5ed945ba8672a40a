"""Two detectors on the same videos: how far apart they are, how surely, and where.

The draws of :mod:`tad_distill.evaluate.bootstrap` are made once and both detectors are scored on
each, so what the two find equally hard cancels out. What a label contributes is the difference of
its AP. A video has no mAP of its own; what it contributes is the difference of all videos less the
difference without this one (the jackknife), so positive means that it speaks for the second.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tad_distill.console import UserError
from tad_distill.evaluate.bootstrap import (
    SAMPLES_AT_ONCE,
    Interval,
    Resamples,
    ap_of_label,
    columns,
    draw,
    hits_of_label,
    interval,
    mean_over_labels,
    population,
    sampled_ap,
)
from tad_distill.evaluate.matching import Floats, Matching


@dataclass(frozen=True)
class Draws(Resamples):
    """The resamples that the intervals of two detectors rest on.

    Attributes:
        above_zero: Share of the defined resamples in which the second detector is ahead.
    """

    above_zero: float


@dataclass(frozen=True)
class Label:
    """One label: average AP of the two detectors and their difference, second less first."""

    name: str
    num_annotations: int
    first: float
    second: float
    difference: float
    interval: Interval


@dataclass(frozen=True)
class VideoShare:
    """One video.

    Attributes:
        name: Of the video.
        num_annotations: How many it has.
        first: How many of them the first detector finds, mean over thresholds.
        second: How many the second finds.
        contribution: To the difference of the average mAP: with this video less without it.
    """

    name: str
    num_annotations: int
    first: float
    second: float
    contribution: float


@dataclass(frozen=True)
class Comparison:
    """Two detectors on the same annotations; differences are second less first, fractions of 1.

    Attributes:
        tiou: The thresholds.
        first: ``(len(tiou),)`` mAP of the first detector.
        second: ``(len(tiou),)`` mAP of the second.
        difference: Of the average mAP.
        interval: Of that difference.
        intervals: Of the difference at each threshold.
        draws: What the intervals rest on.
        labels: The largest gain of the second first, the largest loss last.
        videos: Likewise.
    """

    tiou: tuple[float, ...]
    first: Floats
    second: Floats
    difference: float
    interval: Interval
    intervals: tuple[Interval, ...]
    draws: Draws
    labels: tuple[Label, ...]
    videos: tuple[VideoShare, ...]


def compare(
    first: Matching,
    second: Matching,
    videos: Sequence[str],
    num_samples: int = 1000,
    seed: int = 0,
    share: float = 0.95,
) -> Comparison:
    """Hold two detectors against each other.

    Args:
        first: The matching of one detector.
        second: That of the other, to the same annotations at the same thresholds.
        videos: The videos of the subset; those that only detections name are drawn from too.
        num_samples: Resamples.
        seed: Of the draws.
        share: Share of the figures that an interval holds.

    Raises:
        UsageError: ``num_samples`` is below 1.
        UserError: No draw has an annotation.
    """
    assert (first.labels, first.tiou) == (second.labels, second.tiou)
    names = population(videos, first, second)
    weights = draw(len(names), num_samples, seed)
    sampled = [sampled_ap(m, weights[columns(names, m)]) for m in (first, second)]
    own = [sampled_ap(m, np.ones((len(m.videos), 1), np.int32))[0] for m in (first, second)]
    maps = [ap.mean(axis=0) for ap in own]
    figures = mean_over_labels(sampled[1]) - mean_over_labels(sampled[0])
    defined = figures[~np.isnan(figures[:, 0])]
    if not len(defined):
        raise UserError(f"none of {num_samples} draws has an annotation; draw more often")
    average = defined.mean(axis=1)
    difference = maps[1] - maps[0]
    draws = Draws(
        num_samples, seed, share, len(names), len(figures) - len(defined),
        float((average > 0).mean()),
    )  # fmt: skip
    return Comparison(
        tiou=first.tiou,
        first=maps[0],
        second=maps[1],
        difference=float(difference.mean()),
        interval=interval(average, float(difference.mean()), share),
        intervals=tuple(
            interval(f, float(d), share) for f, d in zip(defined.T, difference, strict=True)
        ),
        draws=draws,
        labels=_labels(first, own, sampled, share),
        videos=_videos(names, (first, second), own),
    )


def _labels(
    matching: Matching, own: Sequence[Floats], sampled: Sequence[Floats], share: float
) -> tuple[Label, ...]:
    """Every label, the largest gain first.

    Args:
        matching: Either; their annotations are the same.
        own: ``(K, T)`` AP of each detector.
        sampled: ``(R, K, T)`` AP of each detector in each resample.
        share: Share of the figures that an interval holds.
    """
    first, second = (ap.mean(axis=1) for ap in own)
    moved = (sampled[1] - sampled[0]).mean(axis=2)
    labels = []
    for k, name in enumerate(matching.labels):
        figures = moved[~np.isnan(moved[:, k]), k]
        difference = float(second[k] - first[k])
        # A label may be in none of the draws: then nothing is known but the difference itself.
        found = interval(figures if len(figures) else np.array([difference]), difference, share)
        number = int((matching.owner_label == k).sum())
        labels.append(Label(name, number, float(first[k]), float(second[k]), difference, found))
    return tuple(sorted(labels, key=lambda label: (-label.difference, label.name)))


def _videos(
    names: Sequence[str], matchings: Sequence[Matching], own: Sequence[Floats]
) -> tuple[VideoShare, ...]:
    """Every video, the largest contribution to a gain first."""
    whole = [ap.mean() for ap in own]
    contribution = np.zeros(len(names))
    found = np.zeros((2, len(names)))
    for i, (matching, sign) in enumerate(zip(matchings, (-1, 1), strict=True)):
        at = columns(names, matching)
        without = mean_over_labels(left_out_ap(matching)).mean(axis=1)
        # Without the only annotated video there is no mAP: all of it is that video's.
        contribution[at] += sign * (whole[i] - np.nan_to_num(without))
        taken = (matching.taken_by >= 0).mean(axis=0)
        found[i][at] = np.bincount(matching.owner_video, taken, minlength=len(at))
    number = np.zeros(len(names), np.int64)
    number[columns(names, matchings[0])] = np.bincount(
        matchings[0].owner_video, minlength=len(matchings[0].videos)
    )
    videos = [
        VideoShare(name, int(number[v]), *map(float, (found[0][v], found[1][v], contribution[v])))
        for v, name in enumerate(names)
    ]
    return tuple(sorted(videos, key=lambda video: (-video.contribution, video.name)))


def left_out_ap(matching: Matching) -> Floats:
    """AP of every label without each of the videos in turn.

    Returns:
        ``(V, K, T)`` for ``matching.videos``, labels and thresholds; NaN where no annotation of
        the label is left.
    """
    ap = np.empty((len(matching.videos), len(matching.labels), len(matching.tiou)))
    ap[:] = sampled_ap(matching, np.ones((len(matching.videos), 1), np.int32))
    for k in range(len(matching.labels)):
        hits, video, owner = hits_of_label(matching, k)
        # The other videos have neither annotation nor detection of this label.
        there = np.unique(np.concatenate([video, owner]))
        for begin in range(0, len(there), SAMPLES_AT_ONCE):
            out = there[begin : begin + SAMPLES_AT_ONCE]
            weights = (video[:, None] != out).astype(np.int32)
            ap[out, k] = ap_of_label(hits, weights, (owner[:, None] != out).sum(axis=0)).T
    return ap
