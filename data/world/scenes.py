"""The background of a video: a textured, hardly coloured picture with decoys painted into it."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from tad_distill.data.world.config import ObjectConfig, SceneConfig
from tad_distill.data.world.objects import Image, Look, colourise, draw_look, sprite

# Mean luminance of every background; objects are a little brighter or darker.
BACKGROUND_LUMA = 0.5


@dataclass(frozen=True)
class Backdrop:
    """What the background of one video shows.

    Attributes:
        scene: Which kind.
        seed: Of what is random within the kind.
        decoys: Objects that never move, with the places of their centres, of the frame's side.
    """

    scene: int
    seed: int
    decoys: tuple[tuple[Look, float, float], ...]


def draw_backdrop(
    rng: np.random.Generator,
    scene: int,
    colours: list[str],
    num_decoys: tuple[int, int],
    objects: ObjectConfig,
    source: bool = False,
) -> Backdrop:
    """Draw decoys, in the given colours, and the background's seed."""
    decoys = []
    for _ in range(rng.integers(num_decoys[0], num_decoys[1] + 1)):
        look = draw_look(rng, str(rng.choice(colours)), objects, BACKGROUND_LUMA, source)
        decoys.append((look, float(rng.uniform(0.1, 0.9)), float(rng.uniform(0.1, 0.9))))
    return Backdrop(scene=scene, seed=int(rng.integers(2**31)), decoys=tuple(decoys))


def paint(
    backdrop: Backdrop, side: int, margin: int, config: SceneConfig, objects: ObjectConfig
) -> Image:
    """Paint a background.

    Args:
        backdrop: What it shows.
        side: The frame's side in pixels.
        margin: Pixels painted beyond each edge of the frame, for the camera to move over.
        config: Contrast and tint.
        objects: Contrast and colourfulness of the decoys.

    Returns:
        ``(side + 2 margin, side + 2 margin, 3)`` RGB, 0 to 1.
    """
    rng = np.random.default_rng(backdrop.seed)
    full = side + 2 * margin
    axis = (np.arange(full, dtype=np.float32) - margin + 0.5) / side
    y, x = np.meshgrid(axis, axis, indexing="ij")
    angle = 0.6 * backdrop.scene + rng.normal(0, 0.15)
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    u, v = u + rng.uniform(), v + rng.uniform()
    clouds = _clouds(rng, full, 7)
    pattern = 0.9 * _PATTERNS[backdrop.scene % len(_PATTERNS)](u, v) + 0.7 * clouds
    pattern = (pattern - pattern.mean()) / pattern.std()
    luma = np.clip(BACKGROUND_LUMA + config.contrast / 2 * np.clip(pattern, -2, 2), 0.02, 0.98)
    hue = 9 + 180 * backdrop.scene / config.num_scenes + rng.normal(0, 3)
    image = colourise(luma.astype(np.float32), float(hue) % 180, config.tint)
    for look, at_x, at_y in backdrop.decoys:
        drawn = sprite(look, max(4, round(look.diameter * side)), objects)
        _paste(image, drawn, margin + at_x * side, margin + at_y * side)
    return image


def _clouds(rng: np.random.Generator, side: int, cells: int) -> Image:
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def _paste(image: Image, drawn: Image, x: float, y: float) -> None:
    """Lay a sprite over the image in place, its centre at (x, y) in pixels."""
    half, full = drawn.shape[0] // 2, image.shape[0]
    left, top = round(x) - half, round(y) - half
    rows = slice(max(0, top), min(full, top + len(drawn)))
    cols = slice(max(0, left), min(full, left + len(drawn)))
    part = drawn[rows.start - top : rows.stop - top, cols.start - left : cols.stop - left]
    image[rows, cols] *= 1 - part[..., 3:]
    image[rows, cols] += part[..., :3]


def _stripes(u: NDArray, v: NDArray) -> NDArray:
    return np.sin(2 * np.pi * 3 * u)


def _tiles(u: NDArray, v: NDArray) -> NDArray:
    return np.tanh(4 * np.sin(2 * np.pi * 1.5 * u) * np.sin(2 * np.pi * 1.5 * v))


def _spots(u: NDArray, v: NDArray) -> NDArray:
    return np.tanh(3 * (np.cos(2 * np.pi * 2.5 * u) + np.cos(2 * np.pi * 2.5 * v) - 0.8))


def _slope(u: NDArray, v: NDArray) -> NDArray:
    return 3 * (u - u.mean())


def _waves(u: NDArray, v: NDArray) -> NDArray:
    return np.sin(2 * np.pi * (2 * u + 0.25 * np.sin(2 * np.pi * 1.5 * v)))


_PATTERNS = (_stripes, _tiles, _spots, _slope, _waves)
