"""Annotations, video files, feature stores and detections held against each other.

Each part is optional but the annotations. Nothing is repaired: every mismatch is named, with the
video and what was found and expected, so that it can be corrected where it arose.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tad_distill import console
from tad_distill.console import UserError
from tad_distill.data.annotations import AnnotationSet, Video

if TYPE_CHECKING:
    import pandas as pd

    from tad_distill.data.store import Stream

# What a mismatch can be, and what it means.
KINDS = {
    "no_file": "an annotated video has no file",
    "no_annotation": "a file, a stream or detections have a video that is not annotated",
    "twin_files": "several files have one name",
    "broken_file": "a file is no video, or is damaged",
    "duration": "two sources state different durations",
    "outside": "an annotation reaches beyond the video",
    "no_features": "a stream lacks an annotated video",
    "failed_features": "a stream recorded that a video could not be extracted",
    "short_features": "features end before the video",
    "long_features": "features go on after the video",
    "no_detections": "an annotated video has no detections",
    "unknown_label": "detections have a label that no annotation has",
}

# Files that are opened at the same time; opening waits for the disk more than for the processor.
NUM_THREADS = 4


@dataclass(frozen=True)
class FileFacts:
    """What a probe found in a video file. ``warnings`` say in a line each what is damaged."""

    duration_s: float | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mismatch:
    """One thing that does not fit.

    Attributes:
        kind: One of ``KINDS``.
        video: Name of the video; a label for ``unknown_label``.
        where: The file, stream or table that does not fit the annotations.
        message: What was found and what was expected.
    """

    kind: str
    video: str
    where: str
    message: str


@dataclass
class Report:
    """What was held against what, and what did not fit.

    Attributes:
        checked: How many videos (or labels) each part has, by the name of the part.
        mismatches: In the order of the checks.
        hints: What many mismatches seem to have in common.
    """

    checked: dict[str, int] = field(default_factory=dict)
    mismatches: list[Mismatch] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)

    def add(self, kind: str, video: str, where: object, message: str) -> None:
        """Note a mismatch."""
        assert kind in KINDS, kind
        self.mismatches.append(Mismatch(kind, video, str(where), message))

    def without(self, kinds: Iterable[str]) -> "Report":
        """The report without some kinds of mismatch."""
        left_out = set(kinds)
        kept = [m for m in self.mismatches if m.kind not in left_out]
        return Report(self.checked, kept, self.hints)

    def counts(self) -> dict[str, int]:
        """How many mismatches there are of each kind that occurs."""
        return dict(Counter(mismatch.kind for mismatch in self.mismatches))


Probe = Callable[[Path], FileFacts]


class Checker:
    """Holds one part after the other against the annotations; ``report`` grows."""

    def __init__(self, annotations: AnnotationSet, tolerance_s: float = 0.5) -> None:
        """Begin.

        Args:
            annotations: Read with ``Policy(out_of_range="keep")``, or nothing is found outside.
            tolerance_s: Durations that differ by less are equal.
        """
        self.videos = annotations.videos
        self.labels = set(annotations.labels)
        self.tolerance_s = tolerance_s
        self.report = Report()
        self.report.checked["annotated videos"] = len(self.videos)
        self.known: frozenset[str] = frozenset(self.videos)

    def also_known(self, names: Iterable[str]) -> None:
        """Videos that are annotated but not looked at, as those of other subsets."""
        self.known = self.known | frozenset(names)

    def annotations(self) -> None:
        """Annotations against the durations that stand beside them."""
        for video in self.videos.values():
            if video.duration_s is not None:
                self._outside(video, video.duration_s, "annotations")

    def files(self, paths: Iterable[Path], probe: Probe) -> None:
        """Video files against the annotations.

        Args:
            paths: The files; the name of a video is its file's name without suffix.
            probe: Opens a file and tells its duration; raises ``UserError`` if it is no video.
        """
        by_name: dict[str, Path] = {}
        for path in paths:
            other = by_name.setdefault(path.stem, path)
            if other != path:
                self.report.add("twin_files", path.stem, path, f"{other} has the same name")
        self.report.checked["video files"] = len(by_name)
        self._names(by_name, "video files", "no_file", by_name)
        for name, found in self._probed(by_name, probe).items():
            path = by_name[name]
            for warning in found.warnings:
                self.report.add("broken_file", name, path, warning)
            if found.duration_s is None or name not in self.videos:
                continue
            video = self.videos[name]
            if video.duration_s is None:
                self._outside(video, found.duration_s, str(path))
            self._duration(video, found.duration_s, str(path))

    def stream(self, stream: "Stream") -> None:
        """One stream of a store against the annotations."""
        where = f"stream {stream.name}"
        there = stream.videos
        self.report.checked[where] = len(there)
        failed = {failure.video: failure.reason for failure in stream.failed()}
        for name, reason in failed.items():
            self.report.add("failed_features", name, where, reason)
        self._names([*there, *failed], where, "no_features", {})
        for name in there:
            entry = stream.entry(name)
            duration_s = entry.duration_s
            if name in self.videos and duration_s is not None:
                self._duration(self.videos[name], duration_s, where)
            if duration_s is None and name in self.videos:
                duration_s = self.videos[name].duration_s
            if duration_s is None:
                continue
            timeline = stream.timeline(name)
            half_clip_s = stream.spec.clip_frames / 2 / timeline.fps
            end_s = timeline.to_seconds(float(entry.num_steps - 1)) + half_clip_s
            found = (
                f"{entry.num_steps} features end at {end_s:.2f} s of {duration_s:.2f} s; "
                "extract it again, or the spec does not say the truth about time"
            )
            if duration_s - end_s > max(self.tolerance_s, timeline.step_s):
                self.report.add("short_features", name, where, found)
            elif end_s - duration_s > max(self.tolerance_s, timeline.step_s + half_clip_s):
                self.report.add("long_features", name, where, found)

    def detections(self, table: "pd.DataFrame", listed: Sequence[str]) -> None:
        """Detections against the annotations.

        Args:
            table: Columns video, label, score, start_s, end_s.
            listed: Every video that the file names, those without detections too.
        """
        self.report.checked["videos with detections"] = len(set(table["video"]))
        self._names(listed, "detections", "no_detections", {})
        for label, count in table["label"].value_counts().items():
            if label not in self.labels:
                self.report.add(
                    "unknown_label", str(label), "detections", f"{count} detections have it"
                )
        ends = table.groupby("video")["end_s"].max()
        for name, end_s in ends.items():
            video = self.videos.get(str(name))
            if video is None or video.duration_s is None:
                continue
            if end_s > video.duration_s + self.tolerance_s:
                self.report.add(
                    "outside",
                    video.name,
                    "detections",
                    f"one ends at {end_s:.2f} s, the video at {video.duration_s:.2f} s",
                )

    def _names(
        self, there: Iterable[str], where: str, missing: str, paths: Mapping[str, Path]
    ) -> None:
        """Names that only one of both sides has."""
        found = set(there)
        lacking = sorted(self.videos.keys() - found)
        strange = sorted(found - self.known)
        for name in lacking:
            self.report.add(missing, name, where, f"annotated, but not among the {where}")
        for name in strange:
            self.report.add("no_annotation", name, paths.get(name, where), "not annotated")
        hint = name_hint(lacking, strange)
        if hint:
            self.report.hints.append(f"{where}: {hint}")

    def _probed(self, files: Mapping[str, Path], probe: Probe) -> dict[str, FileFacts]:
        """Open every file; those that are broken are noted and missing from the result."""
        facts: dict[str, FileFacts] = {}

        def attempt(item: tuple[str, Path]) -> tuple[str, FileFacts | UserError]:
            try:
                return item[0], probe(item[1])
            except UserError as error:
                return item[0], error

        with (
            ThreadPoolExecutor(NUM_THREADS) as pool,
            console.progress("opening videos", len(files)) as step,
        ):
            for name, found in pool.map(attempt, sorted(files.items())):
                step()
                if isinstance(found, FileFacts):
                    facts[name] = found
                else:
                    reason = str(found).removeprefix(f"{files[name]}: ")
                    self.report.add("broken_file", name, files[name], reason)
                if console.stop_requested():
                    pool.shutdown(cancel_futures=True)
                    console.check_stop("nothing was changed")
        return facts

    def _duration(self, video: Video, found_s: float, where: str) -> None:
        stated_s = video.duration_s
        if stated_s is not None and abs(found_s - stated_s) > self.tolerance_s:
            self.report.add(
                "duration",
                video.name,
                where,
                f"lasts {found_s:.2f} s, by the annotations {stated_s:.2f} s",
            )

    def _outside(self, video: Video, duration_s: float, where: str) -> None:
        for i, annotation in enumerate(video.annotations):
            if annotation.start_s < -self.tolerance_s or (
                annotation.end_s > duration_s + self.tolerance_s
            ):
                self.report.add(
                    "outside",
                    video.name,
                    where,
                    f"annotation {i} ({annotation.label}): [{annotation.start_s:g}, "
                    f"{annotation.end_s:g}] s in a video of {duration_s:.2f} s",
                )


def name_hint(lacking: Sequence[str], strange: Sequence[str]) -> str:
    """What the names on both sides may have in common, or nothing.

    >>> name_hint(["abc"], ["v_abc"])
    'names differ by a leading v_: 1 of 1 would fit'
    """
    if not lacking or not strange:
        return ""
    variants: dict[str, Callable[[str], str]] = {
        "a leading v_": lambda name: name.removeprefix("v_"),
        "upper and lower case": str.lower,
        "what follows a dot": lambda name: name.partition(".")[0],
    }
    for what, change in variants.items():
        fitting = len({change(name) for name in lacking} & {change(name) for name in strange})
        if fitting:
            return f"names differ by {what}: {fitting} of {len(lacking)} would fit"
    return ""
