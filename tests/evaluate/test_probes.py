"""Probes against brute force and closed forms."""

import numpy as np
import pytest

from tad_distill.evaluate.probes import (
    PENALTIES,
    auc,
    choose_penalty,
    class_accuracy,
    inside_any,
    pool_segments,
    ridge,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_ridge_is_the_least_squares_fit_with_penalty_rows(rng: np.random.Generator) -> None:
    feats, targets, penalty = rng.normal(3, 2, (30, 5)), rng.normal(size=(30, 2)), 0.3
    probe = ridge(feats, targets, penalty)
    standard = (feats - feats.mean(0)) / feats.std(0)
    design = np.block(
        [[standard, np.ones((30, 1))], [np.sqrt(30 * penalty) * np.eye(5), np.zeros((5, 1))]]
    )
    wanted = np.linalg.lstsq(design, np.vstack([targets, np.zeros((5, 2))]), rcond=None)[0]
    np.testing.assert_allclose(probe.weight, wanted[:5], rtol=1e-9)
    np.testing.assert_allclose(probe(feats), design[:30] @ wanted, rtol=1e-9)


def test_ridge_ignores_features_that_never_vary(rng: np.random.Generator) -> None:
    feats, targets = rng.normal(size=(20, 3)), rng.normal(size=(20, 1))
    widened = np.concatenate([feats, np.full((20, 1), 0.1)], axis=1)
    same = ridge(widened, targets, 0.1)(widened)
    np.testing.assert_allclose(same, ridge(feats, targets, 0.1)(feats), rtol=1e-9)


@pytest.mark.parametrize("num_rows", [8, 25])
def test_penalty_is_the_best_of_refits_without_each_row(
    rng: np.random.Generator, num_rows: int
) -> None:
    feats = rng.normal(size=(num_rows, 10))
    targets = feats[:, :2] + rng.normal(size=(num_rows, 2))
    x = (feats - feats.mean(0)) / feats.std(0)
    errors = []
    for penalty in PENALTIES:
        error = 0.0
        for row in range(num_rows):
            kept = np.delete(np.arange(num_rows), row)
            design = np.column_stack([x[kept], np.ones(len(kept))])
            shrink = np.diag([num_rows * penalty] * 10 + [0.0])
            weight = np.linalg.solve(design.T @ design + shrink, design.T @ targets[kept])
            error += float(((np.append(x[row], 1) @ weight - targets[row]) ** 2).sum())
        errors.append(error)
    assert choose_penalty(feats, targets) == PENALTIES[int(np.argmin(errors))]


def test_accuracy_counts_hits_and_misses_classes_never_trained(rng: np.random.Generator) -> None:
    train = np.repeat([[0.0, 1.0], [1.0, 0.0]], 10, axis=0) + rng.normal(0, 0.01, (20, 2))
    names = np.repeat(["up", "right"], 10)
    test = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = class_accuracy((train, names), (test, np.array(["up", "right", "up", "new"])))
    assert found == 0.5


def test_accuracy_of_nothing_is_nan() -> None:
    none = (np.empty((0, 2)), np.array([], dtype=str))
    some = (np.ones((2, 2)), np.array(["a", "b"]))
    assert np.isnan(class_accuracy(none, some))
    assert np.isnan(class_accuracy(some, none))


@pytest.mark.parametrize("seed", range(5))
def test_auc_counts_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, 40) / 5
    positive = rng.random(40) < 0.3
    wins = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p in scores[positive]
        for n in scores[~positive]
    ]
    assert auc(scores, positive) == pytest.approx(np.mean(wins))


@pytest.mark.parametrize("all_are", [True, False])
def test_auc_of_one_side_alone_is_nan(all_are: bool) -> None:
    assert np.isnan(auc(np.arange(3.0), np.full(3, all_are)))


def test_segments_are_pooled_over_the_centres_they_hold() -> None:
    feats = np.arange(6.0)[:, None]
    segments = np.array([[1.0, 3.0], [1.1, 2.9], [2.2, 2.4], [-3.0, 0.5], [9.0, 11.0]])
    pooled = pool_segments(feats, segments)
    np.testing.assert_allclose(pooled[:, 0], [2, 2, 2, 0, 5])
    np.testing.assert_allclose(pooled[:, 1], [float(np.std([1, 2, 3])), 0, 0, 0, 0])


def test_no_segment_pools_to_no_row_and_is_all_background() -> None:
    none = np.empty((0, 2))
    assert pool_segments(np.ones((4, 3)), none).shape == (0, 6)
    assert not inside_any(4, none).any()


def test_steps_inside_any_segment() -> None:
    inside = inside_any(6, np.array([[0.5, 2.0], [1.0, 1.5], [4.9, 7.0]]))
    assert inside.tolist() == [False, True, True, False, False, True]
