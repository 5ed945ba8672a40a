"""Average precision, plain and normalised, from the hits alone.

Normalised precision (Hoiem et al., ECCV 2012; used by DETAD) lets parts of the data with differing
numbers of annotations be compared: at recall R after F false positives it is R N / (R N + F), with
one N for all, the annotations per label of the whole set. Plain precision has each label's own.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tad_distill.evaluate.diagnosis.matches import Bools
    from tad_distill.evaluate.matching import Floats, Ints


def precision_at_hits(
    label: "Ints", num_false: "Ints", num_positive: "Ints", normal: float | None = None
) -> "Floats":
    """Precision at each hit.

    Args:
        label: ``(H,)`` labels of the hits, rising; within a label in rank order.
        num_false: ``(H,)`` false positives of the label that rank above the hit.
        num_positive: ``(K,)`` annotations of each label.
        normal: The N of normalised precision; ``None``: plain precision.
    """
    num_true = np.arange(len(label)) - np.searchsorted(label, label) + 1.0
    if normal is not None:
        num_true *= normal / num_positive[label]
    return num_true / (num_true + num_false)


def average_precision(
    label: "Ints", num_false: "Ints", num_positive: "Ints", normal: float | None = None
) -> "Floats":
    """Area under the precision envelope of each label.

    Args:
        label: As for :func:`precision_at_hits`; so are the others.
        num_false: See there.
        num_positive: See there.
        normal: See there.

    Returns:
        ``(K,)``; 0 for a label without hits, NaN for one without annotations.
    """
    precision = precision_at_hits(label, num_false, num_positive, normal)
    area = np.zeros(len(num_positive))
    bounds = np.searchsorted(label, np.arange(len(num_positive) + 1))
    for k in np.flatnonzero(np.diff(bounds)):
        envelope = np.maximum.accumulate(precision[bounds[k] : bounds[k + 1]][::-1])
        area[k] = envelope.sum() / num_positive[k]
    area[num_positive == 0] = np.nan
    return area


def false_before(first: "Ints", hit: "Bools", kept: "Bools") -> "Ints":
    """False positives of the same label above each true positive.

    Args:
        first: ``(N,)`` the best detection of each detection's label; detections are in rank order.
        hit: ``(N,)`` which of them are true positives.
        kept: ``(N,)`` which of them count at all.

    Returns:
        ``(H,)`` for the true positives.
    """
    false = np.concatenate([[0], np.cumsum(kept & ~hit)])
    at = np.flatnonzero(hit)
    return false[at] - false[first[at]]
