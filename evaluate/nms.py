"""Suppression of candidates that say the same thing twice: soft and hard NMS, and voting.

Numerically ActionFormer's libs/utils/nms.py and its compiled csrc/nms_cpu.cpp at 61ea7eb, the
order of equal scores included, in numpy. The official code suppresses each label to the end and
then keeps the best; here only as many candidates are picked as are kept.
"""

import heapq
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

# Added to every length, as in the official code: the union of two points is not 0.
LENGTH_EPSILON = np.float32(1e-6)

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class NmsConfig:
    """How candidates are suppressed; the defaults are ActionFormer's THUMOS'14 recipe.

    Attributes:
        method: "soft" lowers the score of what overlaps a better one by ``exp(-iou^2 / sigma)``;
            "hard" drops what overlaps it by ``iou_threshold`` or more; "none" keeps all.
        sigma: Of the soft method.
        iou_threshold: Of the hard method.
        min_score: Lower scores are dropped; the others also drop equal ones. As in the
            official code the soft method always keeps the best candidate (of each label).
        num_detections: At most so many stay, over all labels.
        multiclass: Only candidates of the same label suppress each other.
        voting_threshold: Without ``multiclass``, each detection becomes the mean of all candidates
            that overlap it by so much, weighted by score times overlap; 0 for no voting.
    """

    method: Literal["soft", "hard", "none"] = "soft"
    sigma: float = 0.5
    iou_threshold: float = 0.1
    min_score: float = 0.001
    num_detections: int = 200
    multiclass: bool = True
    voting_threshold: float = 0.7

    def __post_init__(self) -> None:
        """Refuse what would divide by zero or keep nothing."""
        if self.sigma <= 0:
            raise ValueError(f"sigma: expected a positive number, got {self.sigma}")
        if self.num_detections < 1:
            raise ValueError(f"num_detections: expected at least 1, got {self.num_detections}")


def suppress(
    segments: NDArray[np.floating],
    scores: NDArray[np.floating],
    labels: NDArray[np.integer],
    config: NmsConfig,
) -> tuple[Floats, Floats, Ints]:
    """Suppress the candidates of one video.

    Args:
        segments: ``(N, 2)`` start and end, in any one unit; N may be 0.
        scores: ``(N,)``.
        labels: ``(N,)`` label ids.
        config: How.

    Returns:
        ``(M, 2)`` segments, ``(M,)`` scores and ``(M,)`` labels of the detections, by falling
        score; equal scores by label, then as the official code picks them.
    """
    spans = np.asarray(segments, dtype=np.float32).reshape(-1, 2)
    scores = np.asarray(scores, dtype=np.float32)
    label_ids: Ints = np.asarray(labels, dtype=np.int64)
    # An IoU is never above 1.
    most = config.iou_threshold if config.method == "hard" else 2.0
    rounds: list[_Round] = [
        _SoftRound(spans, scores, members, config.sigma, config.min_score)
        if config.method == "soft"
        else _HardRound(spans, scores, members, most, config.min_score)
        for members in _groups(label_ids, config.multiclass)
    ]
    index, kept_scores = _pick_best(rounds, config.num_detections)
    kept = spans[index]
    if not config.multiclass and config.voting_threshold > 0:
        kept = _vote(kept, spans, scores, config.voting_threshold)
    return kept, kept_scores, label_ids[index]


class _Round(Protocol):
    """Candidates that suppress each other, picked one by one."""

    def best(self) -> float | None:
        """The score of the next pick, or None when there is none."""
        ...

    def take(self) -> int:
        """Pick it: return its index and suppress the others."""
        ...


def _pick_best(rounds: list[_Round], most: int) -> tuple[Ints, Floats]:
    """The best picks over all rounds; within a round scores never rise."""
    best = ((each.best(), number) for number, each in enumerate(rounds))
    waiting = [(-score, number) for score, number in best if score is not None]
    heapq.heapify(waiting)
    index: list[int] = []
    scores: list[float] = []
    while waiting and len(index) < most:
        negative, number = waiting[0]
        index.append(rounds[number].take())
        scores.append(-negative)
        score = rounds[number].best()
        if score is None:
            heapq.heappop(waiting)
        else:
            heapq.heapreplace(waiting, (-score, number))
    return np.array(index, dtype=np.int64), np.array(scores, dtype=np.float32)


