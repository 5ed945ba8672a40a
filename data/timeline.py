"""Seconds, frames and grid steps: the only place where one turns into another.

*Frames* are counted at ``fps`` from the first frame of the video. The *grid* counts features:
grid position ``g`` (a real number) is the centre of feature ``g``, so feature 0 is at 0.0 and a
segment's ends are real numbers on the same axis.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Value = TypeVar("Value", float, NDArray[np.floating])


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Where the features of one video lie in time.

    The convention is ActionFormer's (libs/datasets/thumos14.py at 61ea7eb):
    ``grid = (seconds * fps - offset) / stride`` with the offset of half a clip.

    Attributes:
        fps: Frames per second of the frames that the features were made from.
        stride_frames: Frames between the centres of neighbouring features.
        offset_frames: The centre of feature 0, in frames.

    >>> timeline = Timeline.of_clips(fps=1, clip_frames=4, stride_frames=2)
    >>> timeline.to_seconds(0.0), timeline.to_seconds(1.0), timeline.to_grid(0.0)
    (2.0, 4.0, -1.0)
    """

    fps: float
    stride_frames: float
    offset_frames: float

    def __post_init__(self) -> None:
        """Refuse what cannot be a timeline."""
        if not (self.fps > 0 and self.stride_frames > 0):
            raise ValueError(
                f"fps and stride must be positive, got fps={self.fps}, stride={self.stride_frames}"
            )

    @classmethod
    def of_clips(cls, *, fps: float, clip_frames: float, stride_frames: float) -> "Timeline":
        """Features of clips of ``clip_frames`` frames, one every ``stride_frames``."""
        return cls(fps=fps, stride_frames=stride_frames, offset_frames=clip_frames / 2)

    def to_grid(self, seconds: Value) -> Value:
        """Seconds to grid positions; may be negative before the centre of the first clip."""
        return (seconds * self.fps - self.offset_frames) / self.stride_frames

    def to_seconds(self, grid: Value) -> Value:
        """Grid positions to seconds; the inverse of :meth:`to_grid`. Clamps nothing."""
        return (grid * self.stride_frames + self.offset_frames) / self.fps

    @property
    def step_s(self) -> float:
        """Seconds between neighbouring features."""
        return self.stride_frames / self.fps

    def cropped(self, first: int) -> "Timeline":
        """The timeline of ``features[first:]``."""
        return replace(self, offset_frames=self.offset_frames + first * self.stride_frames)

    def resampled(self, num_from: int, num_to: int) -> "Timeline":
        """The timeline after linear interpolation from ``num_from`` to ``num_to`` features.

        The rule is that of ``interpolate(mode="linear", align_corners=False)``: each feature
        stands for a cell of the grid, and the cells are re-divided evenly. For clips as long as
        their stride this is ActionFormer's ActivityNet rule.
        """
        ratio = num_from / num_to
        return replace(
            self,
            stride_frames=self.stride_frames * ratio,
            offset_frames=self.offset_frames + (ratio - 1) / 2 * self.stride_frames,
        )

    def paced(self, step_s: float) -> "Timeline":
        """The timeline of steps of this many seconds, from where the first feature's cell begins.

        >>> Timeline.of_clips(fps=10, clip_frames=8, stride_frames=8).paced(0.2).to_seconds(0.0)
        0.1
        """
        stride_frames = step_s * self.fps
        return replace(
            self,
            stride_frames=stride_frames,
            offset_frames=self.offset_frames + (stride_frames - self.stride_frames) / 2,
        )


def nearest_frames(
    times_s: NDArray[np.floating], fps: float, end_s: float | None = None
) -> NDArray[np.int64]:
    """Which frame stands for each tick of a constant rate: the nearest, ties to the earlier.

    Tick ``k`` lies ``k / fps`` seconds after the first frame; there are ticks as long as the last
    frame is shown.

    Args:
        times_s: ``(N,)`` presentation times of the frames, ascending, N >= 1.
        fps: Ticks per second.
        end_s: When the last frame goes, on the same axis; by default it is shown as long as the
            others are on average.

    Returns:
        ``(K,)`` indices into the frames, ascending; a frame may stand for several ticks or none.

    >>> nearest_frames(np.array([0.0, 0.04, 0.08, 0.12]), fps=12.5)
    array([0, 2])
    """
    times = np.asarray(times_s, dtype=np.float64) - float(times_s[0])
    if end_s is None:
        end = times[-1] + (times[-1] / (len(times) - 1) if len(times) > 1 else 1 / fps)
    else:
        end = end_s - float(times_s[0])
    # A tick may fall on the exact middle of two frames; float noise must not decide such ties.
    eps = 1e-6
    ticks = np.arange(max(1, int(np.ceil((end - eps) * fps)))) / fps
    middles = (times[1:] + times[:-1]) / 2
    return np.searchsorted(middles + eps, ticks, side="left").astype(np.int64)
