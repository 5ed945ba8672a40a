"""Overlap of segments in time. A segment is a pair (start, end) in any one unit."""

import numpy as np
from numpy.typing import NDArray

Segments = NDArray[np.floating]


def intersection_and_union(a: Segments, b: Segments) -> tuple[Segments, Segments]:
    """Length of intersection and union, in the arithmetic of the ActivityNet kit.

    The order of the additions is the kit's (``segment_iou`` in Evaluation/utils.py of
    activitynet/ActivityNet at 82304fa), so that an overlap which falls exactly on a threshold
    falls on the same side of it. A segment whose end lies before its start intersects nothing.

    Args:
        a: ``(..., 2)``, broadcast against ``b``.
        b: ``(..., 2)``.
    """
    start = np.maximum(a[..., 0], b[..., 0])
    end = np.minimum(a[..., 1], b[..., 1])
    intersection = np.clip(end - start, 0, None)
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - intersection
    return intersection, union


def tiou(a: Segments, b: Segments) -> Segments:
    """Temporal intersection over union of every pair.

    Args:
        a: ``(N, 2)`` segments.
        b: ``(M, 2)`` segments.

    Returns:
        ``(N, M)``; two segments without length, whose union is 0, do not overlap: 0.

    >>> tiou(np.array([[0.0, 2.0]]), np.array([[1.0, 3.0], [5.0, 6.0]]))
    array([[0.33333333, 0.        ]])
    """
    intersection, union = intersection_and_union(a[:, None, :], b[None, :, :])
    # Where anything intersects, the union is positive: both segments then have a length.
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=intersection > 0)
