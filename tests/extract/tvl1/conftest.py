"""TV-L1 once more, a pixel at a time, and images to run it on."""

from collections.abc import Callable, Iterator
from itertools import product

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tad_distill.extract.tvl1 import native
from tad_distill.extract.tvl1.settings import Settings

Image = NDArray[np.float64]


@pytest.fixture
def no_library() -> Iterator[None]:
    """Let the test find its own compiler, and later tests theirs."""
    native._library.cache_clear()
    yield
    native._library.cache_clear()


@pytest.fixture(scope="session")
def texture() -> Callable[..., Tensor]:
    """A smooth texture seen by a camera that moves: ``(T, H, W)`` float32, 0 to 255."""

    def make(size: tuple[int, int], shifts: list[tuple[float, float]], seed: int = 0) -> Tensor:
        random = np.random.default_rng(seed)
        waves = random.uniform(0.05, 0.45, (12, 2)) * random.choice([-1, 1], (12, 2))
        phases, heights = random.uniform(0, 2 * np.pi, 12), random.uniform(0.3, 1, 12)
        y, x = np.mgrid[: size[0], : size[1]]
        frames = []
        for dx, dy in shifts:
            angles = waves[:, 0, None, None] * (x - dx) + waves[:, 1, None, None] * (y - dy)
            wave = np.sin(angles + phases[:, None, None])
            frames.append(127.5 + 120 * (heights[:, None, None] * wave).sum(0) / heights.sum())
        return torch.from_numpy(np.stack(frames)).float()

    return make


@pytest.fixture(scope="session")
def brute_force() -> Callable[[Image, Image, Settings], Image]:
    """Flow ``(2, H, W)`` of one pair by the written algorithm, in float64 and without haste."""
    return _flow


def _flow(first: Image, second: Image, settings: Settings) -> Image:
    pyramid = [(first, second)]
    while len(pyramid) < settings.num_scales:
        height, width = (round(side * settings.scale_step) for side in pyramid[-1][0].shape)
        if min(height, width) < 16:
            break
        step = 1 / settings.scale_step
        smaller = [_resize(x, (height, width), (step, step), settings) for x in pyramid[-1]]
        pyramid.append((smaller[0], smaller[1]))
    flow = np.zeros((2, *pyramid[-1][0].shape))
    for i0, i1 in reversed(pyramid):
        if flow.shape[1:] != i0.shape:
            steps = tuple(a / b for a, b in zip(flow.shape[1:], i0.shape, strict=True))
            flow = np.stack([_resize(x, i0.shape, steps, settings) for x in flow])
            flow /= settings.scale_step
        flow = _one_scale(i0, i1, flow, settings)
    return flow


def _resize(x: Image, size: tuple[int, ...], steps: tuple[float, ...], settings: Settings) -> Image:
    out = np.zeros(size)
    for place in product(*map(range, size)):
        total = 0.0
        at = [
            min(max(p * s if settings.grid == "corner" else (p + 0.5) * s - 0.5, 0), n - 1)
            for p, s, n in zip(place, steps, x.shape, strict=True)
        ]
        low = [int(np.floor(a)) for a in at]
        for up in product((0, 1), repeat=2):
            weight = np.prod(
                [a - f if u else 1 - a + f for a, f, u in zip(at, low, up, strict=True)]
            )
            cell = tuple(min(f + u, n - 1) for f, u, n in zip(low, up, x.shape, strict=True))
            total += weight * x[cell]
        out[place] = total
    return out


def _keys(distance: float, a: float) -> float:
    x = abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def _look_up(x: Image, at_y: float, at_x: float, settings: Settings) -> float:
    height, width = x.shape
    top, left = int(np.floor(at_y)) - 1, int(np.floor(at_x)) - 1
    total = 0.0
    for row, column in product(range(top, top + 4), range(left, left + 4)):
        inside = 0 <= row < height and 0 <= column < width
        if inside or settings.border == "edge":
            value = x[min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
            total += (
                value * _keys(at_y - row, settings.cubic) * _keys(at_x - column, settings.cubic)
            )
    return total


def _one_scale(i0: Image, i1: Image, flow: Image, settings: Settings) -> Image:
    wide, tall = np.pad(i1, ((0, 0), (1, 1)), "edge"), np.pad(i1, ((1, 1), (0, 0)), "edge")
    maps = [i1, (wide[:, 2:] - wide[:, :-2]) / 2, (tall[2:] - tall[:-2]) / 2]
    dual = np.zeros((2, 2, *i0.shape))  # part of the flow, direction
    for _ in range(settings.num_warps):
        warped = np.zeros((3, *i0.shape))
        for y, x in np.ndindex(i0.shape):
            at = (y + flow[1, y, x], x + flow[0, y, x])
            warped[:, y, x] = [_look_up(each, *at, settings) for each in maps]
        offset = warped[0] - (warped[1:] * flow).sum(0) - i0
        for _ in range(settings.num_outer):
            if settings.median > 1:
                flow = np.stack([_median(part, settings.median) for part in flow])
            for _ in range(settings.num_inner):
                flow = _primal(flow, dual, warped[1:], offset, settings)
                dual = _dual(flow, dual, settings)
    return flow


def _median(x: Image, size: int) -> Image:
    padded = np.pad(x, size // 2, "edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size))
    return np.median(windows, (-2, -1))


def _primal(flow: Image, dual: Image, slope: Image, offset: Image, settings: Settings) -> Image:
    rho, square = offset + (slope * flow).sum(0), (slope**2).sum(0)
    limit = settings.attachment * settings.tightness
    factor = np.where(square > 2.0**-23, -rho / np.maximum(square, 2.0**-23), 0)
    factor = np.where(rho < -limit * square, limit, np.where(rho > limit * square, -limit, factor))
    out = flow + factor * slope
    for part in range(2):
        along_x, along_y = dual[part]
        divergence = np.diff(along_x, axis=1, prepend=0) + np.diff(along_y, axis=0, prepend=0)
        out[part] += settings.tightness * divergence
    return out


def _dual(flow: Image, dual: Image, settings: Settings) -> Image:
    step, out = settings.tau / settings.tightness, np.empty_like(dual)
    for part in range(2):
        rise_x = np.diff(flow[part], axis=1, append=flow[part][:, -1:])
        rise_y = np.diff(flow[part], axis=0, append=flow[part][-1:])
        length = 1 + step * np.hypot(rise_x, rise_y)
        out[part] = (dual[part] + step * np.stack([rise_x, rise_y])) / length
    return out


@pytest.fixture(scope="session")
def photograph() -> Image:
    """An image with edges, flat parts and noise."""
    random = np.random.default_rng(1)
    image = np.full((64, 64), 60.0)
    cv2.circle(image, (30, 34), 15, 200.0, -1)
    cv2.rectangle(image, (5, 5), (20, 60), 120.0, -1)
    return cv2.GaussianBlur(image, (0, 0), 1.0) + random.normal(0, 1, image.shape)
