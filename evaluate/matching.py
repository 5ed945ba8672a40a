"""Which detection takes which annotation: the matching on which mAP and all else rests.

The rule is that of ``compute_average_precision_detection`` in Evaluation/eval_detection.py of
activitynet/ActivityNet at 82304fa: in order of falling score, each detection takes the free
annotation of its video and label that it overlaps most, if it reaches the threshold; a taken one
is passed over for the next best.

Detections are ranked by score and annotations rank detections by score too, so this greedy
matching is the one stable matching; :func:`matches` finds it by deferred acceptance (Gale and
Shapley, 1962) for all labels, videos and thresholds at once, in a few rounds of array operations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from tad_distill.console import UserError
from tad_distill.evaluate.segments import intersection_and_union

if TYPE_CHECKING:
    import pandas as pd

TieOrder = Literal["stable_first", "stable_last", "numpy"]
EmptyOverlap = Literal["match", "miss"]

# Pairs of detection and annotation that are looked at in one go: bounds the memory of a large file.
PAIRS_AT_ONCE = 1 << 21

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """Which detection may take which annotation; sorted by detection, best overlap first.

    Attributes:
        detection: ``(P,)`` rank of the detection.
        annotation: ``(P,)`` row of the annotation.
        overlap: ``(P,)`` their tIoU; infinite for two without length that match.
        num_empty: Pairs of a detection and an annotation that both have no length.
    """

    detection: Ints
    annotation: Ints
    overlap: Floats
    num_empty: int


@dataclass(frozen=True)
class Matching:
    """Which detection took which annotation at each threshold.

    Detections are called by their rank: by label, then falling score, then the rule for ties.

    Attributes:
        tiou: The thresholds.
        labels: Those of the annotations, sorted.
        videos: Those with annotations, then those that only have detections.
        num_annotated: How many videos have annotations.
        row: ``(N,)`` row of each detection in its table; those with unknown labels are not here.
        label: ``(N,)`` its label, an index of ``labels``; rising.
        video: ``(N,)`` its video, an index of ``videos``.
        owner_label: ``(M,)`` label of each annotation, in the order of its table.
        owner_video: ``(M,)`` its video.
        taken_by: ``(len(tiou), M)`` rank of the detection that took it, -1 where none did.
        num_empty_overlaps: Pairs of a detection and an annotation that both have no length.
    """

    tiou: tuple[float, ...]
    labels: tuple[str, ...]
    videos: tuple[str, ...]
    num_annotated: int
    row: Ints
    label: Ints
    video: Ints
    owner_label: Ints
    owner_video: Ints
    taken_by: Ints
    num_empty_overlaps: int


def match(
    annotations: "pd.DataFrame",
    detections: "pd.DataFrame",
    tiou: Sequence[float],
    tie_order: TieOrder = "stable_first",
    empty_overlap: EmptyOverlap = "match",
) -> Matching:
    """Match detections to annotations.

    Args:
        annotations: Columns video, label, start_s, end_s.
        detections: Columns video, label, score, start_s, end_s.
        tiou: Thresholds; an overlap equal to the threshold suffices.
        tie_order: Which of two detections of one label with equal scores comes first.
            ``stable_first``: the one earlier in the table; ``stable_last``: the later one;
            ``numpy``: what the peers do, ``argsort()[::-1]``, whose outcome depends on the CPU.
        empty_overlap: What a detection and an annotation without length are to each other, at
            whatever distance. ``match`` as in the kit, where 0/0 passes every threshold; ``miss``:
            they do not overlap. They are counted either way.

    Raises:
        UserError: There is no annotation, no threshold, or a score is NaN.
    """
    import pandas as pd

    score = detections["score"].to_numpy(np.float64)
    check_input(annotations, score, tiou)
    thresholds = np.asarray(tiou, dtype=np.float64)
    labels = pd.Index(sorted(annotations["label"].unique()))
    annotated = pd.Index(annotations["video"].unique())
    label = np.asarray(labels.get_indexer(detections["label"]), dtype=np.int64)
    video = np.asarray(annotated.get_indexer(detections["video"]), dtype=np.int64)
    unknown, number = np.unique(
        detections["video"].to_numpy(object)[(label >= 0) & (video < 0)].astype(str),
        return_inverse=True,
    )
    video[(label >= 0) & (video < 0)] = len(annotated) + number
    row = rank(label, score, tie_order)
    label, video = label[row], video[row]

    owner_label = np.asarray(labels.get_indexer(annotations["label"]), dtype=np.int64)
    owner_video = np.asarray(annotated.get_indexer(annotations["video"]), dtype=np.int64)
    # A group is all that has one video and one label; unknown videos are in no group.
    pairs = pairs_within(
        np.where(video < len(annotated), video * len(labels) + label, -1),
        owner_video * len(labels) + owner_label,
        detections[["start_s", "end_s"]].to_numpy(np.float64)[row],
        annotations[["start_s", "end_s"]].to_numpy(np.float64),
        (float(thresholds.min()), empty_overlap),
    )
    return Matching(
        tiou=tuple(float(t) for t in thresholds),
        labels=tuple(map(str, labels)),
        videos=(*map(str, annotated), *map(str, unknown)),
        num_annotated=len(annotated),
        row=row,
        label=label,
        video=video,
        owner_label=owner_label,
        owner_video=owner_video,
        taken_by=matches(pairs, thresholds, len(annotations)),
        num_empty_overlaps=pairs.num_empty,
    )


def check_input(annotations: "pd.DataFrame", score: Floats, tiou: Sequence[float]) -> None:
    """Refuse what has no score.

    Raises:
        UserError: There is no annotation, no threshold, or a score is NaN.
    """
    if annotations.empty:
        raise UserError("nothing to score: no annotation is left, so mAP is undefined")
    if not len(tiou):
        raise UserError("nothing to score: no tIoU threshold is given")
    if np.isnan(score).any():
        raise UserError(f"detection {int(np.isnan(score).argmax())}: the score is NaN")


def rank(label: Ints, score: Floats, tie_order: TieOrder) -> Ints:
    """Indices of the detections with a known label, by label, then falling score, then tie rule."""
    known = np.flatnonzero(label >= 0)
    if tie_order == "stable_last":
        known = known[::-1]
    if tie_order != "numpy":
        return known[np.lexsort((-score[known], label[known]))]
    by_label = known[np.argsort(label[known], kind="stable")]
    starts = np.flatnonzero(np.diff(label[by_label], prepend=-1))
    parts = np.split(by_label, starts[1:])
    return np.concatenate([part[score[part].argsort()[::-1]] for part in parts])


def pairs_within(
    group: Ints,
    owner_group: Ints,
    segment: Floats,
    owner_segment: Floats,
    rule: tuple[float, EmptyOverlap],
) -> Pairs:
    """All pairs of one group that reach the lowest threshold.

    Args:
        group: ``(N,)`` group of each detection, -1 for none.
        owner_group: ``(M,)`` group of each annotation.
        segment: ``(N, 2)`` detections.
        owner_segment: ``(M, 2)`` annotations.
        rule: The lowest threshold, and what 0/0 is.
    """
    lowest, empty_overlap = rule
    by_group = np.argsort(owner_group, kind="stable")
    groups, first, size = np.unique(owner_group[by_group], return_index=True, return_counts=True)
    at = np.minimum(np.searchsorted(groups, group), len(groups) - 1)
    candidates = np.where(groups[at] == group, size[at], 0)
    cuts = np.searchsorted(np.cumsum(candidates), np.arange(0, candidates.sum(), PAIRS_AT_ONCE))
    bounds = np.unique(np.concatenate([[0], cuts, [len(group)]]))
    kept: list[tuple[Ints, Ints, Floats]] = []
    num_empty = 0
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        count = candidates[begin:end]
        detection = np.repeat(np.arange(begin, end), count)
        within = np.arange(len(detection)) - np.repeat(np.cumsum(count) - count, count)
        annotation = by_group[first[at[detection]] + within]
        intersection, union = intersection_and_union(segment[detection], owner_segment[annotation])
        empty = union == 0
        num_empty += int(empty.sum())
        union[empty] = 1
        overlap = intersection / union
        overlap[empty] = np.inf if empty_overlap == "match" else -np.inf
        keep = overlap >= lowest
        kept.append((detection[keep], annotation[keep], overlap[keep]))
    if not kept:
        return Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), 0)
    detection, annotation, overlap = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    # Of equal overlaps the kit tries the later annotation first: it reads a rising sort backwards.
    best_first = np.lexsort((-annotation, -overlap, detection))
    return Pairs(detection[best_first], annotation[best_first], overlap[best_first], num_empty)


def matches(pairs: Pairs, thresholds: Floats, num_annotations: int) -> Ints:
    """Which detection takes which annotation at each threshold.

    Returns:
        ``(len(thresholds), num_annotations)`` rank of the detection, or -1 where nobody came.
    """
    nobody = np.iinfo(np.int64).max
    holder = np.full((len(thresholds), num_annotations), nobody)
    if not len(pairs.detection):
        return np.full_like(holder, -1)
    rank, first = np.unique(pairs.detection, return_index=True)
    reaches = pairs.overlap[:, None] >= thresholds
    num_choices = np.add.reduceat(reaches, first, axis=0, dtype=np.int64)
    choice = np.zeros_like(num_choices)
    # Detections are called by their place among those that have a choice: places rank alike.
    place, level = np.nonzero(num_choices)
    while len(place):
        wanted = pairs.annotation[first[place] + choice[place, level]]
        before = holder[level, wanted]
        np.minimum.at(holder, (level, wanted), place)
        won = holder[level, wanted] == place
        evicted = won & (before != nobody)
        # Whoever was refused or evicted asks for the next best annotation.
        place, level = (
            np.concatenate([place[~won], before[evicted]]),
            np.concatenate([level[~won], level[evicted]]),
        )
        choice[place, level] += 1
        left = choice[place, level] < num_choices[place, level]
        place, level = place[left], level[left]
    return np.where(holder == nobody, -1, rank[np.minimum(holder, len(rank) - 1)])
