"""The median filters made of exchanges."""

from itertools import product

import numpy as np
import pytest
import torch

from tad_distill.extract.tvl1.median import SORTS, median_filter, network


def apply(exchanges: list[tuple[int, int]], values: np.ndarray) -> np.ndarray:
    for low, high in exchanges:
        a, b = values[:, low].copy(), values[:, high].copy()
        values[:, low], values[:, high] = np.minimum(a, b), np.maximum(a, b)
    return values


@pytest.mark.parametrize("size", [3, 5])
def test_columns_are_sorted_whatever_they_hold(size: int) -> None:
    columns = np.array(list(product((0, 1), repeat=size)))
    assert (apply(list(SORTS[size]), columns.copy()) == np.sort(columns, 1)).all()


@pytest.mark.parametrize("size", [3, 5])
def test_the_network_finds_the_median_of_all_sorted_columns_of_zeros_and_ones(size: int) -> None:
    kinds = np.sort(np.array(list(product((0, 1), repeat=size))), 1)
    kinds = np.unique(kinds, axis=0)
    windows = np.array(list(product(range(size + 1), repeat=size)))
    values = kinds[windows].transpose(0, 2, 1).reshape(len(windows), -1)  # row * size + column
    medians = np.median(values, 1)
    found = apply([(low, high) for low, high, *_ in network(size)], values)
    assert (found[:, size * size // 2] == medians).all()


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("shape", [(2, 13, 17), (1, 1, 1), (3, 2, 1), (1, 1, 9), (2, 70, 150)])
def test_a_filter_gives_the_median_of_each_window(size: int, shape: tuple[int, ...]) -> None:
    x = torch.from_numpy(np.random.default_rng(0).integers(-9, 9, shape) / 4).float()
    padded = np.pad(x.numpy(), ((0, 0), *[(size // 2,) * 2] * 2), "edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))
    np.testing.assert_array_equal(median_filter(x, size), np.median(windows, (-2, -1)))
