"""A detector as a report sees it: scores, diagnosis, and the score from which it is believed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tad_distill.evaluate.diagnosis import Diagnosis, diagnose
from tad_distill.evaluate.matching import Floats, Ints

if TYPE_CHECKING:
    from tad_distill.evaluate.diagnosis import BinSet
    from tad_distill.evaluate.protocols import Result


class Operating(NamedTuple):
    """The score from which detections are worth showing: where F1 over all of them is best.

    Attributes:
        min_score: Detections at least so sure are shown.
        precision: Share of those that are right.
        recall: Share of the annotations that they find.
        f1: The harmonic mean of the two.
    """

    min_score: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Detector:
    """One file of detections, scored and diagnosed.

    Attributes:
        name: What the report calls it.
        source: The file.
        header: What stands beside the detections in the file, such as the provenance.
        result: The scores.
        diagnosis: The errors.
        level: The index of the threshold at which single detections are called right or wrong:
            0.5, or the one next to it.
        right: ``(N,)`` whether each row of ``result.detections`` took an annotation there.
        operating: Where the detector is read.
    """

    name: str
    source: str
    header: Mapping[str, Any]
    result: "Result"
    diagnosis: Diagnosis
    level: int
    right: "np.typing.NDArray[np.bool_]"
    operating: Operating

    @property
    def tiou(self) -> float:
        """The threshold at which single detections are called right or wrong."""
        return self.result.matching.tiou[self.level]


def look_at(
    name: str,
    source: str,
    header: Mapping[str, Any],
    result: "Result",
    durations_s: Mapping[str, float | None],
    bins: "BinSet" = "auto",
) -> Detector:
    """Diagnose what was scored and find where to read it."""
    matching = result.matching
    level = int(np.argmin(np.abs(np.asarray(matching.tiou) - 0.5)))
    right = np.zeros(len(result.detections), dtype=bool)
    right[matching.row[taken(matching.taken_by[level])]] = True
    score = result.detections["score"].to_numpy(np.float64)
    operating = operate(score, right, len(result.annotations))
    diagnosis = diagnose(result, durations_s, bins)
    return Detector(name, source, header, result, diagnosis, level, right, operating)


def taken(holders: Ints) -> Ints:
    """The detections that took an annotation, from who took each annotation."""
    return holders[holders >= 0]


def operate(score: Floats, right: "np.typing.NDArray[np.bool_]", num_annotations: int) -> Operating:
    """The score that gives the best F1 over all labels and videos.

    Args:
        score: ``(N,)``.
        right: ``(N,)`` whether each detection is right.
        num_annotations: How many there are to be found.

    >>> operate(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 2)
    Operating(min_score=0.7, precision=0.6666666666666666, recall=1.0, f1=0.8)
    """
    if not right.any():
        return Operating(float(score.max(initial=0.0)), 0.0, 0.0, 0.0)
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(right[order])
    # Equal scores are all shown or none.
    last = np.flatnonzero(np.diff(score[order], append=-np.inf))
    f1 = 2 * hits[last] / (last + 1 + num_annotations)
    best = int(f1.argmax())
    at, found = last[best], int(hits[last[best]])
    return Operating(
        float(score[order][at]),
        float(found / (at + 1)),
        found / num_annotations,
        float(f1[best]),
    )


class Telling(NamedTuple):
    """A video that is worth looking at, and why."""

    video: str
    why: str


def telling(detectors: Sequence[Detector], most: int = 4) -> list[Telling]:
    """Choose videos to show: where the first detector differs most, and one that is typical.

    Args:
        detectors: The one reported on, then those to compare it with; the second is the baseline.
        most: How many videos at most.
    """
    own = f1_by_video(detectors[0])
    if not own:
        return []
    numbers = detectors[0].result.annotations["video"].value_counts()
    enough = {v: f for v, f in own.items() if numbers[v] >= min(2, numbers.max())} or own
    found = _apart(enough, detectors[1]) if len(detectors) > 1 else []
    overall = detectors[0].operating.f1
    typical = min(enough, key=lambda v: (abs(enough[v] - overall), -numbers[v]))
    found.append(Telling(typical, f"typical: F1 {own[typical]:.2f}, all together {overall:.2f}"))
    for side, choose in (("hardest", min), ("best", max)):
        video = choose(enough, key=enough.__getitem__)
        found.append(Telling(video, f"{side}: F1 {own[video]:.2f}"))
    first = {t.video: t for t in reversed(found)}
    return sorted(first.values(), key=found.index)[:most]


def _apart(own: Mapping[str, float], baseline: Detector) -> list[Telling]:
    """The videos in which a detector is furthest above and below another, if there are any."""
    other = f1_by_video(baseline)
    gain = {video: f1 - other[video] for video, f1 in own.items()}
    found = []
    for side, choose, sign in (("best", max, 1), ("worst", min, -1)):
        video = choose(gain, key=gain.__getitem__)
        if gain[video] * sign > 0:
            difference = f"{gain[video]:+.2f}".replace("-", "−")
            found.append(Telling(video, f"{side} against {baseline.name}: F1 {difference}"))
    return found


def f1_by_video(detector: Detector) -> dict[str, float]:
    """F1 of the detections that are shown, for each video with annotations."""
    result = detector.result
    shown = (result.detections["score"] >= detector.operating.min_score).to_numpy()
    number = result.annotations["video"].value_counts()
    named = result.detections["video"]
    found = named[shown].value_counts().reindex(number.index, fill_value=0)
    hits = named[shown & detector.right].value_counts().reindex(number.index, fill_value=0)
    f1 = 2 * hits / (found + number)
    in_order = result.annotations["video"].unique()
    return {str(video): float(f1[video]) for video in in_order}
