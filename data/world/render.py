"""From a plan to frames: background, objects back to front, camera, noise."""

import cv2
import numpy as np
from numpy.typing import NDArray

from tad_distill.data.world.config import CameraConfig, WorldConfig
from tad_distill.data.world.objects import Image, sprite
from tad_distill.data.world.plan import Actor, Plan
from tad_distill.data.world.scenes import paint

# Frames are drawn this many times larger and averaged down, against jagged and crawling edges.
SUPERSAMPLING = 2
# A sprite seen edge-on still has this share of its width.
_THINNEST = 0.08


def render(plan: Plan, config: WorldConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a video.

    Args:
        plan: What happens.
        config: Frame size and everything about looks and camera.
        rng: Draws camera and noise.

    Returns:
        ``(T, side, side, 3)`` RGB.
    """
    side = config.side_px * SUPERSAMPLING
    shifts = _camera_path(plan.num_frames, config, rng)
    margin = int(np.ceil(np.abs(shifts).max() * side)) + 1
    ground = paint(plan.backdrop, side, margin, config.scenes, config.objects)
    sprites = [
        sprite(a.look, max(6, round(a.look.diameter * side)), config.objects) for a in plan.actors
    ]
    frames = np.empty((plan.num_frames, config.side_px, config.side_px, 3), dtype=np.float32)
    for t in range(plan.num_frames):
        dx, dy = shifts[t] * side
        matrix = np.array([[1, 0, dx - margin], [0, 1, dy - margin]], dtype=np.float32)
        canvas = cv2.warpAffine(
            ground, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        for actor, drawn in zip(plan.actors, sprites, strict=True):
            if actor.first <= t < actor.last:
                _draw(canvas, actor, drawn, t, shifts[t] * config.camera.parallax)
        frames[t] = cv2.resize(
            canvas, (config.side_px, config.side_px), interpolation=cv2.INTER_AREA
        )
    return _expose(frames, config.camera, rng)


def _draw(canvas: Image, actor: Actor, drawn: Image, t: int, shift: NDArray[np.float64]) -> None:
    """Lay one object over the canvas in place."""
    poses, i, side = actor.poses, t - actor.first, len(canvas)
    x, y = (poses.x[i] + shift[0]) * side, (poses.y[i] + shift[1]) * side
    width = np.copysign(max(abs(poses.width[i]), _THINNEST), poses.width[i])
    height = poses.height[i]
    reach = len(drawn) / 2 * max(abs(width), height) + 1
    left, top = max(0, int(x - reach)), max(0, int(y - reach))
    right, bottom = min(side, int(x + reach) + 2), min(side, int(y + reach) + 2)
    if left >= right or top >= bottom:
        return
    cos, sin = np.cos(poses.angle[i]), np.sin(poses.angle[i])
    turn = np.array([[cos * width, -sin * height], [sin * width, cos * height]])
    centre = (len(drawn) - 1) / 2
    at = np.array([x - 0.5 - left, y - 0.5 - top]) - turn @ [centre, centre]
    seen = cv2.warpAffine(
        drawn,
        np.column_stack([turn, at]).astype(np.float32),
        (right - left, bottom - top),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(0, 0, 0, 0),
    )
    part = canvas[top:bottom, left:right]
    part *= 1 - seen[..., 3:]
    part += np.float32(poses.gain[i]) * seen[..., :3]


def _camera_path(
    num_frames: int, config: WorldConfig, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Shift of the picture in each frame, ``(T, 2)``, of the frame's side: shake and slow pan."""
    camera = config.camera
    steps = rng.standard_normal((num_frames, 2)) * np.sqrt(1 - 0.8**2)
    shake = np.empty((num_frames, 2))
    state = rng.standard_normal(2)
    for t in range(num_frames):
        state = 0.8 * state + steps[t]
        shake[t] = state
    seconds = np.arange(num_frames) / config.fps
    period, phase, way = rng.uniform(15, 40), rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)
    pan = camera.pan / 2 * np.sin(2 * np.pi * seconds / period + phase)
    direction = np.array([np.cos(way), np.sin(way)])
    path: NDArray[np.float64] = camera.jitter_px / 48 * shake + pan[:, None] * direction
    return path


def _expose(frames: Image, camera: CameraConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Brightness drift, noise, eight bits. Changes ``frames``."""
    phase, turns = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 2)
    wave = np.sin(phase + turns * 2 * np.pi * np.linspace(0, 1, len(frames)))
    frames *= (1 + camera.gain_drift * wave).astype(np.float32)[:, None, None, None]
    if camera.noise:
        frames += np.float32(camera.noise) * rng.standard_normal(frames.shape, dtype=np.float32)
    np.clip(frames, 0, 1, out=frames)
    frames *= 255
    return np.rint(frames, out=frames).astype(np.uint8)
