"""What frozen features know: linear probes for the labels and for action against background.

A probe is a ridge regression onto class indicators (closed form), trained on the features inside
the annotated segments of some videos and scored on those of others. It measures what a linear
reader could take from the features, before any detector is trained.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

# Tried by choose_penalty; relative to features of unit variance.
PENALTIES = (1e-3, 1e-2, 1e-1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class Ridge:
    """A fitted ridge regression with an intercept that is not penalised.

    Attributes:
        mean: ``(D,)`` mean of the training features.
        scale: ``(D,)`` their standard deviation; 1 where a feature never varied.
        weight: ``(D, K)`` for standardised features.
        intercept: ``(K,)``.
    """

    mean: Floats
    scale: Floats
    weight: Floats
    intercept: Floats

    def __call__(self, feats: Floats) -> Floats:
        """``(N, D)`` features to ``(N, K)`` predictions."""
        standard = (np.asarray(feats, dtype=np.float64) - self.mean) / self.scale
        return standard @ self.weight + self.intercept


def ridge(feats: Floats, targets: Floats, penalty: float) -> Ridge:
    """Fit ``targets`` linearly by standardised features: ``min |X w + b - y|^2 / N + p |w|^2``.

    Args:
        feats: ``(N, D)``, N >= 1.
        targets: ``(N, K)``.
        penalty: p, relative to features of unit variance.
    """
    x = np.asarray(feats, dtype=np.float64)
    y = np.asarray(targets, dtype=np.float64)
    mean, scale = x.mean(0), _spread(x)
    x = (x - mean) / scale
    intercept = y.mean(0)
    gram = x.T @ x / len(x) + penalty * np.eye(x.shape[1])
    weight = np.linalg.solve(gram, x.T @ (y - intercept) / len(x))
    return Ridge(mean=mean, scale=scale, weight=weight, intercept=intercept)


def choose_penalty(feats: Floats, targets: Floats) -> float:
    """The penalty of :data:`PENALTIES` with the smallest squared error when each row is left out.

    The errors of all N refits are known in closed form, ``r_i / (1 - h_ii)`` with the hat matrix of
    the penalised fit (Allen's PRESS statistic, 1974); only the standardisation is not redone.

    Args:
        feats: ``(N, D)``, N >= 2.
        targets: ``(N, K)``.
    """
    x = np.asarray(feats, dtype=np.float64)
    scale = _spread(x)
    left, singular, _ = np.linalg.svd((x - x.mean(0)) / scale, full_matrices=False)
    y = np.asarray(targets, dtype=np.float64)
    rotated = left.T @ (y - y.mean(0))
    errors = []
    for penalty in PENALTIES:
        shrunk = singular**2 / (singular**2 + len(x) * penalty)
        residual = y - y.mean(0) - left @ (shrunk[:, None] * rotated)
        # Where a row alone decides its fit, leaving it out says nothing: keep the error finite.
        kept = np.maximum(1 - 1 / len(x) - left**2 @ shrunk, 1e-9)
        errors.append(float(((residual / kept[:, None]) ** 2).sum()))
    return PENALTIES[int(np.argmin(errors))]


def class_accuracy(
    train: tuple[Floats, NDArray[np.str_]], test: tuple[Floats, NDArray[np.str_]]
) -> float:
    """The share of test rows whose class a probe trained on the training rows names.

    Args:
        train: ``(N, D)`` features and ``(N,)`` class names.
        test: The same for the rows scored; a class that training never saw counts as missed.

    Returns:
        A fraction of 1; NaN where there is nothing to train on or to score.
    """
    if not len(train[1]) or not len(test[1]):
        return float("nan")
    classes = np.unique(train[1])
    targets = (train[1][:, None] == classes).astype(np.float64)
    probe = ridge(train[0], targets, choose_penalty(train[0], targets))
    return float(np.mean(classes[probe(test[0]).argmax(1)] == test[1]))


def auc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties counted half.

    Computed from ranks (Mann and Whitney); NaN when either side is empty.

    >>> auc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
    0.875
    """
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if not num_positive or not num_negative:
        return float("nan")
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = mean_rank[group][positive].sum()
    area = (rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)
    return float(area)


def pool_segments(feats: Floats, segments: Floats) -> Floats:
    """Mean and spread of the features inside each segment.

    Args:
        feats: ``(T, D)`` features of one video, T >= 1.
        segments: ``(M, 2)`` start and end in grid steps. A feature is inside when its centre is;
            a segment that holds none takes the nearest feature.

    Returns:
        ``(M, 2 D)`` float64: the mean over time, then the standard deviation.
    """
    num_steps = len(feats)
    rows = np.empty((len(segments), 2 * feats.shape[1]))
    for row, (start, end) in zip(rows, segments, strict=True):
        first, stop = int(np.ceil(start)), int(np.floor(end)) + 1
        first, stop = max(first, 0), min(stop, num_steps)
        if first >= stop:
            first = int(np.clip(round((start + end) / 2), 0, num_steps - 1))
            stop = first + 1
        inside = np.asarray(feats[first:stop], dtype=np.float64)
        row[:] = np.concatenate([inside.mean(0), inside.std(0)])
    return rows


def inside_any(num_steps: int, segments: Floats) -> NDArray[np.bool_]:
    """``(T,)``: whether each grid step lies in one of the ``(M, 2)`` segments."""
    steps = np.arange(num_steps)[:, None]
    return np.any((steps >= segments[:, 0]) & (steps <= segments[:, 1]), axis=1)


def _spread(x: Floats) -> Floats:
    """Standard deviation by column, 1 for those that never vary."""
    spread = x.std(0)
    # A constant keeps a spread of rounding noise, which must not be blown up.
    return np.where(spread > 1e-6 * (1 + np.abs(x.mean(0))), spread, 1.0)
