"""NMS against recorded official detections and the official loop written out."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tad_distill.evaluate.nms import NmsConfig, suppress

Arrays = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
EMPTY: Arrays = np.zeros((0, 2)), np.zeros(0), np.zeros(0, dtype=np.int64)
EXAMPLE: Arrays = (
    np.array([(0, 5), (1, 6), (2, 32), (0.5, 4.5), (10, 14), (10.2, 14.1), (20, 21)]),
    np.array([0.9, 0.8, 0.95, 0.7, 0.3, 0.3, 0.0005]),
    np.array([0, 0, 1, 0, 1, 1, 0]),
)
SOFT_VOTING = NmsConfig(multiclass=False)
HARD = NmsConfig(method="hard")
VARIANTS = {
    "nms_soft": NmsConfig(),
    "nms_hard": HARD,
    "nms_agnostic_soft_vote": SOFT_VOTING,
    "nms_agnostic_hard_novote": replace(HARD, multiclass=False, voting_threshold=0.0),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_detections_equal_the_official_ones_in_their_order(shared: Path, variant: str) -> None:
    with np.load(shared / "golden/heads/actionformer_local_win9.npz") as golden:
        for i in range(2):
            found = suppress(
                golden[f"dec/segments_{i}"],
                golden[f"dec/scores_{i}"],
                golden[f"dec/labels_{i}"],
                VARIANTS[variant],
            )
            segments, scores, labels = (
                golden[f"{variant}/{key}_{i}"] for key in ("segments", "scores", "labels")
            )
            np.testing.assert_array_equal(found[2], labels)
            np.testing.assert_allclose(found[1], scores, atol=2e-7)
            np.testing.assert_allclose(found[0], segments, atol=1e-4)


def test_soft_nms_gives_the_published_example() -> None:
    segments, scores, labels = suppress(*EXAMPLE, NmsConfig())
    expected = [(2, 32), (0, 5), (1, 6), (10.2, 14.1), (0.5, 4.5), (10, 14)]
    np.testing.assert_allclose(segments, expected, rtol=1e-6)
    np.testing.assert_allclose(scores, [0.95, 0.9, 0.32889, 0.29003, 0.08659, 0.05195], atol=5e-6)
    assert labels.tolist() == [1, 0, 0, 1, 0, 1]


def test_soft_voting_gives_the_published_example() -> None:
    config = NmsConfig(multiclass=False, sigma=0.75, voting_threshold=0.9)
    segments, scores, _ = suppress(*EXAMPLE, config)
    expected = [0.95, 0.88951, 0.4326, 0.29332, 0.17233, 0.0932]
    np.testing.assert_allclose(scores, expected, atol=5e-6)
    np.testing.assert_allclose(segments[3], [10.1038, 14.0519], atol=5e-5)
    np.testing.assert_allclose(segments[5], [10.0962, 14.0481], atol=5e-5)


def test_hard_voting_gives_the_published_example() -> None:
    config = NmsConfig(method="hard", multiclass=False, iou_threshold=0.5, voting_threshold=0.9)
    segments, scores, labels = suppress(*EXAMPLE, config)
    expected = [(2, 32), (0, 5), (10.0962, 14.0481)]
    np.testing.assert_allclose(segments, expected, atol=5e-5)
    np.testing.assert_allclose(scores, [0.95, 0.9, 0.3])
    assert labels.tolist() == [1, 0, 1]


def soft_nms_by_loop(
    segments: NDArray[Any], scores: NDArray[Any], sigma: float, min_score: float
) -> list[tuple[int, float]]:
    """The official loop over one group: indices and lowered scores in the order of picking."""
    one = np.float32
    left: list[list[Any]] = [
        [one(s), one(e), one(score), index]
        for index, ((s, e), score) in enumerate(zip(segments, scores, strict=True))
    ]
    i = 0
    while i < len(left):
        best = max(range(i, len(left)), key=lambda k: (left[k][2], -k))
        left[i], left[best] = left[best], left[i]
        j = i + 1
        while j < len(left):
            a, b = left[i], left[j]
            shared = max(one(0), min(a[1], b[1]) - max(a[0], b[0]))
            lengths = (a[1] - a[0] + one(1e-6)) + (b[1] - b[0] + one(1e-6))
            overlap = shared / (lengths - shared)
            b[2] = b[2] * one(np.exp(-(overlap * overlap) / one(sigma)))
            if b[2] < one(min_score):
                left[j] = left[-1]
                left.pop()
            else:
                j += 1
        i += 1
    return [(int(item[3]), float(item[2])) for item in left]


def coarse_candidates(seed: int, count: int, num_labels: int) -> Arrays:
    """Few distinct ends and scores, so that ties of all kinds occur."""
    generator = np.random.default_rng(seed)
    starts = generator.integers(0, 30, count).astype(np.float32)
    lengths = generator.integers(0, 8, count).astype(np.float32)
    scores = generator.integers(1, 8, count).astype(np.float32) / 8
    return np.stack([starts, starts + lengths], 1), scores, generator.integers(0, num_labels, count)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("min_score", [0.001, 0.2])
def test_soft_nms_equals_the_official_loop_ties_included(seed: int, min_score: float) -> None:
    segments, scores, _ = coarse_candidates(seed, 80, 1)
    config = NmsConfig(min_score=min_score, multiclass=False, voting_threshold=0.0)
    # The label says which candidate it was; one group all the same.
    found = suppress(segments, scores, np.arange(80), config)
    expected = soft_nms_by_loop(segments, scores, config.sigma, min_score)
    assert found[2].tolist() == [index for index, _ in expected]
    np.testing.assert_allclose(found[1], [score for _, score in expected], rtol=1e-6)
    assert len(expected) < 80 or min_score == 0.001


@pytest.mark.parametrize("method", ["soft", "hard"])
def test_labels_are_suppressed_apart_then_merged_by_score(method: Any) -> None:
    segments, scores, labels = coarse_candidates(3, 200, 5)
    config = NmsConfig(method=method, num_detections=1000)
    together = suppress(segments, scores, labels, config)
    rows: list[tuple[float, int, int, list[float]]] = []
    for label in range(5):
        own = labels == label
        found, lowered, _ = suppress(segments[own], scores[own], labels[own], config)
        for place, (segment, score) in enumerate(zip(found, lowered, strict=True)):
            rows.append((-float(score), label, place, segment.tolist()))
    rows.sort()
    assert together[2].tolist() == [row[1] for row in rows]
    assert together[0].tolist() == [row[3] for row in rows]


def test_hard_nms_equals_a_loop() -> None:
    segments, scores, _ = coarse_candidates(4, 120, 1)
    order = sorted(range(120), key=lambda k: (-scores[k], k))
    kept: list[int] = []
    for k in order:
        overlaps = []
        for other in kept:
            (s, e), (s2, e2) = segments[k].tolist(), segments[other].tolist()
            shared = max(0.0, min(e, e2) - max(s, s2))
            overlaps.append(shared / (e - s + e2 - s2 + 2e-6 - shared))
        if scores[k] > 0.3 and all(overlap < 0.4 for overlap in overlaps):
            kept.append(k)
    config = replace(HARD, iou_threshold=0.4, min_score=0.3, multiclass=False, voting_threshold=0.0)
    found = suppress(segments, scores, np.arange(120), config)
    assert found[2].tolist() == kept
    assert 5 < len(kept) < 100


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_a_cap_keeps_the_best_of_the_uncapped(config: NmsConfig) -> None:
    candidates = coarse_candidates(5, 300, 4)
    whole = suppress(*candidates, replace(config, num_detections=1000))
    capped = suppress(*candidates, replace(config, num_detections=7))
    assert len(whole[1]) > 7
    for i in range(3):
        np.testing.assert_array_equal(whole[i][:7], capped[i])


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_no_candidates_give_no_detections(config: NmsConfig) -> None:
    segments, scores, labels = suppress(*EMPTY, config)
    assert segments.shape == (0, 2) and scores.shape == labels.shape == (0,)


def test_hard_nms_drops_at_its_thresholds() -> None:
    segments, scores = np.array([(0, 1), (5, 6), (7, 8)]), np.array([0.5, 0.4, 0.25])
    config = replace(HARD, iou_threshold=0.5, min_score=0.25)
    assert len(suppress(segments, scores, np.zeros(3, dtype=int), config)[1]) == 2
    config = replace(HARD, iou_threshold=0.0)  # even what does not overlap reaches 0
    assert len(suppress(segments, scores, np.zeros(3, dtype=int), config)[1]) == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_segments_without_length_stay_finite(config: NmsConfig) -> None:
    points = np.array([(3, 3), (3, 3), (5, 5), (2, 4)], dtype=np.float64)
    found = suppress(points, np.array([0.9, 0.8, 0.7, 0.6]), np.zeros(4, dtype=int), config)
    assert np.isfinite(found[0]).all() and np.isfinite(found[1]).all()
    assert len(found[0]) == 4  # they overlap nothing, not even each other
    np.testing.assert_array_equal(found[0], points)


def test_without_suppression_the_best_stay_whatever_they_overlap() -> None:
    segments, labels = np.array([[0.0, 5.0]] * 5), np.zeros(5, dtype=np.int64)
    scores = np.array([0.3, 0.001, 0.9, 0.5, 0.3])
    config = NmsConfig(method="none", num_detections=3)
    kept, kept_scores, _ = suppress(segments, scores, labels, config)
    assert kept.tolist() == [[0.0, 5.0]] * 3
    assert kept_scores.tolist() == pytest.approx([0.9, 0.5, 0.3])
    assert len(suppress(segments, scores, labels, NmsConfig(method="none"))[0]) == 4


def test_the_input_is_left_as_it_was() -> None:
    segments, scores, labels = coarse_candidates(6, 50, 1)
    scores = scores.astype(np.float32)
    before = segments.copy(), scores.copy(), labels.copy()
    suppress(segments, scores, labels, SOFT_VOTING)
    for array, copied in zip((segments, scores, labels), before, strict=True):
        np.testing.assert_array_equal(array, copied)


def test_soft_nms_lowers_by_the_overlap() -> None:
    segments = np.array([(0.0, 4.0), (0.0, 2.0)])
    found = suppress(segments, np.array([0.8, 0.6]), np.zeros(2, dtype=int), NmsConfig(sigma=0.7))
    assert found[1][1] == pytest.approx(0.6 * math.exp(-(0.5**2) / 0.7), rel=1e-5)


@pytest.mark.parametrize(
    ("setting", "message"), [({"sigma": 0.0}, "sigma"), ({"num_detections": 0}, "num_detections")]
)
def test_impossible_settings_are_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NmsConfig(**setting)
