"""How an object moves, frame by frame.

A *motion* is what a label names. A *non-action* is what an object does before, after and instead:
it moves too, so that a detector of mere change fails.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Track = NDArray[np.float64]

BENCHMARK_MOTIONS = ("spin", "bounce", "sway")
SOURCE_MOTIONS = ("spin", "bounce", "sway", "pulse", "shake", "orbit", "flip", "zigzag")
NON_ACTIONS = ("idle", "drift", "jerk", "tilt", "flicker")

# Cycles per second, slowest and fastest.
RATES = {
    "spin": (0.5, 1.1),
    "bounce": (1.0, 1.8),
    "sway": (0.6, 1.2),
    "pulse": (0.7, 1.3),
    "shake": (2.2, 3.2),
    "orbit": (0.5, 1.0),
    "flip": (0.5, 1.0),
    "zigzag": (0.8, 1.4),
}
# Extent at amplitude 1, of the frame's side.
BOUNCE, SWAY, SHAKE, ORBIT, ZIGZAG = 0.28, 0.2, 0.07, 0.13, 0.14


@dataclass(frozen=True)
class Poses:
    """Where an object is in each frame; every attribute is ``(T,)``.

    Attributes:
        x: Of the frame's side, to the right.
        y: Of the frame's side, downwards.
        angle: Radians.
        width: Factor on the sprite's width; negative is mirrored.
        height: Factor on the sprite's height.
        gain: Factor on the sprite's brightness.
    """

    x: Track
    y: Track
    angle: Track
    width: Track
    height: Track
    gain: Track

    def __len__(self) -> int:
        """Frames."""
        return len(self.x)

    def __getitem__(self, part: slice) -> "Poses":
        """Some of the frames."""
        return Poses(*(getattr(self, f.name)[part] for f in fields(self)))

    def moved(self, x: float, y: float) -> "Poses":
        """The same poses elsewhere."""
        return Poses(self.x + x, self.y + y, self.angle, self.width, self.height, self.gain)


def rest(num_frames: int) -> Poses:
    """No motion at all."""
    zero, one = np.zeros(num_frames), np.ones(num_frames)
    return Poses(zero, zero, zero, one, one, one)


def join(parts: list[Poses]) -> Poses:
    """One after the other: place, angle and mirroring go on from where the part before ended."""
    x = y = angle = 0.0
    width = 1.0
    moved = []
    for part in parts:
        moved.append(
            Poses(
                part.x + x,
                part.y + y,
                part.angle + angle,
                part.width * width,
                part.height,
                part.gain,
            )
        )
        x, y, angle = moved[-1].x[-1], moved[-1].y[-1], moved[-1].angle[-1]
        width = np.sign(moved[-1].width[-1])
    return Poses(*(np.concatenate([getattr(p, f.name) for p in moved]) for f in fields(Poses)))


def act(
    kind: str, num_frames: int, fps: float, amplitude: float, rng: np.random.Generator
) -> Poses:
    """A motion that begins and ends at rest.

    Frame 0 is already one step away from rest and the last frame is at rest again (a spin rests
    at whatever angle), so exactly these frames differ from the frame before them. To end at rest
    the rate is rounded to whole cycles, or half cycles where those end there.

    Args:
        kind: One of :data:`SOURCE_MOTIONS`.
        num_frames: T.
        fps: Frames per second.
        amplitude: 0 to 1.
        rng: Draws rate and direction.
    """
    rate, sign = rng.uniform(*RATES[kind]), rng.choice([-1.0, 1.0])
    seconds = num_frames / fps
    if kind != "spin":
        per_cycle = 2 if kind in ("sway", "flip", "shake", "zigzag") else 1
        rate = max(1, round(rate * seconds * per_cycle)) / per_cycle / seconds
    cycles = rate * np.arange(1, num_frames + 1) / fps
    turn, still = 2 * np.pi * cycles, rest(num_frames)
    x, y, angle, width, height = still.x, still.y, still.angle, still.width, still.height
    if kind == "spin":
        angle = sign * amplitude * turn
    elif kind == "bounce":
        y = -amplitude * BOUNCE * np.abs(np.sin(np.pi * cycles))
    elif kind == "sway":
        x = sign * amplitude * SWAY * np.sin(turn)
    elif kind == "pulse":
        width = height = 1 + sign * 0.4 * amplitude * np.sin(turn)
    elif kind == "shake":
        x = y = sign * amplitude * SHAKE * np.sin(turn)
    elif kind == "orbit":
        x, y = amplitude * ORBIT * np.sin(turn), sign * amplitude * ORBIT * (np.cos(turn) - 1)
    elif kind == "flip":
        width = np.cos(turn)
    elif kind == "zigzag":
        x = amplitude * ZIGZAG * 2 / np.pi * np.arcsin(np.sin(turn))
        y = sign * amplitude * ZIGZAG * cycles / max(cycles[-1], 1.5)
    else:
        raise AssertionError(kind)
    return Poses(x, y, angle, width, height, still.gain)


def loiter(kind: str, num_frames: int, fps: float, rng: np.random.Generator) -> Poses:
    """A non-action, of :data:`NON_ACTIONS`, over ``num_frames`` frames, one at least."""
    still = rest(num_frames)
    x, y, angle, gain = still.x, still.y, still.angle, still.gain
    seconds = np.arange(1, num_frames + 1) / fps
    way = rng.uniform(0, 2 * np.pi)
    if kind == "drift":
        # No farther than a sixth of the frame, however long it takes.
        reach = np.minimum(rng.uniform(0.06, 0.14) * seconds, 0.16)
        x, y = reach * np.cos(way), reach * np.sin(way)
    elif kind == "jerk":
        for frame in rng.integers(0, num_frames, max(1, rng.poisson(0.8 * seconds[-1]))):
            length, way = rng.uniform(0.05, 0.11), rng.uniform(0, 2 * np.pi)
            after = np.arange(num_frames) >= frame
            x, y = x + length * np.cos(way) * after, y + length * np.sin(way) * after
    elif kind == "tilt":
        ramp = (1 - np.cos(np.pi * seconds / seconds[-1])) / 2
        angle = rng.choice([-1, 1]) * np.deg2rad(rng.uniform(15, 40)) * ramp
    elif kind == "flicker":
        gain = 1 + rng.uniform(0.1, 0.25) * rng.uniform(-1, 1, num_frames)
    else:
        assert kind == "idle", kind
    return Poses(x, y, angle, still.width, still.height, gain)
