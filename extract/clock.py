"""When each decoded frame is shown, and which frames stand for the ticks of a constant rate."""

import math

# A claimed rate above this is a time base and not a rate (WMV and some WebM claim 1000).
MAX_FPS = 480.0

# Stands in where a file tells neither its rate nor its times.
FALLBACK_FPS = 25.0

# A jump beyond the claimed end and longer than this is a broken time, not a still picture.
MAX_GAP_S = 60.0

# Claimed and measured rates further apart than this are not the same rate.
SAME_RATE = 0.01


class Clock:
    """Makes the times of a file's frames ascend.

    A time that is missing (0), not later than the one before it or absurdly far ahead is replaced
    by one frame after the one before it. So a file without times gets ``index / fps``.

    Attributes:
        nominal_fps: The rate that replaced times step by.
        time_s: Of the last frame, since the first.
        num_repaired: Times that were replaced.
    """

    def __init__(self, fps: float | None, duration_s: float | None) -> None:
        """Start before the first frame.

        Args:
            fps: Claimed rate, None where there is none.
            duration_s: Claimed length, None where there is none.
        """
        self.nominal_fps = fps or FALLBACK_FPS
        self.time_s = 0.0
        self.num_repaired = 0
        self._claimed_fps = fps
        self._claimed_s = duration_s or 0.0
        self._start_s: float | None = None
        self._num_frames = 0
        self._gaps_s = (float("inf"), 0.0)

    def advance(self, raw_s: float, damaged: bool = False) -> int:
        """Take the next frame.

        Args:
            raw_s: The frame's own time, from any origin.
            damaged: Whether frames may have been lost between it and the one before it.

        Returns:
            How many frames at the nominal rate the frame before it stands for: one, unless frames
            were lost; zero for the first call.
        """
        if self._start_s is None:
            self._start_s = raw_s
            self._num_frames = 1
            return 0
        gap_s = raw_s - self._start_s - self.time_s
        stands_for = 1
        if not 0 < gap_s <= max(MAX_GAP_S, self._claimed_s - self.time_s):
            self.num_repaired += 1
            gap_s = 1 / self.nominal_fps
        elif damaged:
            stands_for = max(1, round(gap_s * self.nominal_fps))
        else:
            self._gaps_s = (min(self._gaps_s[0], gap_s), max(self._gaps_s[1], gap_s))
        self.time_s += gap_s
        self._num_frames += stands_for
        return stands_for

    @property
    def mean_fps(self) -> float:
        """The claimed rate, or the measured one where nothing is claimed or the two disagree."""
        if self.time_s == 0:
            return self.nominal_fps
        measured = (self._num_frames - 1) / self.time_s
        claimed = self._claimed_fps
        agrees = claimed is not None and abs(measured / claimed - 1) <= SAME_RATE
        return claimed if claimed is not None and agrees else measured

    @property
    def duration_s(self) -> float:
        """From the first frame to the end of the last."""
        return self.time_s + 1 / self.mean_fps

    @property
    def varies(self) -> bool:
        """Whether some frames are shown more than twice as long as others."""
        shortest, longest = self._gaps_s
        return longest > 2 * shortest


class NearestTicks:
    """The streaming form of :func:`tad_distill.data.timeline.nearest_frames`, in constant memory.

    >>> ticks = NearestTicks(fps=12.5)
    >>> [ticks.push(time_s) for time_s in (0.0, 0.04, 0.08, 0.12)], ticks.finish(0.16)
    ([0, 1, 0, 1], 0)
    """

    # As in nearest_frames: float noise must not decide a tie.
    _EPS = 1e-6

    def __init__(self, fps: float) -> None:
        """Start before the first frame, at ``fps`` ticks per second."""
        self._fps = fps
        self._next = 0
        self._time_s: float | None = None

    def push(self, time_s: float) -> int:
        """Take the next frame's time since the first, ascending.

        Returns:
            How many ticks the frame before it stands for; 0 for the first call.
        """
        if self._time_s is None:
            self._time_s = time_s
            return 0
        last = (time_s + self._time_s) / 2 + self._EPS
        self._time_s = time_s
        first = self._next
        while self._next / self._fps <= last:
            self._next += 1
        return self._next - first

    def finish(self, end_s: float) -> int:
        """How many ticks the last frame stands for; it goes ``end_s`` after the first one came."""
        assert self._time_s is not None, "no frame"
        num_ticks = max(1, math.ceil((end_s - self._EPS) * self._fps))
        return max(0, num_ticks - self._next)
