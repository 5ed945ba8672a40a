"""Exact median filters of 3x3 and 5x5 pixels from minima and maxima alone.

The columns of a window are sorted first, once for all the windows that share them, then its rows.
Of the values that may still be the median, and of the network that sorts them, only what the median
depends on is kept. A network that is right for all zeros and ones is right for any numbers (Knuth,
TAOCP 3, 5.3.4, theorem Z), and sorted columns of those are few enough to try them all.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

# Sorts 3 and 5 values.
SORTS = {
    3: ((0, 1), (1, 2), (0, 1)),
    5: ((0, 1), (3, 4), (2, 4), (2, 3), (1, 4), (0, 3), (0, 2), (1, 3), (1, 2)),
}
# Pixels at a time, so that what is in use stays in a processor's cache.
TILE_PX = 20_000

# (low, high, low_needed, high_needed): low gets the smaller of both values, high the larger.
Exchange = tuple[int, int, bool, bool]


@cache
def network(size: int) -> tuple[Exchange, ...]:
    """What is left to do in a window whose columns are sorted.

    Args:
        size: Side of the window, 3 or 5.

    Returns:
        Exchanges between the values ``row * size + column``; after them the middle one is the
        median.
    """
    rows = [(r * size + a, r * size + b) for r in range(size) for a, b in SORTS[size]]
    candidates = _candidates(size)
    merge = [(candidates[a], candidates[b]) for a, b in _merge_sort(len(candidates))]
    values, kept = _sorted_columns(size), list[tuple[int, int]]()
    for low, high in rows + merge:
        smaller = values[:, low] & values[:, high]
        if (smaller != values[:, low]).any():  # else they are in order whatever comes in
            values[:, high] |= values[:, low]
            values[:, low] = smaller
            kept.append((low, high))
    needed, pruned = {size * size // 2}, list[Exchange]()
    for low, high in reversed(kept):
        if low in needed or high in needed:
            pruned.append((low, high, low in needed, high in needed))
            needed |= {low, high}
    return tuple(reversed(pruned))


def median_filter(x: Tensor, size: int) -> Tensor:
    """Median of the ``size`` x ``size`` pixels around each one, the edge repeated.

    Args:
        x: ``(N, H, W)``.
        size: 3 or 5.

    Returns:
        ``(N, H, W)``, a new tensor.
    """
    num, height, width = x.shape
    padded = F.pad(x.unsqueeze(0), (size // 2,) * 4, mode="replicate").squeeze(0)
    if x.device.type != "cpu":
        return _filter(padded, size)
    out = torch.empty_like(x)
    maps_at_once = max(1, TILE_PX // (height * width))
    rows_at_once = max(1, TILE_PX // width) if maps_at_once == 1 else height
    for first in range(0, num, maps_at_once):
        maps = padded[first : first + maps_at_once]
        for row in range(0, height, rows_at_once):
            end = min(row + rows_at_once, height)
            part = _filter(maps[:, row : end + size - 1], size)
            out[first : first + maps_at_once, row:end] = part
    return out


def _filter(padded: Tensor, size: int) -> Tensor:
    height, width = padded.shape[1] - size + 1, padded.shape[2] - size + 1
    columns = [padded[:, row : row + height] for row in range(size)]
    for low, high in SORTS[size]:
        columns[low], columns[high] = (
            torch.minimum(columns[low], columns[high]),
            torch.maximum(columns[low], columns[high]),
        )
    values = [column[..., at : at + width] for column in columns for at in range(size)]
    for low, high, low_needed, high_needed in network(size):
        a, b = values[low], values[high]
        if low_needed:
            values[low] = torch.minimum(a, b)
        if high_needed:
            values[high] = torch.maximum(a, b)
    return values[size * size // 2]


def _candidates(size: int) -> list[int]:
    """Values that may be the median once columns and rows are sorted, along the diagonals."""
    half = size * size // 2 + 1
    cells = [
        (row, column)
        for row in range(size)
        for column in range(size)
        # At least so many are not larger, and so many not smaller, itself included.
        if (row + 1) * (column + 1) <= half and (size - row) * (size - column) <= half
    ]
    return [row * size + column for row, column in sorted(cells, key=lambda c: (sum(c), c))]


def _merge_sort(num: int) -> Iterator[tuple[int, int]]:
    """Batcher's odd-even merge sort of ``num`` values (Knuth, algorithm 5.2.2M)."""
    run = 1
    while run < num:
        gap = run
        while gap:
            for start in range(gap % run, num - gap, 2 * gap):
                for low in range(start, min(start + gap, num - gap)):
                    if low // (2 * run) == (low + gap) // (2 * run):
                        yield low, low + gap
            gap //= 2
        run *= 2


def _sorted_columns(size: int) -> NDArray[np.bool_]:
    """All windows of zeros and ones with sorted columns, a window per row."""
    num_ones = np.indices((size + 1,) * size).reshape(size, -1).T
    windows = np.arange(size)[:, None] >= size - num_ones[:, None, :]
    return windows.reshape(len(windows), -1)
