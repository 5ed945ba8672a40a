"""How far a mAP would move with other videos of the same kind: the bootstrap over videos.

Videos are drawn with replacement, as many as there are, and scored again (Efron and Tibshirani,
*An Introduction to the Bootstrap*, 1993). It says nothing about other training seeds.

Drawing videos changes no matching, as a detection competes only within its video. So the matching
is done once, and a resample is a weight for each video: how often it was drawn. A detection of a
video drawn twice counts twice, its copies next to each other in the order of scores.

Where labels have few annotations the resampled mAP lies above the mAP itself: the hits of a video
drawn twice stand together, which lifts the precision envelope. The plain percentile interval then
misses; so it is given too, but the interval to read is that interval moved by the bias. On 3 kinds
of made data with 5 to 30 annotations a label (150 sets of 60 or 100 videos each), intervals for
95 % held the expected mAP in 91 to 92 % of the sets when moved, in 49 to 87 % when not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tad_distill.console import UsageError, UserError
from tad_distill.evaluate.matching import Floats, Ints, Matching

# Resamples that are scored in one go: bounds the memory, and keeps a label's detections in cache.
SAMPLES_AT_ONCE = 64

Weights = NDArray[np.int32]


@dataclass(frozen=True)
class Interval:
    """How far a figure would move.

    Attributes:
        low: Lower end, the bias taken off.
        high: Upper end, the bias taken off.
        sd: Standard deviation of the resampled figures.
        bias: Their mean less the figure itself.
        percentile: The middle share of the resampled figures as they are.
    """

    low: float
    high: float
    sd: float
    bias: float
    percentile: tuple[float, float]


@dataclass(frozen=True)
class Resamples:
    """What intervals rest on.

    Attributes:
        num_samples: Resamples drawn.
        seed: Of the draws.
        share: Share of the figures that an interval holds.
        num_videos: Videos drawn from.
        num_undefined: Resamples left out because no video with annotations was drawn.
    """

    num_samples: int
    seed: int
    share: float
    num_videos: int
    num_undefined: int


@dataclass(frozen=True)
class Bootstrap(Resamples):
    """Intervals over resampled videos. Fractions of 1.

    Attributes:
        average_mAP: Of the mean over thresholds.
        mAP: One per threshold.
    """

    average_mAP: Interval
    mAP: tuple[Interval, ...]


def bootstrap(
    matching: Matching, videos: Sequence[str], num_samples: int, seed: int = 0, share: float = 0.95
) -> Bootstrap:
    """Intervals of a mAP.

    Args:
        matching: Of all videos.
        videos: The videos of the subset; those that only detections name are drawn from too.
        num_samples: Resamples; 1,000 for an interval, more for its ends to be steady.
        seed: Of the draws.
        share: Share of the figures that an interval holds.

    Raises:
        UsageError: ``num_samples`` is below 1.
        UserError: No draw has an annotation.
    """
    names = population(videos, matching)
    at = columns(names, matching)
    figures = mean_over_labels(sampled_ap(matching, draw(len(names), num_samples, seed)[at]))
    own = mean_over_labels(sampled_ap(matching, np.ones((len(at), 1), np.int32)))[0]
    defined = figures[~np.isnan(figures[:, 0])]
    if not len(defined):
        raise UserError(f"none of {num_samples} draws has an annotation; draw more often")
    return Bootstrap(
        num_samples,
        seed,
        share,
        len(names),
        len(figures) - len(defined),
        interval(defined.mean(axis=1), float(own.mean()), share),
        tuple(interval(f, float(m), share) for f, m in zip(defined.T, own, strict=True)),
    )


def population(videos: Sequence[str], *matchings: Matching) -> list[str]:
    """The videos to draw from: those of the subset, then those that only detections name.

    The latter count as false positives in the mAP, so they belong to what is drawn from.
    """
    return list(dict.fromkeys([*videos, *(name for m in matchings for name in m.videos)]))


def columns(names: Sequence[str], matching: Matching) -> Ints:
    """``(len(matching.videos),)`` where each video of a matching stands among ``names``."""
    at = {name: i for i, name in enumerate(names)}
    return np.array([at[name] for name in matching.videos], dtype=np.int64)


def draw(num_videos: int, num_samples: int, seed: int) -> Weights:
    """How often each video is drawn in each resample.

    Returns:
        ``(num_videos, num_samples)``; every column adds up to ``num_videos``.

    Raises:
        UsageError: ``num_samples`` is below 1.
    """
    if num_samples < 1:
        raise UsageError(f"the bootstrap needs at least 1 resample, got {num_samples}")
    rng = np.random.default_rng(seed)
    weights = np.empty((num_videos, num_samples), np.int32)
    for i in range(num_samples):
        drawn = rng.integers(0, num_videos, num_videos)
        weights[:, i] = np.bincount(drawn, minlength=num_videos)
    return weights


def sampled_ap(matching: Matching, weights: Weights) -> Floats:
    """AP of every label in every resample.

    Args:
        matching: Of all videos.
        weights: ``(V, R)`` how often each of ``matching.videos`` counts in each resample.

    Returns:
        ``(R, K, T)`` for resamples, labels and thresholds; NaN where a label has no annotation.
    """
    num_samples = weights.shape[1]
    ap = np.empty((num_samples, len(matching.labels), len(matching.tiou)))
    for k in range(len(matching.labels)):
        hits, video, owner = hits_of_label(matching, k)
        for begin in range(0, num_samples, SAMPLES_AT_ONCE):
            part = slice(begin, begin + SAMPLES_AT_ONCE)
            num_positive = weights[owner, part].sum(axis=0)
            ap[part, k] = ap_of_label(hits, weights[video, part], num_positive).T
    return ap


def hits_of_label(matching: Matching, label: int) -> tuple[list[Ints], Ints, Ints]:
    """What is known of one label.

    Returns:
        For each threshold the places of the detections that are right, rising; ``(N,)`` the videos
        of all its detections, best score first; ``(M,)`` the videos of its annotations.
    """
    begin, end = np.searchsorted(matching.label, [label, label + 1])
    own = matching.owner_label == label
    hits = [np.sort(holders[own & (holders >= 0)]) - begin for holders in matching.taken_by]
    return hits, matching.video[begin:end], matching.owner_video[own]


def ap_of_label(hits: Sequence[Ints], weights: Weights, num_positive: Ints) -> Floats:
    """AP of one label.

    Args:
        hits: For each threshold the places of the detections that are right, rising.
        weights: ``(N, R)`` how often each detection counts, best score first.
        num_positive: ``(R,)`` how many annotations count.

    Returns:
        ``(T, R)``; NaN where no annotation counts.
    """
    place = np.cumsum(weights, axis=0, dtype=np.int32)
    ap = np.empty((len(hits), weights.shape[1]))
    for t, at in enumerate(hits):
        own = weights[at]
        # Of the copies of a hit the last has the highest precision, which is then the envelope
        # of all; a hit that was not drawn has no higher precision than the hit before it.
        precision = np.cumsum(own, axis=0) / np.maximum(place[at], 1)
        envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        ap[t] = (envelope * own).sum(axis=0)
    return np.where(num_positive > 0, ap / np.maximum(num_positive, 1), np.nan)


def mean_over_labels(ap: Floats) -> Floats:
    """``(R, T)`` mAP over the labels that have annotations in the resample; NaN where none has."""
    there = ~np.isnan(ap)
    number = there.sum(axis=1)
    total = np.where(there, ap, 0).sum(axis=1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def interval(figures: Floats, own: float, share: float) -> Interval:
    """The interval of a figure.

    Args:
        figures: The resampled figures, at least one.
        own: The figure itself.
        share: Share of the resampled figures that the interval holds.
    """
    low, high = (float(q) for q in np.quantile(figures, [(1 - share) / 2, (1 + share) / 2]))
    sd = float(figures.std(ddof=1)) if len(figures) > 1 else 0.0
    bias = float(figures.mean()) - own
    return Interval(low - bias, high - bias, sd, bias, (low, high))
