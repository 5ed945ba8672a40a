"""DETAD by its definitions, one detection at a time: what the tests hold the diagnosis against."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from brute_force import overlap

TRUE, DOUBLE, WRONG, LOCALISATION, CONFUSION, BACKGROUND = range(6)


class Judged:
    """The detections of one label in rank order, each with what it is and what it took."""

    def __init__(
        self, label: str, annotations: pd.DataFrame, detections: pd.DataFrame, threshold: float
    ) -> None:
        """Walk through the detections of the label."""
        self.num_positive = int((annotations["label"] == label).sum())
        own = detections[detections["label"] == label]
        self.rows = list(own.index[np.argsort(-own["score"].to_numpy(), kind="stable")])
        self.taken: list[int | None] = []
        self.codes: list[int] = []
        for row in self.rows:
            found = detections.loc[row]
            there = annotations[annotations["video"] == found["video"]]
            segment = float(found["start_s"]), float(found["end_s"])
            overlaps = {
                i: overlap(segment, (float(a["start_s"]), float(a["end_s"])), empty=np.inf)
                for i, a in there.iterrows()
            }
            free = [
                i
                for i in overlaps
                if annotations.loc[i, "label"] == label
                and i not in self.taken
                and overlaps[i] >= threshold
            ]
            # The kit's rule: of equal overlaps the later annotation.
            took = max(free, key=lambda i: (overlaps[i], i), default=None)
            self.taken.append(took)
            most = max(overlaps.values(), default=0.0)
            is_own = any(
                o == most and annotations.loc[i, "label"] == label for i, o in overlaps.items()
            )
            if took is not None:
                self.codes.append(TRUE)
            elif most >= threshold:
                self.codes.append(DOUBLE if is_own else WRONG)
            elif most >= 0.1:
                self.codes.append(LOCALISATION if is_own else CONFUSION)
            else:
                self.codes.append(BACKGROUND)

    def area(
        self, kept: Sequence[bool], num_positive: int, normal: float | None
    ) -> tuple[float, list[int]]:
        """AP of the kept detections, and the annotations taken at precision above 0.05."""
        true, false, curve, good = 0, 0, [], []
        for place in range(len(self.rows)):
            if not kept[place]:
                continue
            hit = self.taken[place] is not None
            true, false = true + hit, false + (not hit)
            weight = true if normal is None else true / num_positive * normal
            precision = weight / (weight + false)
            if hit:
                curve.append(precision)
                if precision > 0.05:
                    good.append(self.taken[place])
        envelope = [max(curve[i:]) for i in range(len(curve))]
        return sum(envelope) / num_positive, good  # type: ignore[return-value]


def judge(
    annotations: pd.DataFrame, detections: pd.DataFrame, threshold: float
) -> dict[str, Judged]:
    """Every label of the annotations."""
    labels = sorted(set(annotations["label"]))
    return {label: Judged(label, annotations, detections, threshold) for label in labels}


def mean_without(
    judged: dict[str, Judged], removed: Sequence[int], normalised: bool, top: int | None = 10
) -> float:
    """The mAP of the top detections of each label without some types of error."""
    normal = float(np.mean([j.num_positive for j in judged.values()])) if normalised else None
    areas = []
    for j in judged.values():
        end = len(j.rows) if top is None else top * j.num_positive
        kept = [p < end and code not in removed for p, code in enumerate(j.codes)]
        areas.append(j.area(kept, j.num_positive, normal)[0])
    return float(np.mean(areas))


def mean_inside(judged: dict[str, Judged], annotations: pd.DataFrame, inside: set[int]) -> float:
    """Normalised mAP if only the annotations ``inside`` were to be found."""
    normal = float(np.mean([j.num_positive for j in judged.values()]))
    areas = []
    for label, j in judged.items():
        number = int((annotations.loc[sorted(inside), "label"] == label).sum())
        if number:
            kept = [took is None or took in inside for took in j.taken]
            areas.append(j.area(kept, number, normal)[0])
    return float(np.mean(areas)) if areas else float("nan")
