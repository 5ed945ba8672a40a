"""Mean average precision of detections, equal to the ActivityNet kit and free of its loops.

The reference is ``compute_average_precision_detection`` in Evaluation/eval_detection.py of
activitynet/ActivityNet at 82304fa: AP is the area under the precision envelope, mAP the mean over
the labels that occur among the annotations. Which detections are right is found in
:mod:`tad_distill.evaluate.matching`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tad_distill.evaluate.matching import (
    EmptyOverlap,
    Floats,
    Ints,
    Matching,
    TieOrder,
    match,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Scores:
    """What :func:`mean_ap` found. Precisions are fractions of 1.

    Attributes:
        tiou: The thresholds.
        mAP: ``(len(tiou),)`` mean over labels.
        average_mAP: The mean of ``mAP``.
        ap_per_class: ``(len(tiou),)`` for each label among the annotations; 0 where it was never
            detected.
        num_annotations: How many annotations were scored.
        num_detections: How many detections were scored.
        num_unknown_label: Detections left out, their label being none of the annotations'.
        num_unknown_video: Detections in videos without annotations: they count as false positives.
        num_empty_overlaps: Pairs of a detection and an annotation that both have no length.
    """

    tiou: tuple[float, ...]
    mAP: Floats
    average_mAP: float
    ap_per_class: dict[str, Floats]
    num_annotations: int
    num_detections: int
    num_unknown_label: int
    num_unknown_video: int
    num_empty_overlaps: int


def mean_ap(
    annotations: "pd.DataFrame",
    detections: "pd.DataFrame",
    tiou: Sequence[float],
    tie_order: TieOrder = "stable_first",
    empty_overlap: EmptyOverlap = "match",
) -> Scores:
    """Score detections against annotations.

    Args:
        annotations: Columns video, label, start_s, end_s.
        detections: Columns video, label, score, start_s, end_s.
        tiou: Thresholds; an overlap equal to the threshold suffices.
        tie_order: See :func:`tad_distill.evaluate.matching.match`.
        empty_overlap: See there.

    Raises:
        UserError: There is no annotation, no threshold, or a score is NaN.
    """
    found = match(annotations, detections, tiou, tie_order, empty_overlap)
    return scores_of(found, num_unknown_label=len(detections) - len(found.row))


def scores_of(matching: Matching, num_unknown_label: int = 0) -> Scores:
    """The scores that a matching amounts to.

    Args:
        matching: Which detection took which annotation.
        num_unknown_label: Detections left out before, their label being none of the annotations'.
    """
    num_labels = len(matching.labels)
    ap = _average_precision(matching.taken_by, matching.label, matching.owner_label, num_labels)
    return Scores(
        tiou=matching.tiou,
        mAP=ap.mean(axis=0),
        average_mAP=float(ap.mean()),
        ap_per_class={name: ap[i] for i, name in enumerate(matching.labels)},
        num_annotations=len(matching.owner_label),
        num_detections=len(matching.row),
        num_unknown_label=num_unknown_label,
        num_unknown_video=int((matching.video >= matching.num_annotated).sum()),
        num_empty_overlaps=matching.num_empty_overlaps,
    )


def _average_precision(taken_by: Ints, label: Ints, owner_label: Ints, num_labels: int) -> Floats:
    """Area under the precision envelope.

    Args:
        taken_by: ``(num_tiou, M)`` see :class:`Matching`.
        label: ``(N,)`` labels of the detections in rank order: all of label 0, all of label 1 ...
        owner_label: ``(M,)`` labels of the annotations.
        num_labels: How many labels there are.

    Returns:
        ``(num_labels, num_tiou)``.
    """
    ap = np.zeros((num_labels, len(taken_by)))
    num_positive = np.bincount(owner_label, minlength=num_labels)
    begin = np.searchsorted(label, np.arange(num_labels))
    for i, holders in enumerate(taken_by):
        hits = np.sort(holders[holders >= 0])
        bounds = np.searchsorted(label[hits], np.arange(num_labels + 1))
        for k in np.flatnonzero(np.diff(bounds)):
            place = hits[bounds[k] : bounds[k + 1]] - begin[k]
            # Precision peaks at hits, so the envelope there needs no other place.
            precision = np.arange(1, len(place) + 1) / (place + 1)
            envelope = np.maximum.accumulate(precision[::-1])
            ap[k, i] = envelope.sum() / num_positive[k]
    return ap
