"""Every knob of the rendered world, and the three sizes it is shipped in.

Lengths are fractions of the frame's side unless a name ends in ``_px``; those are pixels of a
48-pixel frame and grow with the frame.
"""

from dataclasses import dataclass, field
from typing import Any

# Goes up whenever the same settings and seed would give other frames or annotations.
VERSION = 1

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ObjectConfig:
    """How an object looks and how far it moves.

    Luminance (BT.601) never depends on the hue, so that gradients of luminance do not tell the
    colour.

    Attributes:
        hue_jitter: Standard deviation of the hue around its colour's, of OpenCV's 180; colours
            are 36 apart.
        chroma: Share of the colourfulness that all hues have room for at a given luminance.
        scale: Diameter of an object.
        amplitude: How much of its full extent or speed a motion has.
        texture_contrast: Luminance between the dark and the bright parts of a texture.
        shape_contrast: Luminance between an object's mean and the background's, either way.
    """

    hue_jitter: float = 6.0
    chroma: float = 0.95
    scale: Range = (0.34, 0.52)
    amplitude: Range = (0.45, 1.0)
    texture_contrast: float = 0.4
    shape_contrast: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        _ordered("scale", self.scale, 0.05, 0.9)
        _ordered("amplitude", self.amplitude, 0.0, 4.0)
        _within("chroma", self.chroma, 0.0, 1.0)
        _within("hue_jitter", self.hue_jitter, 0.0, 90.0)
        _within("texture_contrast", self.texture_contrast, 0.0, 0.9)
        _within("shape_contrast", self.shape_contrast, 0.0, 0.4)


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """The background and how much it betrays the label.

    Attributes:
        num_scenes: Kinds of background.
        rho: With this probability an instance's label is drawn from those at home in the
            video's scene, else from all; the same in every split.
        contrast: Luminance between the dark and the bright parts of the background.
        tint: Colourfulness of the background, on the scale of ``objects.chroma``.
        num_decoys: Objects painted into the background, fewest and most.
    """

    num_scenes: int = 5
    rho: float = 0.3
    contrast: float = 0.24
    tint: float = 0.2
    num_decoys: tuple[int, int] = (0, 2)

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        _within("num_scenes", self.num_scenes, 1, 15)
        _within("rho", self.rho, 0.0, 1.0)
        _within("contrast", self.contrast, 0.0, 0.8)
        _within("tint", self.tint, 0.0, 1.0)
        _ordered("num_decoys", self.num_decoys, 0, 20)


@dataclass(frozen=True, kw_only=True)
class CameraConfig:
    """What the camera adds.

    Attributes:
        jitter_px: Standard deviation of the shake.
        pan: Way of the slow pan over the background.
        parallax: Share of the camera's movement that objects follow; the background follows all.
        gain_drift: Relative size of the slow change of brightness.
        noise: Standard deviation of the pixel noise, of the range 0 to 1.
    """

    jitter_px: float = 0.5
    pan: float = 0.09
    parallax: float = 0.6
    gain_drift: float = 0.08
    noise: float = 0.02

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        for name in ("jitter_px", "pan", "parallax", "gain_drift", "noise"):
            _within(name, getattr(self, name), 0.0, 5.0 if name == "jitter_px" else 1.0)


@dataclass(frozen=True, kw_only=True)
class TimeConfig:
    """When things happen.

    Attributes:
        video_s: Duration of a video.
        median_s: Median duration of an instance (log-normal).
        sigma: Standard deviation of the logarithm of the duration.
        limits_s: Shortest and longest instance.
        gap_s: Mean of the exponential gap between instances.
        gap_limits_s: Shortest and longest gap.
        idle_s: Longest stay without action before and after an instance.
        distractors_per_minute: Further objects that never act.
        distractor_s: Shortest and longest stay of such an object.
    """

    video_s: float = 20.0
    median_s: float = 2.0
    sigma: float = 0.6
    limits_s: Range = (0.6, 8.0)
    gap_s: float = 2.2
    gap_limits_s: Range = (0.4, 6.0)
    idle_s: float = 1.2
    distractors_per_minute: float = 6.0
    distractor_s: Range = (1.0, 5.0)

    def __post_init__(self) -> None:
        """Refuse a video without room for one instance."""
        _ordered("limits_s", self.limits_s, 0.1, 1e4)
        _ordered("gap_limits_s", self.gap_limits_s, 0.0, 1e4)
        _ordered("distractor_s", self.distractor_s, 0.1, 1e4)
        _within("distractors_per_minute", self.distractors_per_minute, 0.0, 120.0)
        needed = self.limits_s[0] + 2 * max(self.gap_limits_s[0], 0.5)
        if self.video_s < needed:
            raise ValueError(f"video_s: {self.video_s:g} has no room, expected >= {needed:g}")


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """The trimmed source clips, of other objects, for pretraining.

    Attributes:
        num_training: Clips to train on.
        num_validation: Held-out clips.
        num_frames: Frames of one clip.
        per_reel: Clips in one file.
        num_decoys: Objects painted into a clip's background, fewest and most.
    """

    num_training: int = 4000
    num_validation: int = 400
    num_frames: int = 10
    per_reel: int = 200
    num_decoys: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        _within("num_frames", self.num_frames, 2, 1000)
        _within("per_reel", self.per_reel, 1, 100000)
        _within("num_training", self.num_training, 0, 10**7)
        _within("num_validation", self.num_validation, 0, 10**7)
        _ordered("num_decoys", self.num_decoys, 0, 20)


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """A world: how many videos, how large, and what is in them.

    Attributes:
        side_px: Height and width of a frame.
        fps: Frames per second.
        num_training: Videos in the subset ``training``.
        num_validation: Videos in the subset ``validation``.
        num_test: Videos in the subset ``test``.
    """

    side_px: int = 48
    fps: int = 8
    num_training: int = 60
    num_validation: int = 30
    num_test: int = 50
    time: TimeConfig = field(default_factory=TimeConfig)
    objects: ObjectConfig = field(default_factory=ObjectConfig)
    scenes: SceneConfig = field(default_factory=SceneConfig)
    camera: CameraConfig = field(default_factory=CameraConfig)
    clips: ClipConfig = field(default_factory=ClipConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot be written."""
        _within("side_px", self.side_px, 16, 1024)
        if self.side_px % 2:
            raise ValueError(f"side_px: the codec needs an even number, got {self.side_px}")
        _within("fps", self.fps, 2, 120)
        for name in ("num_training", "num_validation", "num_test"):
            _within(name, getattr(self, name), 0, 10**5)

    @property
    def num_frames(self) -> int:
        """Frames of one video."""
        return round(self.time.video_s * self.fps)


# What each size changes of the defaults above.
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "num_training": 8,
        "num_validation": 4,
        "num_test": 4,
        "time": {"video_s": 10.0},
        "clips": {"num_training": 208, "num_validation": 52, "per_reel": 104},
    },
    "demo": {},
    "full": {
        "side_px": 96,
        "num_training": 200,
        "num_validation": 80,
        "num_test": 120,
        "clips": {"num_training": 18000, "num_validation": 1800},
    },
}


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name}: expected {low:g} to {high:g}, got {value:g}")


def _ordered(name: str, pair: tuple[float, float], low: float, high: float) -> None:
    if not low <= pair[0] <= pair[1] <= high:
        raise ValueError(f"{name}: expected {low:g} <= first <= second <= {high:g}, got {pair}")
