"""What an object looks like: colour, shape and texture, drawn once as a sprite.

The benchmark and the clips for pretraining share no colour and no shape. An object's class is
its colour alone; shape and texture are drawn at random for every instance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tad_distill.data.world.config import ObjectConfig

# float32, 0 to 1; what OpenCV returns is typed too loosely to say so.
Image = NDArray[Any]

# Hues of OpenCV's 180. The source's lie half a step from the benchmark's.
BENCHMARK_COLOURS = {"red": 0.0, "lime": 36.0, "green": 72.0, "blue": 108.0, "violet": 144.0}
SOURCE_COLOURS = {"orange": 18.0, "leaf": 54.0, "cyan": 90.0, "indigo": 126.0, "pink": 162.0}
BENCHMARK_SHAPES = ("disc", "square", "triangle", "star")
SOURCE_SHAPES = ("ellipse", "hexagon", "cross", "ring")

# Weights of red, green and blue in luminance: BT.601, as in OpenCV's grey and in the codec.
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
# The largest distance of a channel from the luminance that a saturated hue reaches (blue).
_REACH = 1 - float(LUMA[2])


@dataclass(frozen=True)
class Look:
    """The appearance of one object.

    Attributes:
        colour: Name of the colour, the object's class.
        hue: Its own hue, of 180.
        shape: One of the shapes.
        texture: One of :data:`TEXTURES`.
        luma: Mean luminance, 0 to 1.
        diameter: Of the frame's side.
        heading: Angle at which it stands, radians; so a still frame does not tell a spin.
        turn: Angle between texture and shape, radians.
        seed: Of what is random in the texture.
    """

    colour: str
    hue: float
    shape: str
    texture: str
    luma: float
    diameter: float
    heading: float
    turn: float
    seed: int


def draw_look(
    rng: np.random.Generator,
    colour: str,
    config: ObjectConfig,
    background_luma: float,
    source: bool = False,
) -> Look:
    """Draw the appearance of one object of a colour."""
    hues, shapes = (
        (SOURCE_COLOURS, SOURCE_SHAPES) if source else (BENCHMARK_COLOURS, BENCHMARK_SHAPES)
    )
    return Look(
        colour=colour,
        hue=float(hues[colour] + config.hue_jitter * rng.standard_normal()) % 180,
        shape=str(rng.choice(shapes)),
        texture=str(rng.choice(list(TEXTURES))),
        luma=float(background_luma + rng.choice([-1, 1]) * config.shape_contrast),
        diameter=float(rng.uniform(*config.scale)),
        heading=float(rng.uniform(0, 2 * np.pi)),
        turn=float(rng.uniform(0, 2 * np.pi)),
        seed=int(rng.integers(2**31)),
    )


def colourise(luma: Image, hue: float, chroma: float) -> Image:
    """Give a luminance image one hue without changing its luminance.

    A pixel of luminance Y becomes ``Y + k (c - luma(c))``, c the pure hue: hue and luminance are
    exact, and ``k = chroma * min(Y, 1 - Y) / 0.886`` keeps every hue equally colourful and
    inside 0 to 1.

    Args:
        luma: ``(H, W)`` luminance, 0 to 1.
        hue: Of OpenCV's 180.
        chroma: 0 to 1.

    Returns:
        ``(H, W, 3)`` RGB, 0 to 1.
    """
    pure = pure_hue(hue)
    strength = chroma / _REACH * np.minimum(luma, 1 - luma)
    rgb: Image = luma[..., None] + strength[..., None] * (pure - pure @ LUMA)
    return rgb


def pure_hue(hue: float) -> NDArray[np.float32]:
    """RGB of a fully saturated hue of OpenCV's 180.

    >>> pure_hue(0).tolist(), pure_hue(60).tolist(), pure_hue(150).tolist()
    ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0])
    """
    distance = (hue / 30 + np.array([0.0, 4.0, 2.0])) % 6
    return np.clip(np.abs(distance - 3) - 1, 0, 1).astype(np.float32)


def sprite(look: Look, side: int, config: ObjectConfig) -> Image:
    """Draw an object.

    Args:
        look: What to draw.
        side: Height and width of the sprite, its diameter in pixels.
        config: Contrast and colourfulness.

    Returns:
        ``(side, side, 4)`` RGB times alpha, and alpha.
    """
    axis = (np.arange(side, dtype=np.float32) + 0.5) * (2 / side) - 1
    x, y = np.meshgrid(axis, axis)
    x, y = _turned(x, y, look.heading)
    alpha = _alpha(look.shape, x, y, side)
    u, v = _turned(x, y, look.turn)
    pattern = TEXTURES[look.texture](u, v, np.random.default_rng(look.seed))
    # The slope makes every combination of shape and texture change when it is turned.
    pattern = pattern + 0.5 * u
    mean = (pattern * alpha).sum() / alpha.sum()
    spread = np.sqrt(((pattern - mean) ** 2 * alpha).sum() / alpha.sum())
    pattern = np.clip((pattern - mean) / spread, -1.6, 1.6)
    luma = np.clip(look.luma + config.texture_contrast / 2 * pattern, 0.06, 0.94)
    rgb = colourise(luma.astype(np.float32), look.hue, config.chroma)
    return np.concatenate([rgb * alpha[..., None], alpha[..., None]], axis=2)


def _turned(x: Image, y: Image, angle: float) -> tuple[Image, Image]:
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * x + sin * y, cos * y - sin * x


def _alpha(shape: str, x: Image, y: Image, side: int) -> Image:
    """Coverage of each pixel: the outline is a radius for every direction."""
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    edge = np.broadcast_to(np.asarray(_OUTLINES[shape](angle), np.float32), radius.shape)
    cover = np.clip((edge - radius) * side / 2 + 0.5, 0, 1)
    if shape == "ring":
        cover = cover * np.clip((radius - 0.4) * side / 2 + 0.5, 0, 1)
    return cover.astype(np.float32)


def _polygon(sides: int) -> Callable[[Image], Image]:
    step = 2 * np.pi / sides
    return lambda angle: np.cos(step / 2) / np.cos((angle + np.pi / 2) % step - step / 2)


def _star(angle: Image) -> Image:
    step = 2 * np.pi / 5
    tip = np.abs((angle + np.pi / 2) % step - step / 2) / (step / 2)
    return 0.45 + 0.55 * tip**1.5


def _cross(angle: Image) -> Image:
    main = np.maximum(np.abs(np.cos(angle)), np.abs(np.sin(angle)))
    side = np.minimum(np.abs(np.cos(angle)), np.abs(np.sin(angle)))
    arm: Image = np.minimum(0.95 / main, 0.36 / np.maximum(side, 1e-3))
    return arm


_OUTLINES: dict[str, Callable[[Image], Image | float]] = {
    "disc": lambda angle: 0.92,
    "square": _polygon(4),
    "triangle": _polygon(3),
    "star": _star,
    "ellipse": lambda angle: 0.6 / np.hypot(0.6 * np.cos(angle), np.sin(angle)),
    "hexagon": _polygon(6),
    "cross": _cross,
    "ring": lambda angle: 0.95,
}


def _noise(u: Image, v: Image, rng: np.random.Generator) -> Image:
    coarse = rng.standard_normal((5, 5)).astype(np.float32)
    at_u, at_v = ((c * 0.7 + 1) * 2 for c in (u, v))
    return cv2.remap(
        coarse,
        at_u.astype(np.float32),
        at_v.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )


# Patterns over coordinates from -1 to 1, coarse enough for an object of 16 pixels.
TEXTURES: dict[str, Callable[[Image, Image, np.random.Generator], Image]] = {
    "stripes": lambda u, v, rng: np.sin(8 * u + rng.uniform(0, 6)),
    "checker": lambda u, v, rng: np.tanh(6 * np.sin(4.5 * u + rng.uniform(0, 6)) * np.sin(4.5 * v)),
    "dots": lambda u, v, rng: np.cos(6 * u + rng.uniform(0, 6)) + np.cos(6 * v),
    "noise": _noise,
    "waves": lambda u, v, rng: np.sin(7 * u + 2 * np.sin(3 * v + rng.uniform(0, 6))),
    "half": lambda u, v, rng: np.tanh(8 * (u - rng.uniform(-0.25, 0.25))),
    "wedge": lambda u, v, rng: np.tanh(3 * (u - 0.2)) * np.tanh(3 * (v - rng.uniform(-0.3, 0.3))),
    "bars": lambda u, v, rng: np.tanh(4 * np.sin(5 * u + rng.uniform(0, 6))) * (0.4 + (v > 0)),
}
