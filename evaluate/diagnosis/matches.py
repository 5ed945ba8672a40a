"""Which detection took which annotation, and which it overlaps most: what a diagnosis rests on."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tad_distill.evaluate.matching import Floats, Ints, Matching, pairs_within

if TYPE_CHECKING:
    from tad_distill.evaluate.protocols import Result

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Matches:
    """A matching seen from the detections. T thresholds, N detections, M annotations, K labels.

    Attributes:
        matching: The matching; detections are called by their rank in it.
        taken: ``(T, N)`` the annotation that a detection took, -1 for none.
        best_overlap: ``(N,)`` its largest overlap with any annotation of its video, whatever the
            label; 0 where that is under the smallest overlap that was asked for.
        best_label: ``(N,)`` the label of that annotation, -1 for none; its own among equals.
    """

    matching: Matching
    taken: Ints
    best_overlap: Floats
    best_label: Ints

    @cached_property
    def tiou(self) -> Floats:
        """``(T,)`` thresholds."""
        return np.asarray(self.matching.tiou)

    @cached_property
    def num_positive(self) -> Ints:
        """``(K,)`` annotations of each label."""
        return np.bincount(self.matching.owner_label, minlength=len(self.matching.labels))

    @cached_property
    def first(self) -> Ints:
        """``(N,)`` the best detection of each detection's label."""
        label = self.matching.label
        return np.searchsorted(label, label)

    @cached_property
    def place(self) -> Ints:
        """``(N,)`` rank of each detection within its label, from 0."""
        return np.arange(len(self.first)) - self.first

    @property
    def mean_positive(self) -> float:
        """Annotations per label, the N of normalised precision."""
        return len(self.matching.owner_label) / len(self.matching.labels)


def find(result: "Result", min_overlap: float) -> Matches:
    """Turn the matching of a result around.

    Args:
        result: What was scored.
        min_overlap: Overlaps with annotations of any label count from here.
    """
    found = result.matching
    taken = np.full((len(found.tiou), len(found.row)), -1)
    level, annotation = np.nonzero(found.taken_by >= 0)
    taken[level, found.taken_by[level, annotation]] = annotation
    return Matches(found, taken, *_best(result, min_overlap))


def _best(result: "Result", min_overlap: float) -> tuple[Floats, Ints]:
    """The largest overlap of each detection within its video, and the label it is with."""
    found, times = result.matching, ["start_s", "end_s"]
    pairs = pairs_within(
        np.where(found.video < found.num_annotated, found.video, -1),
        found.owner_video,
        result.detections[times].to_numpy(np.float64)[found.row],
        result.annotations[times].to_numpy(np.float64),
        (min_overlap, result.protocol.empty_overlap),
    )
    foreign = found.owner_label[pairs.annotation] != found.label[pairs.detection]
    best_first = np.lexsort((foreign, -pairs.overlap, pairs.detection))
    detection, first = np.unique(pairs.detection[best_first], return_index=True)
    best = best_first[first]
    overlap, label = np.zeros(len(found.row)), np.full(len(found.row), -1)
    overlap[detection] = pairs.overlap[best]
    label[detection] = found.owner_label[pairs.annotation[best]]
    return overlap, label