class _SoftRound:
    """Gaussian soft NMS in the order of the official loop.

    That loop keeps the picked candidates at the front of an array and swaps the next best one to
    the end of the picked. A candidate whose score fell too low is replaced by the last one of the
    array. Which of two equal scores comes first follows from this order, so it is kept.
    """

    def __init__(
        self, spans: Floats, scores: Floats, members: Ints, sigma: float, min_score: float
    ) -> None:
        self.index = members
        self.scores = scores[members]
        self.starts, self.ends = spans[members].T.copy()
        self.lengths = self.ends - self.starts + LENGTH_EPSILON
        self.sigma, self.min_score = np.float32(sigma), np.float32(min_score)
        self.first, self.stop = 0, len(members)  # what is left

    def best(self) -> float | None:
        if self.first == self.stop:
            return None
        first = self.first
        found = first + int(self.scores[first : self.stop].argmax())
        if found != first:
            for values in (self.index, self.scores, self.starts, self.ends, self.lengths):
                values[first], values[found] = values[found], values[first]
        return float(self.scores[first])

    def take(self) -> int:
        picked = self.first
        self.first += 1
        left = slice(self.first, self.stop)
        scores = self.scores[left]
        shared = np.minimum(self.ends[left], self.ends[picked])
        shared -= np.maximum(self.starts[left], self.starts[picked])
        touched = (shared > 0).nonzero()[0]
        shared = shared[touched]
        overlap = shared / (self.lengths[picked] + self.lengths[left][touched] - shared)
        scores[touched] *= np.exp(-(overlap * overlap) / self.sigma)
        alive = scores >= self.min_score
        if not alive.all():
            self._remove(alive)
        return int(self.index[picked])

    def _remove(self, alive: NDArray[np.bool_]) -> None:
        num_alive = int(np.count_nonzero(alive))
        holes = (~alive[:num_alive]).nonzero()[0] + self.first
        last = alive[num_alive:].nonzero()[0][::-1] + self.first + num_alive
        for values in (self.index, self.scores, self.starts, self.ends, self.lengths):
            values[holes] = values[last]
        self.stop = self.first + num_alive


class _HardRound:
    """Greedy NMS: the best of what is left drops what overlaps it."""

    def __init__(
        self, spans: Floats, scores: Floats, members: Ints, threshold: float, min_score: float
    ) -> None:
        members = members[scores[members] > np.float32(min_score)]
        self.index = members[np.argsort(-scores[members], kind="stable")]
        self.scores = scores[self.index]
        self.starts, self.ends = spans[self.index].T
        self.lengths = self.ends - self.starts + LENGTH_EPSILON
        self.threshold = np.float32(threshold)
        self.left = np.arange(len(self.index))

    def best(self) -> float | None:
        return float(self.scores[self.left[0]]) if len(self.left) else None

    def take(self) -> int:
        picked, left = self.left[0], self.left[1:]
        shared = np.minimum(self.ends[left], self.ends[picked])
        shared -= np.maximum(self.starts[left], self.starts[picked])
        np.maximum(shared, 0, out=shared)
        union = self.lengths[picked] + self.lengths[left] - shared
        self.left = left[shared / union < self.threshold]
        return int(self.index[picked])


def _groups(labels: Ints, multiclass: bool) -> list[Ints]:
    """Indices of the candidates of each label, or of all, in the given order."""
    if not multiclass:
        return [np.arange(len(labels))]
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _vote(kept: Floats, spans: Floats, scores: Floats, threshold: float) -> Floats:
    """Mean of the candidates around each kept segment, weighted by score times overlap."""
    shared = np.minimum(kept[:, None, 1], spans[:, 1]) - np.maximum(kept[:, None, 0], spans[:, 0])
    np.maximum(shared, 0, out=shared)
    lengths, kept_lengths = spans[:, 1] - spans[:, 0], kept[:, 1] - kept[:, 0]
    union = kept_lengths[:, None] + lengths - shared
    overlap = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    weights = np.where(overlap >= np.float32(threshold), overlap * scores, np.float32(0))
    total = weights.sum(1, keepdims=True)
    # A segment of no length overlaps nothing, not even itself: it stays as it is.
    return np.divide(weights @ spans, total, out=kept.copy(), where=total > 0)
