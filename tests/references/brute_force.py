"""mAP and recall by their definitions, one detection at a time: slow and plain.

Written from the definitions alone and sharing no code with the program; what the tests hold the
program against, and what the benchmark runs beside it.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd

Found = tuple[str, float, float, float]  # video, score, start, end
Truth = tuple[str, float, float]  # video, start, end


def overlap(a: tuple[float, float], b: tuple[float, float], empty: float) -> float:
    """The tIoU of two segments; ``empty`` if both have no length and stand for 0/0."""
    inside = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (b[1] - b[0]) + (a[1] - a[0]) - inside
    return empty if union == 0 else inside / union


def average_precision(
    annotations: Sequence[Truth], detections: Sequence[Found], threshold: float
) -> float:
    """AP of one label: the area under the precision envelope."""
    of_video: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
    for i, (video, start, end) in enumerate(annotations):
        of_video[video].append((i, start, end))
    taken: set[int] = set()
    hits: list[bool] = []
    for video, _, start, end in sorted(detections, key=lambda d: -d[1]):
        best, best_overlap = None, threshold
        for i, a, b in of_video.get(video, ()):
            if i not in taken:
                found = overlap((start, end), (a, b), empty=np.inf)
                if found >= best_overlap:
                    best, best_overlap = i, found
        hits.append(best is not None)
        if best is not None:
            taken.add(best)
    area, highest, num_hits = 0.0, 0.0, sum(hits)
    for place in range(len(hits), 0, -1):
        if hits[place - 1]:
            highest = max(highest, num_hits / place)
            area += highest
            num_hits -= 1
    return area / len(annotations)


def truths(table: pd.DataFrame) -> list[Truth]:
    """Annotations as tuples."""
    return list(table[["video", "start_s", "end_s"]].itertuples(index=False, name=None))


def founds(table: pd.DataFrame) -> list[Found]:
    """Detections as tuples, in the order of the table."""
    return list(table[["video", "score", "start_s", "end_s"]].itertuples(index=False, name=None))


def mean_ap(
    annotations: pd.DataFrame, detections: pd.DataFrame, tiou: Sequence[float]
) -> dict[str, list[float]]:
    """AP of every label of the annotations at every threshold; their mean is the mAP."""
    parts = dict(iter(detections.groupby("label")))
    return {
        str(label): [
            average_precision(truths(own), founds(parts.get(label, detections.head(0))), threshold)
            for threshold in tiou
        ]
        for label, own in annotations.groupby("label")
    }


def top_recall(
    annotations: pd.DataFrame, detections: pd.DataFrame, tiou: Sequence[float], k: int
) -> dict[str, list[float]]:
    """Recall@kx of every label at every threshold; their mean is what ActionFormer prints."""
    recall = {}
    for label, own in annotations.groupby("label"):
        reached = np.zeros(len(tiou))
        for video, of_video in own.groupby("video"):
            there = detections[(detections["video"] == video) & (detections["label"] == label)]
            best = sorted(founds(there), key=lambda d: -d[1])[: k * len(of_video)]
            for _, start, end in truths(of_video):
                overlaps = [overlap(d[2:], (start, end), empty=-np.inf) for d in best]
                reached += [any(o >= threshold for o in overlaps) for threshold in tiou]
        recall[str(label)] = list(reached / len(own))
    return recall


def average_recall(
    annotations: pd.DataFrame,
    detections: pd.DataFrame,
    tiou: Sequence[float],
    max_proposals: float = 100,
) -> tuple[list[float], list[float]]:
    """Average number of detections a video, and the average recall at it, in a hundred steps."""
    videos = list(dict.fromkeys(annotations["video"]))
    share = max_proposals * float(len(videos)) / max(len(detections), 1)
    overlaps = []  # of each video: annotations x detections, best scores first
    total = 0
    for video in videos:
        there = founds(detections[detections["video"] == video])
        kept = sorted(there, key=lambda d: -d[1])[: int(len(there) * share)]
        total += len(kept)
        own = truths(annotations[annotations["video"] == video])
        overlaps.append([[overlap(d[2:], a[1:], empty=-np.inf) for d in kept] for a in own])
    numbers, recalls = [], []
    for step in range(1, 101):
        part = step / 100.0
        if total:
            part *= max_proposals * float(len(videos)) / total
        numbers.append(part * (float(total) / len(videos)) if total else part * max_proposals)
        reached = 0
        for of_video in overlaps:
            for row in of_video:
                given = row[: min(int(len(row) * part), len(row))]
                reached += sum(any(o >= threshold for o in given) for threshold in tiou)
        recalls.append(reached / (len(annotations) * len(tiou)))
    return numbers, recalls
