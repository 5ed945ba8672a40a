"""Overlap of segments: closed forms and the cases without length."""

import numpy as np

from tad_distill.evaluate.segments import intersection_and_union, tiou


def test_tiou_of_hand_computed_pairs() -> None:
    a = np.array([[0.0, 10.0], [2.0, 4.0]])
    b = np.array([[0.0, 10.0], [5.0, 15.0], [20.0, 30.0], [2.0, 4.0]])
    expected = [[1, 5 / 15, 0, 2 / 10], [2 / 10, 0, 0, 1]]
    np.testing.assert_allclose(tiou(a, b), expected, rtol=0, atol=1e-15)


def test_tiou_is_symmetric_and_scale_free() -> None:
    rng = np.random.default_rng(0)
    a, b = (np.sort(rng.uniform(0, 20, (n, 2)), axis=1) for n in (30, 40))
    np.testing.assert_array_equal(tiou(a, b), tiou(b, a).T)
    np.testing.assert_allclose(tiou(3 * a + 7, 3 * b + 7), tiou(a, b), atol=1e-12)


def test_segments_without_length_or_reversed_overlap_nothing() -> None:
    odd = np.array([[3.0, 3.0], [8.0, 5.0]])
    assert not tiou(odd, np.array([[0.0, 10.0], [3.0, 3.0], [8.0, 5.0]])).any()


def test_no_segments_make_an_empty_table() -> None:
    none = np.empty((0, 2))
    assert tiou(none, np.array([[0.0, 1.0]])).shape == (0, 1)
    assert tiou(np.array([[0.0, 1.0]]), none).shape == (1, 0)


def test_union_of_two_segments_without_length_is_zero() -> None:
    point = np.array([5.0, 5.0])
    intersection, union = intersection_and_union(point, np.array([9.0, 9.0]))
    assert float(intersection) == float(union) == 0
