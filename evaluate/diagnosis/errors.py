"""What is wrong with false positives, and what each kind of error costs.

After DETAD (Alwassel et al., ECCV 2018), section 4; the definitions are those of
src/action_detector_diagnosis.py of HumamAlwassel/DETAD at master. The annotation of the video that
a false positive overlaps most, whatever its label, decides:

==================  ======================  =====================
overlap             own label               another label
==================  ======================  =====================
threshold or more   double detection        wrong label
0.1 or more         localisation            confusion
less                background              background
==================  ======================  =====================

Two things differ: of equally overlapped annotations one of the detection's own label decides (in
DETAD the first of the file), and where a threshold is under 0.1 it takes the place of the 0.1.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tad_distill.evaluate.diagnosis.matches import Bools, Matches
from tad_distill.evaluate.diagnosis.precision import average_precision, false_before
from tad_distill.evaluate.matching import Floats, Ints

# What a detection is; its code is its place here.
TYPES = (
    "true positive",
    "double detection",
    "wrong label",
    "localisation",
    "confusion",
    "background",
)
TRUE, DOUBLE, WRONG_LABEL, LOCALISATION, CONFUSION, BACKGROUND = range(6)

# A detection that overlaps less is in the background.
MIN_OVERLAP = 0.1

# The profile looks at the 10 G best detections of each label, G being its annotations.
NUM_GROUPS = 10

Codes = NDArray[np.int8]


class Mixup(NamedTuple):
    """Two labels that are taken for one another.

    Attributes:
        detected: The label of the detection.
        annotated: The label of the annotation that it overlaps.
        times: Wrong-label errors of the kind in the first group, the mean over thresholds.
    """

    detected: str
    annotated: str
    times: float


@dataclass(frozen=True)
class Errors:
    """The false-positive profile and the price of each type of error. Fractions of 1.

    Attributes:
        counts: ``(10, T, 6)`` detections by group, threshold and type. Group g holds of each
            label the detections ranked from g G to (g + 1) G.
        shares: ``(10, 6)`` the mean over thresholds of each type's share in a group; NaN for a
            group without detections.
        mAP: Average mAP of the detections of all groups.
        mAP_N: The same, normalised.
        gain: By type of error, what average mAP gains when these errors are removed.
        gain_N: The same for normalised mAP: DETAD's "removing error impact".
        gain_all: What average mAP gains when all false positives are removed.
        missed: What it lacks even then: annotations that no detection of the groups takes.
        mixups: Which labels are mixed up, the most frequent pair first.
    """

    counts: Ints
    shares: Floats
    mAP: float
    mAP_N: float
    gain: dict[str, float]
    gain_N: dict[str, float]
    gain_all: float
    missed: float
    mixups: list[Mixup]


def types(matches: Matches) -> Codes:
    """What each detection is at each threshold.

    Returns:
        ``(T, N)`` places in ``TYPES``.
    """
    own = matches.best_label == matches.matching.label
    reaches = matches.best_overlap >= matches.tiou[:, None]
    near = matches.best_overlap >= np.minimum(MIN_OVERLAP, matches.tiou)[:, None]
    codes = np.where(
        reaches,
        np.where(own, DOUBLE, WRONG_LABEL),
        np.where(near, np.where(own, LOCALISATION, CONFUSION), BACKGROUND),
    )
    return np.where(matches.taken >= 0, TRUE, codes).astype(np.int8)


def analyse(matches: Matches, codes: Codes) -> Errors:
    """Profile the best detections and remove their errors, type by type.

    Args:
        matches: Which detection took what.
        codes: ``(T, N)`` result of :func:`types`.
    """
    group = matches.place // matches.num_positive[matches.matching.label]
    top = group < NUM_GROUPS
    counts = np.stack([_count(group[top], of_threshold[top]) for of_threshold in codes], axis=1)
    sizes = counts.sum(axis=2, keepdims=True)
    with np.errstate(invalid="ignore"):
        shares = (counts / sizes).mean(axis=1)
    base, base_n = _mean_precision(matches, codes, top, None)
    gain, gain_n = {}, {}
    for code, name in enumerate(TYPES[1:], start=1):
        without, without_n = _mean_precision(matches, codes, top, code)
        gain[name], gain_n[name] = without - base, without_n - base_n
    found = _recall(matches, codes, top)
    mixups = _mixups(matches, codes, group == 0)
    return Errors(counts, shares, base, base_n, gain, gain_n, found - base, 1 - found, mixups)


def _count(group: Ints, code: Codes) -> Ints:
    """How many detections of each type each group has, ``(10, 6)``."""
    cell = group * len(TYPES) + code
    return np.bincount(cell, minlength=NUM_GROUPS * len(TYPES)).reshape(NUM_GROUPS, len(TYPES))


def _mixups(matches: Matches, codes: Codes, first: Bools) -> list[Mixup]:
    """Count the wrong-label errors of the first group by pair of labels."""
    names = matches.matching.labels
    times = ((codes == WRONG_LABEL) & first).sum(axis=0)
    wrong = np.flatnonzero(times)
    pair = matches.matching.label[wrong] * len(names) + matches.best_label[wrong]
    pairs, place = np.unique(pair, return_inverse=True)
    counts = np.bincount(place, weights=times[wrong], minlength=len(pairs)) / len(codes)
    most = np.argsort(-counts, kind="stable")
    return [
        Mixup(names[pairs[i] // len(names)], names[pairs[i] % len(names)], float(counts[i]))
        for i in most
    ]


def _mean_precision(
    matches: Matches, codes: Codes, top: Bools, removed: int | None
) -> tuple[float, float]:
    """Average mAP, plain and normalised, of the top detections without one type of error."""
    plain, normalised = [], []
    for of_threshold in codes:
        hit = (of_threshold == TRUE) & top
        kept = top if removed is None else top & (of_threshold != removed)
        num_false = false_before(matches.first, hit, kept)
        arguments = matches.matching.label[hit], num_false, matches.num_positive
        plain.append(average_precision(*arguments).mean())
        normalised.append(average_precision(*arguments, matches.mean_positive).mean())
    return float(np.mean(plain)), float(np.mean(normalised))


def _recall(matches: Matches, codes: Codes, top: Bools) -> float:
    """The mean over labels and thresholds of the share of annotations that are found."""
    label, num_labels = matches.matching.label, len(matches.matching.labels)
    found = [
        np.bincount(label[top & (c == TRUE)], minlength=num_labels) / matches.num_positive
        for c in codes
    ]
    return float(np.mean(found))
