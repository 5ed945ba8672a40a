"""Read several streams of a video on one temporal grid, so that their steps correspond.

Streams differ in stride and clip length. Every stream is read at the instants of the grid's steps
by linear interpolation, held constant beyond its first and last feature. For streams that divide
the same span into T and T' cells this is ``interpolate(mode="linear", align_corners=False)``.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from tad_distill.console import UserError
from tad_distill.data.store import Stream
from tad_distill.data.timeline import Timeline

Features = NDArray[np.floating]

# Steps that differ by no more than this share count as equal long: 29.97 and 30 frames per second.
SAME_PACE = 0.02


class Grid:
    """The common temporal grid of some streams, and their features on it.

    Features are kept in memory as long as they fit: small sets are read once.

    Args:
        streams: What to read, by name; one feature vector per step each.
        base: The stream whose own steps are the grid.
        target_len: If given, every video's grid is resampled to this many steps.
        cache_bytes: Keep whole videos in memory up to this much.
        step_s: If not 0, every video's grid is resampled to steps of this many seconds; one whose
            own steps are within 2 % of that stays as it is.
    """

    def __init__(
        self,
        streams: Mapping[str, Stream],
        base: Stream,
        target_len: int | None = None,
        cache_bytes: int = 0,
        step_s: float = 0.0,
    ) -> None:
        """Check that the streams hold vectors."""
        for name, stream in streams.items():
            if len(stream.spec.shape) != 1:
                raise UserError(
                    f"stream {name}: a step has shape {stream.spec.shape}, a detector reads "
                    "vectors; use the pooled stream"
                )
        self.streams = dict(streams)
        self.base = base
        self.target_len = target_len
        self.step_s = step_s
        self.dims = {name: stream.spec.shape[0] for name, stream in streams.items()}
        self._room = cache_bytes
        self._cache: dict[str, dict[str, Features]] = {}

    def lacking(self, video: str) -> list[str]:
        """The streams, the base included, that have no features of a video."""
        streams = {**self.streams, self.base.name: self.base}
        return [name for name, stream in streams.items() if video not in stream]

    def num_steps(self, video: str) -> int:
        """Steps of a video's grid."""
        own, num_own = self.base.timeline(video), self.base.entry(video).num_steps
        if self._paced(own):
            return max(1, round(num_own * own.step_s / self.step_s))
        return self.target_len or num_own

    def timeline(self, video: str) -> Timeline:
        """Where the steps of a video's grid lie in time."""
        own = self.base.timeline(video)
        if self._paced(own):
            return own.paced(self.step_s)
        return own.resampled(self.base.entry(video).num_steps, self.num_steps(video))

    def _paced(self, own: Timeline) -> bool:
        return self.step_s > 0 and abs(own.step_s / self.step_s - 1) > SAME_PACE

    def read(self, video: str, start: int = 0, stop: int | None = None) -> dict[str, Features]:
        """Features of the steps ``start`` to ``stop`` of a video's grid.

        Args:
            video: Name of the video.
            start: First step.
            stop: The step after the last one; the end of the grid by default.

        Returns:
            For each stream ``(stop - start, D)``; float32 where interpolated, as stored otherwise.

        Raises:
            UserError: A stream ends long before the grid does, or begins long after.
        """
        num_steps = self.num_steps(video)
        stop = num_steps if stop is None else stop
        assert 0 <= start <= stop <= num_steps, (video, start, stop, num_steps)
        if video in self._cache:
            return {name: feats[start:stop] for name, feats in self._cache[video].items()}
        size = 4 * num_steps * sum(self.dims.values())
        if size > self._room:
            return {name: self._read(name, video, start, stop) for name in self.streams}
        self._room -= size
        self._cache[video] = {name: self._read(name, video, 0, num_steps) for name in self.streams}
        return self.read(video, start, stop)

    def _read(self, name: str, video: str, start: int, stop: int) -> Features:
        stream, grid = self.streams[name], self.timeline(video)
        own, num_own = stream.timeline(video), stream.entry(video).num_steps
        if own == grid and num_own == self.num_steps(video):
            return stream.read(video, start, stop)
        ends = own.to_grid(grid.to_seconds(np.array([0.0, self.num_steps(video) - 1.0])))
        # A clip's centre lies inside the video, so half a clip at each end has no feature.
        slack = 1 + (own.offset_frames / own.fps + grid.offset_frames / grid.fps) / own.step_s
        if ends[0] < -slack or ends[1] > num_own - 1 + slack:
            first, last = own.to_seconds(np.array([0.0, num_own - 1.0]))
            begin, end = grid.to_seconds(np.array([0.0, self.num_steps(video) - 1.0]))
            raise UserError(
                f"video {video}: stream {name} has features from {first:.2f} s to {last:.2f} s, "
                f"the grid of stream {self.base.name} goes from {begin:.2f} s to {end:.2f} s; "
                "the two were made from different cuts of the video, extract one of them again"
            )
        positions = own.to_grid(grid.to_seconds(np.arange(start, stop, dtype=np.float64)))
        return interpolate(lambda low, high: stream.read(video, low, high), num_own, positions)


def interpolate(
    read: Callable[[int, int], Features], num_steps: int, positions: NDArray[np.floating]
) -> Features:
    """Linear interpolation of features, reading no more than it needs.

    Args:
        read: Gives features ``(stop - start, D)`` of the steps ``start`` to ``stop``.
        num_steps: How many steps there are, at least 1.
        positions: ``(P,)`` ascending real positions; those beyond the ends read the end.

    Returns:
        ``(P, D)`` float32.
    """
    # Conversion to seconds and back leaves noise; whole positions shall give features unchanged.
    inside = np.clip(np.round(positions, 6), 0, num_steps - 1)
    low = np.floor(inside).astype(np.int64)
    high = np.minimum(low + 1, num_steps - 1)
    if not len(positions):
        return read(0, 0).astype(np.float32)
    feats = read(int(low[0]), int(high[-1]) + 1).astype(np.float32)
    weight = (inside - low).astype(np.float32)[:, None]
    below, above = feats[low - low[0]], feats[high - low[0]]
    return below + weight * (above - below)
