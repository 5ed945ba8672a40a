"""Recall of detections: AR@AN as the ActivityNet kit has it, recall@kx as ActionFormer has it.

Recall asks whether an annotation is reached by any of the best-scored detections; it knows no
false positives, and one detection may reach several annotations. Both references read a pair
without length, whose tIoU is 0/0, as a miss.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tad_distill.console import UserError
from tad_distill.evaluate.matching import Floats, Ints, TieOrder, pairs_within, rank
from tad_distill.evaluate.protocols import Result

if TYPE_CHECKING:
    import pandas as pd

# numpy.linspace(0.5, 0.95, 10): what the kit averages AR over, whatever the thresholds of the mAP.
AR_TIOU = tuple(0.5 + i * ((0.95 - 0.5) / 9) for i in range(9)) + (0.95,)

# The points at which a curve is read off, and the kit's last point.
NUM_PROPOSALS = (1, 5, 10, 50, 100)
TOP_K = (1, 5)


@dataclass(frozen=True)
class AverageRecall:
    """Average recall against the average number of detections a video. Fractions of 1.

    Attributes:
        tiou: The thresholds that are averaged over.
        num_proposals: ``(100,)`` average number of detections a video.
        recall: ``(len(tiou), 100)`` recall at each.
        auc: Area under the mean over ``tiou``, divided by the last number.
    """

    tiou: tuple[float, ...]
    num_proposals: Floats
    recall: Floats
    auc: float

    @property
    def average_recall(self) -> Floats:
        """``(100,)`` mean over the thresholds."""
        return np.asarray(self.recall.mean(axis=0))

    def at(self, number: float) -> float:
        """The average recall at an average number of detections a video, between the points."""
        points = np.concatenate([[0.0], self.num_proposals])
        return float(np.interp(number, points, np.concatenate([[0.0], self.average_recall])))


@dataclass(frozen=True)
class TopRecall:
    """Recall@kx. Fractions of 1.

    Attributes:
        tiou: The thresholds.
        k: How many times the number of annotations.
        mean: ``(len(k), len(tiou))`` mean over labels.
        per_class: ``(len(k), len(tiou))`` for each label.
    """

    tiou: tuple[float, ...]
    k: tuple[int, ...]
    mean: Floats
    per_class: dict[str, Floats]


def recalls(result: Result) -> tuple[TopRecall, AverageRecall]:
    """Both kinds of recall of what was scored, in the protocol's order of ties.

    Recall@kx has the protocol's thresholds, AR@AN always its own.
    """
    tables, order = (result.annotations, result.detections), result.protocol.tie_order
    return (
        top_recall(*tables, result.scores.tiou, tie_order=order),
        average_recall(*tables, tie_order=order),
    )


def average_recall(
    annotations: "pd.DataFrame",
    detections: "pd.DataFrame",
    tiou: Sequence[float] = AR_TIOU,
    max_proposals: float = 100,
    tie_order: TieOrder = "stable_first",
) -> AverageRecall:
    """Average recall at the average number of detections a video (AR@AN).

    The reference is ``average_recall_vs_avg_nr_proposals`` in Evaluation/eval_proposal.py of
    activitynet/ActivityNet at 82304fa: labels do not count, each video gives the same share of
    its detections, best scores first, and the share grows in a hundred steps until the mean over
    the annotated videos is ``max_proposals``. As there, detections in videos without annotations
    count in the share and are then left out. No detection at all: a recall of 0.

    Args:
        annotations: Columns video, start_s, end_s.
        detections: Columns video, score, start_s, end_s; those of all labels.
        tiou: Thresholds.
        max_proposals: The last average number.
        tie_order: Which of two detections of a video with equal scores comes first.

    Raises:
        UserError: There is no annotation or no threshold.
    """
    import pandas as pd

    _check(annotations, tiou)
    videos = pd.Index(annotations["video"].unique())
    video = np.asarray(videos.get_indexer(detections["video"]), dtype=np.int64)
    owner = np.asarray(videos.get_indexer(annotations["video"]), dtype=np.int64)
    reached = _first_reaching((video, owner), detections, annotations, tiou, tie_order)
    num_videos = len(videos)
    share = max_proposals * float(num_videos) / max(len(detections), 1)
    there = np.bincount(video[video >= 0], minlength=num_videos)
    kept = np.minimum((there * share).astype(np.int64), there)
    total = int(kept.sum())
    steps = np.arange(1, 101) / 100.0
    if total:
        steps = steps * (max_proposals * float(num_videos) / total)
        num_proposals = steps * (float(total) / num_videos)
    else:
        num_proposals = steps * max_proposals
    # (V, 100) detections that each video gives at each step.
    given = np.minimum((kept[:, None] * steps).astype(np.int64), kept[:, None])
    recall = np.stack([(first[:, None] < given[owner]).mean(axis=0) for first in reached])
    mean = recall.mean(axis=0)
    area = float(((mean[1:] + mean[:-1]) / 2 * np.diff(num_proposals)).sum())
    return AverageRecall(tuple(tiou), num_proposals, recall, area / float(num_proposals[-1]))


def top_recall(
    annotations: "pd.DataFrame",
    detections: "pd.DataFrame",
    tiou: Sequence[float],
    k: Sequence[int] = TOP_K,
    tie_order: TieOrder = "stable_first",
) -> TopRecall:
    """Recall@kx: of each label in each video as many detections count as k times its annotations.

    The reference is ``compute_topkx_recall_detection`` in libs/utils/metrics.py of
    happyharrycn/actionformer_release at 61ea7eb. The mean is over the labels of the annotations;
    labels that were never detected have a recall of 0.

    Args:
        annotations: Columns video, label, start_s, end_s.
        detections: Columns video, label, score, start_s, end_s.
        tiou: Thresholds.
        k: How many times the number of annotations.
        tie_order: Which of two detections of one video and label with equal scores comes first.

    Raises:
        UserError: There is no annotation or no threshold.
    """
    import pandas as pd

    _check(annotations, tiou)
    labels = pd.Index(sorted(annotations["label"].unique()))
    videos = pd.Index(annotations["video"].unique())
    sides = []
    for table in (detections, annotations):
        label = np.asarray(labels.get_indexer(table["label"]), dtype=np.int64)
        video = np.asarray(videos.get_indexer(table["video"]), dtype=np.int64)
        known = (label >= 0) & (video >= 0)
        sides.append(np.where(known, video * len(labels) + label, -1))
    group, owner = sides
    reached = _first_reaching((group, owner), detections, annotations, tiou, tie_order)
    budget = np.bincount(owner)[owner]
    owner_label = owner % len(labels)
    size = np.bincount(owner_label, minlength=len(labels))
    found = np.stack([[first < times * budget for first in reached] for times in k])
    per_class = np.zeros((len(labels), *found.shape[:2]))
    np.add.at(per_class, owner_label, np.moveaxis(found, -1, 0))
    per_class /= size[:, None, None]
    return TopRecall(
        tuple(tiou),
        tuple(k),
        per_class.mean(axis=0),
        {str(name): per_class[i] for i, name in enumerate(labels)},
    )


def _check(annotations: "pd.DataFrame", tiou: Sequence[float]) -> None:
    if annotations.empty:
        raise UserError("no annotation is left, so recall is undefined")
    if not len(tiou):
        raise UserError("no tIoU threshold is given, so recall is undefined")


def _first_reaching(
    groups: tuple[Ints, Ints],
    detections: "pd.DataFrame",
    annotations: "pd.DataFrame",
    tiou: Sequence[float],
    tie_order: TieOrder,
) -> Ints:
    """The best place in its group of any detection that reaches an annotation.

    Args:
        groups: Of the detections, -1 for those that can reach nothing, and of the annotations.
        detections: Columns score, start_s, end_s.
        annotations: Columns start_s, end_s.
        tiou: Thresholds.
        tie_order: The rule for equal scores.

    Returns:
        ``(len(tiou), M)`` places from 0; the largest integer where no detection reaches it.
    """
    thresholds = np.asarray(tiou, dtype=np.float64)
    row = rank(groups[0], detections["score"].to_numpy(np.float64), tie_order)
    group = groups[0][row]
    place = np.arange(len(group)) - np.searchsorted(group, group)
    pairs = pairs_within(
        group,
        groups[1],
        detections[["start_s", "end_s"]].to_numpy(np.float64)[row],
        annotations[["start_s", "end_s"]].to_numpy(np.float64),
        (float(thresholds.min()), "miss"),
    )
    first = np.full((len(thresholds), len(annotations)), np.iinfo(np.int64).max)
    for level, threshold in enumerate(thresholds):
        reaches = pairs.overlap >= threshold
        np.minimum.at(first[level], pairs.annotation[reaches], place[pairs.detection[reaches]])
    return first
