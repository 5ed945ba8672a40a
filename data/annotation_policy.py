"""What is done about doubtful annotations, and how often it was done."""

import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tad_distill import console
from tad_distill.console import UserError
from tad_distill.data.annotation_raw import RawAnnotation, RawVideo
from tad_distill.data.timeline import Timeline

# Annotations of one label whose ends are both this near are one annotation written twice, and
# shorter ones have no length: the rule of ActionFormer (libs/utils/metrics.py at 61ea7eb).
SAME_S = 1e-3

# What a policy is about, as it is called in counts.
FINDINGS = ("duplicates", "ambiguous", "zero_length", "reversed", "out_of_range", "outside")

# How many faulty annotations are named one by one before they are only counted.
NUM_NAMED = 3

# What UCF101 states for its videos; its annotations count in frames and state no rate.
UCF101_FPS = 25.0


@dataclass(frozen=True)
class Policy:
    """What is done about doubtful annotations. The defaults suit training; scoring has protocols.

    Attributes:
        duplicates: The same label with both ends within 1 ms of an earlier one in the video.
        ambiguous: The mark "Ambiguous" of THUMOS'14, which is no action.
        zero_length: Annotations that do not last. ``drop_empty`` drops those of exactly no
            length, ``drop`` those under 1 ms too.
        reversed: The end lies before the start.
        out_of_range: Parts before 0 or after the duration. ``clip`` cuts them off; what lies
            wholly outside is dropped and counted as ``outside``.
        fps: Frames per second of the videos for which a file that counts in frames states none.
    """

    duplicates: Literal["keep", "drop"] = "drop"
    ambiguous: Literal["keep", "drop"] = "drop"
    zero_length: Literal["keep", "drop_empty", "drop"] = "drop"
    reversed: Literal["keep", "drop", "error"] = "drop"
    out_of_range: Literal["keep", "clip", "error"] = "clip"
    fps: float | None = None


class Cleaner:
    """Applies a policy, video by video, and counts what it finds.

    Attributes:
        findings: By video, how often something was found (``duplicates``) and how often an
            annotation was dropped for it (``duplicates_dropped``); what never happened is absent.
    """

    def __init__(self, path: Path, policy: Policy, form: str) -> None:
        """Begin a file of the given form."""
        self.path = path
        self.policy = policy
        self.form = form
        self.findings: dict[str, Counter[str]] = {}
        self._num_reversed = 0

    def _found(self, video: str, what: str, drop: bool) -> bool:
        """Count a finding, and whether the annotation goes; returns that."""
        counter = self.findings.setdefault(video, Counter())
        counter[what] += 1
        if drop:
            counter[f"{what}_dropped"] += 1
        return drop

    def clean(self, video: RawVideo) -> RawVideo:
        """The video with its annotations in seconds, and without what the policy drops.

        Raises:
            UserError: The policy says so, or frames cannot be turned into seconds.
        """
        frames = self._frames(video)
        duration_s = video.duration_s
        if duration_s is None and video.num_frames and frames:
            duration_s = frames.to_seconds(float(video.num_frames))
        kept: list[RawAnnotation] = []
        seen: dict[tuple[str, int], list[RawAnnotation]] = {}
        for raw in video.annotations:
            if raw.in_frames:
                assert frames is not None
                raw = replace(
                    raw,
                    start=frames.to_seconds(raw.start),
                    end=frames.to_seconds(raw.end),
                    in_frames=False,
                )
            cleaned = self._annotation(raw, video.name, duration_s)
            if cleaned is not None and not self._repeats(cleaned, video.name, seen):
                kept.append(cleaned)
        return replace(video, duration_s=duration_s, annotations=tuple(kept))

    def _frames(self, video: RawVideo) -> Timeline | None:
        """The frames of the video on the time axis, where the file counts in frames."""
        if not any(annotation.in_frames for annotation in video.annotations):
            return None
        fps = video.fps or self.policy.fps or (UCF101_FPS if self.form == "UCF101" else None)
        if fps is None:
            raise UserError(
                f"{self.path}: {video.name}: the annotations count in frames and no frame rate is "
                "stated; name a table of frame rates by video, or one rate for all"
            )
        if video.fps is None:
            self._found(video.name, "fps_assumed", drop=False)
        return Timeline(fps=fps, stride_frames=1, offset_frames=0)

    def _annotation(
        self, raw: RawAnnotation, video: str, duration_s: float | None
    ) -> RawAnnotation | None:
        if raw.label.lower() == "ambiguous" and self._found(
            video, "ambiguous", self.policy.ambiguous == "drop"
        ):
            return None
        if raw.end < raw.start:
            return self._reversed(raw, video)
        cut = self._in_range(raw, video, math.inf if duration_s is None else duration_s)
        if cut is None or cut.end - cut.start >= SAME_S:
            return cut
        empty_goes = self.policy.zero_length == "drop_empty" and cut.end == cut.start
        goes = self._found(video, "zero_length", self.policy.zero_length == "drop" or empty_goes)
        return None if goes else cut

    def _reversed(self, raw: RawAnnotation, video: str) -> RawAnnotation | None:
        message = (
            f"{self.path}: {video}: annotation {raw.index}: ends before it starts: "
            f"[{raw.start:g}, {raw.end:g}]"
        )
        if self.policy.reversed == "error":
            raise UserError(message)
        if not self._found(video, "reversed", self.policy.reversed == "drop"):
            return raw
        self._num_reversed += 1
        if self._num_reversed <= NUM_NAMED:
            console.warn(f"{message}; left out")
        return None

    def _in_range(self, raw: RawAnnotation, video: str, last_s: float) -> RawAnnotation | None:
        """Cut off what lies before 0 or after ``last_s``, by the policy."""
        if raw.start >= -SAME_S and raw.end <= last_s + SAME_S:
            return raw
        if self.policy.out_of_range == "error":
            raise UserError(
                f"{self.path}: {video}: annotation {raw.index}: [{raw.start:g}, {raw.end:g}] s "
                f"is not within the video, which lasts {last_s:g} s"
            )
        clip = self.policy.out_of_range == "clip"
        if raw.end <= 0 or raw.start >= last_s:
            return None if self._found(video, "outside", clip) else raw
        self._found(video, "out_of_range", drop=False)
        return replace(raw, start=max(raw.start, 0), end=min(raw.end, last_s)) if clip else raw

    def _repeats(
        self, new: RawAnnotation, video: str, seen: dict[tuple[str, int], list[RawAnnotation]]
    ) -> bool:
        """Whether an annotation repeats an earlier one and has to go.

        ``seen`` holds the earlier ones by label and whole multiples of ``SAME_S``, so that the
        time does not grow with their square.
        """
        cell = math.floor(new.start / SAME_S)
        for near in (cell - 1, cell, cell + 1):
            for old in seen.get((new.label, near), ()):
                if abs(old.start - new.start) <= SAME_S and abs(old.end - new.end) <= SAME_S:
                    return self._found(video, "duplicates", self.policy.duplicates == "drop")
        seen.setdefault((new.label, cell), []).append(new)
        return False
