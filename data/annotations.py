"""When which action happens in which video: read from any of the usual files, checked, written.

The forms that files come in are in :mod:`tad_distill.data.annotation_forms`. What is done about
annotations that are doubtful is a :class:`Policy`; whatever it does is counted and logged.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tad_distill import console
from tad_distill.console import UserError
from tad_distill.data import annotation_forms
from tad_distill.data.annotation_policy import UCF101_FPS, Cleaner, Policy
from tad_distill.data.annotation_raw import RawVideo, VideoInfo
from tad_distill.data.files import write_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Annotation", "AnnotationSet", "Policy", "Video", "read", "write"]


@dataclass(frozen=True)
class Annotation:
    """One action in one video."""

    label: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Video:
    """What an annotation file says about one video.

    Attributes:
        name: Without folder and extension.
        subset: As written in the file; empty where it names none.
        duration_s: Length of the video; ``None`` where the file does not say.
        fps: Frames per second; ``None`` where the file does not say.
        annotations: In the order of the file.
    """

    name: str
    subset: str
    duration_s: float | None
    fps: float | None
    annotations: tuple[Annotation, ...]


@dataclass(frozen=True)
class AnnotationSet:
    """The annotations of many videos.

    Attributes:
        videos: By name.
        labels: Sorted; the place of a label is its id.
        source: The file.
        counts: What was read and what each policy found, see :func:`read`.
        extra: What the file says beside, such as ``version`` or ``world``.
        findings: What the policies found, by video; a subset counts only its own.
    """

    videos: dict[str, Video]
    labels: tuple[str, ...]
    source: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    findings: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def num_annotations(self) -> int:
        """How many annotations all videos have together."""
        return sum(len(video.annotations) for video in self.videos.values())

    def subsets(self) -> list[str]:
        """The names of the subsets as written; no entry for videos without a subset."""
        return sorted({video.subset for video in self.videos.values() if video.subset})

    def subset(self, name: str) -> "AnnotationSet":
        """The videos of one subset; ``labels`` stay those of the whole set.

        Args:
            name: The whole name, in any case: "test" finds "Test" and not "testing".

        Raises:
            UserError: There is no such subset.
        """
        wanted = {
            key: video
            for key, video in self.videos.items()
            if video.subset.lower() == name.lower() and name
        }
        if not wanted:
            there = (
                ", ".join(self.subsets())
                or "none, the file names none (a table beside it may: --info)"
            )
            raise UserError(f"{self.source}: no subset {name!r}; subsets there are: {there}")
        return self._of(wanted)

    def without(self, names: Iterable[str]) -> "AnnotationSet":
        """All videos but the named ones."""
        left_out = set(names)
        return self._of({k: v for k, v in self.videos.items() if k not in left_out})

    def _of(self, videos: dict[str, Video]) -> "AnnotationSet":
        return replace(self, videos=videos, counts={**self.counts, **_tally(videos, self.findings)})

    def table(self) -> "pd.DataFrame":
        """One row per annotation: video, label, start_s, end_s."""
        import pandas as pd

        rows = [
            (video.name, a.label, a.start_s, a.end_s)
            for video in self.videos.values()
            for a in video.annotations
        ]
        table = pd.DataFrame(rows, columns=["video", "label", "start_s", "end_s"])
        return table.astype({"video": str, "label": str, "start_s": float, "end_s": float})


def read(path: Path, policy: Policy | None = None, info: Path | None = None) -> AnnotationSet:
    """Read annotations; the form of the file is found from its content.

    ``counts`` holds ``num_videos``, ``num_annotations`` (of those left), ``num_labels``,
    ``videos_without_annotations``; how often each policy found something, and dropped it for that
    (``duplicates``, ``duplicates_dropped``, and so ``ambiguous``, ``zero_length``, ``reversed``,
    ``outside``; ``out_of_range`` drops nothing); ``fps_assumed``, ``numbers_as_text`` and
    ``background``, the rows that say where nothing happens. What never happened is 0 or absent.
    The log gets the same.

    Args:
        path: JSON or CSV, also compressed (``.gz``).
        policy: What to do about doubtful annotations; by default ``Policy()``.
        info: A table of frame rates, durations and subsets by video for what ``path`` lacks.

    Raises:
        UserError: The file cannot be read or its form is unknown; a time is no finite number; a
            policy says so. The message names the file, the video and the annotation's index.
    """
    policy = policy or Policy()
    content = annotation_forms.read(path)
    if not content.videos:
        raise UserError(f"{path}: no video in it, in the form {content.form}")
    table = annotation_forms.read_info(info) if info else {}
    cleaner = Cleaner(path, policy, content.form)
    videos = {
        raw.name: _video(cleaner.clean(_completed(raw, table.get(raw.name))))
        for raw in content.videos
    }
    labels = sorted({a.label for video in videos.values() for a in video.annotations})
    findings = {name: dict(found) for name, found in cleaner.findings.items()}
    counts = {"num_labels": len(labels), **content.counts, **_tally(videos, findings)}
    if info:
        counts["videos_without_info"] = len(videos.keys() - table.keys())
    told = {name: count for name, count in counts.items() if count}
    console.log("annotations", file=path, form=content.form, **told)
    if counts.get("fps_assumed"):
        console.warn(
            f"{path}: {counts['fps_assumed']} videos count in frames and state no rate; taken at "
            f"{policy.fps or UCF101_FPS:g} frames per second"
        )
    return AnnotationSet(videos, tuple(labels), str(path), counts, content.extra, findings)


def write(path: Path, annotations: AnnotationSet) -> None:
    """Write in the ActivityNet form; ``extra`` goes to the top level, beside ``database``."""
    database: dict[str, Any] = {}
    for video in annotations.videos.values():
        entry: dict[str, Any] = {"subset": video.subset}
        if video.duration_s is not None:
            entry["duration"] = video.duration_s
        if video.fps is not None:
            entry["fps"] = video.fps
        entry["annotations"] = [
            {"label": a.label, "segment": [a.start_s, a.end_s]} for a in video.annotations
        ]
        database[video.name] = entry
    text = json.dumps({**annotations.extra, "database": database}, indent=1)
    write_text(path, text + "\n")


def _tally(
    videos: Mapping[str, Video], findings: Mapping[str, Mapping[str, int]]
) -> dict[str, int]:
    """The counts that belong to some of the videos; 0 for what only others have."""
    counts = {
        "num_videos": len(videos),
        "num_annotations": sum(len(video.annotations) for video in videos.values()),
        "videos_without_annotations": sum(not video.annotations for video in videos.values()),
    }
    for name, found in findings.items():
        for what, count in found.items():
            counts[what] = counts.get(what, 0) + (count if name in videos else 0)
    return counts


def _completed(raw: RawVideo, info: VideoInfo | None) -> RawVideo:
    """Fill what the annotation file does not say."""
    if info is None:
        return raw
    return replace(
        raw,
        subset=raw.subset or info.subset,
        fps=raw.fps or info.fps,
        duration_s=raw.duration_s or info.duration_s,
    )


def _video(raw: RawVideo) -> Video:
    annotations = tuple(Annotation(a.label, a.start, a.end) for a in raw.annotations)
    return Video(raw.name, raw.subset, raw.duration_s, raw.fps, annotations)
