"""Which annotations are detected well and which are missed, by characteristic.

Sensitivity and false negatives after DETAD (Alwassel et al., ECCV 2018), sections 5 and 6, as in
src/sensitivity_analysis.py and src/false_negative_analysis.py of HumamAlwassel/DETAD at master.
There, a detection that took an annotation outside a bin at one threshold is left out at the later
ones too; here each threshold stands for itself, as in the paper's text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tad_distill.evaluate.diagnosis.characteristics import Characteristic
from tad_distill.evaluate.diagnosis.matches import Bools, Matches
from tad_distill.evaluate.diagnosis.precision import (
    average_precision,
    false_before,
    precision_at_hits,
)
from tad_distill.evaluate.matching import Floats, Ints

# An annotation that is only found where normalised precision is this low counts as missed.
MIN_PRECISION = 0.05


@dataclass(frozen=True)
class Stratum:
    """A characteristic, and how well each of its bins is detected. Fractions of 1.

    Attributes:
        of: The characteristic.
        num_annotations: ``(B,)`` annotations in each bin.
        mAP_N: ``(B,)`` average normalised mAP if only the annotations of the bin count, and no
            detection that took one outside it; NaN for an empty bin.
        missed: ``(B,)`` share of the annotations that are missed, the mean over thresholds; NaN
            for an empty bin.
    """

    of: Characteristic
    num_annotations: Ints
    mAP_N: Floats
    missed: Floats


@dataclass(frozen=True)
class Hits:
    """The true positives at one threshold, in rank order.

    Attributes:
        label: ``(H,)`` their labels, rising.
        annotation: ``(H,)`` what they took.
        num_false: ``(H,)`` false positives of the same label above them.
    """

    label: Ints
    annotation: Ints
    num_false: Ints


def hits_of(matches: Matches) -> list[Hits]:
    """The true positives at each threshold."""
    everything = np.ones(len(matches.first), dtype=bool)
    found = []
    for taken in matches.taken:
        hit = taken >= 0
        num_false = false_before(matches.first, hit, everything)
        found.append(Hits(matches.matching.label[hit], taken[hit], num_false))
    return found


def missed(matches: Matches, hits: Sequence[Hits]) -> Bools:
    """Which annotations are missed at each threshold.

    Returns:
        ``(T, M)``.
    """
    lost = np.ones((len(matches.tiou), len(matches.matching.owner_label)), dtype=bool)
    for t, h in enumerate(hits):
        precision = precision_at_hits(
            h.label, h.num_false, matches.num_positive, matches.mean_positive
        )
        lost[t, h.annotation[precision > MIN_PRECISION]] = False
    return lost


def mean_precision(matches: Matches, hits: Sequence[Hits]) -> tuple[float, float]:
    """Average mAP of all detections, plain and normalised."""
    plain = [average_precision(h.label, h.num_false, matches.num_positive) for h in hits]
    normal = matches.mean_positive
    normalised = [
        average_precision(h.label, h.num_false, matches.num_positive, normal) for h in hits
    ]
    return float(np.mean(plain)), float(np.mean(normalised))


def analyse(
    matches: Matches, hits: Sequence[Hits], characteristics: Sequence[Characteristic]
) -> list[Stratum]:
    """Score every bin of every characteristic by itself."""
    lost = missed(matches, hits).mean(axis=0)
    found = []
    for characteristic in characteristics:
        inside = [characteristic.bin_of == b for b in range(len(characteristic.bins))]
        found.append(
            Stratum(
                characteristic,
                np.array([int(within.sum()) for within in inside]),
                np.array([_precision_within(matches, hits, within) for within in inside]),
                np.array([lost[w].mean() if w.any() else np.nan for w in inside]),
            )
        )
    return found


def _precision_within(matches: Matches, hits: Sequence[Hits], inside: Bools) -> float:
    """Average normalised mAP if only the annotations ``inside`` were to be found."""
    num_positive = np.bincount(
        matches.matching.owner_label[inside], minlength=len(matches.matching.labels)
    )
    if not num_positive.any():
        return float("nan")
    found = []
    for h in hits:
        kept = inside[h.annotation]
        area = average_precision(
            h.label[kept], h.num_false[kept], num_positive, matches.mean_positive
        )
        found.append(area[num_positive > 0].mean())
    return float(np.mean(found))
