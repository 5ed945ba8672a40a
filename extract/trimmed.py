"""Trimmed clips with labels, as a CSV lists them: what a backbone is pretrained on.

Columns: ``video`` (path relative to the CSV, with or without extension), ``start_s`` and ``end_s``
(blank: from the start, to the end), optionally ``split`` (``train`` or ``validation``), and one
column per task that holds each clip's class (blank: not labelled for this task).
"""

import csv
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tad_distill.console import UserError, log
from tad_distill.extract.video import SUFFIXES

PLACE_COLUMNS = ("video", "start_s", "end_s", "split")
SPLITS = {"train": "train", "training": "train", "validation": "validation"}


@dataclass(frozen=True)
class TrimmedClip:
    """One row of the CSV.

    Attributes:
        line: Line in the file, for messages.
        video: The video's path.
        start_s: First moment in the video.
        end_s: Where the clip ends, exclusive; None: with the video.
        split: ``train`` or ``validation``; empty: another one, which is not used.
        labels: Class by task; tasks that the row leaves blank are missing.
    """

    line: int
    video: Path
    start_s: float
    end_s: float | None
    split: str
    labels: dict[str, str]


@dataclass(frozen=True)
class ClipList:
    """The clips of a CSV, in its order.

    Attributes:
        path: The CSV.
        clips: Its rows of the splits used.
        classes: By task, the sorted classes of its training clips; the index is the class id.
        sha256: Of the CSV's content.
    """

    path: Path
    clips: tuple[TrimmedClip, ...]
    classes: dict[str, tuple[str, ...]]
    sha256: str

    def class_id(self, clip: TrimmedClip, task: str) -> int:
        """The clip's class id; -1 where not labelled, -2 for a class without training clips."""
        if task not in clip.labels:
            return -1
        known = self.classes[task]
        return known.index(clip.labels[task]) if clip.labels[task] in known else -2


def read(path: Path, tasks: Iterable[str] = ()) -> ClipList:
    """Read a list of trimmed clips.

    Args:
        path: The CSV.
        tasks: Label columns to use; none given: every column that does not say where a clip is.

    Raises:
        UserError: A column, a video or a class is missing, or a time is no time.
    """
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot read the list of clips ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8; save the list as CSV") from error
    rows = csv.DictReader(lines)
    columns = list(rows.fieldnames or ())
    tasks = list(tasks) or [name for name in columns if name not in PLACE_COLUMNS]
    for column in (*PLACE_COLUMNS[:3], *tasks):
        if column not in columns:
            found = ", ".join(columns) or "an empty file"
            raise UserError(f"{path}: no column {column!r} (found {found}); add it to the header")
    if not tasks:
        raise UserError(f"{path}: no label column beside {', '.join(columns)}; add one per task")
    videos: dict[str, Path] = {}
    clips = [_clip(path, rows.line_num, row, tasks, videos) for row in rows]
    used = tuple(clip for clip in clips if clip.split)
    if len(used) < len(clips):
        log("clips_of_other_splits", path=path, left_out=len(clips) - len(used))
    classes = {task: _classes(path, used, task) for task in tasks}
    return ClipList(path, used, classes, hashlib.sha256(content).hexdigest())


def by_video(clips: Sequence[TrimmedClip]) -> list[tuple[Path, list[int]]]:
    """The numbers of each video's clips, so that every video is decoded once."""
    numbers: dict[Path, list[int]] = {}
    for number, clip in enumerate(clips):
        numbers.setdefault(clip.video, []).append(number)
    return list(numbers.items())


def _clip(
    path: Path,
    line: int,
    row: dict[str, str | None],
    tasks: list[str],
    videos: dict[str, Path],
) -> TrimmedClip:
    cells = {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
    start_s = _time(path, line, "start_s", cells["start_s"])
    end_s = _time(path, line, "end_s", cells["end_s"])
    if end_s is not None and end_s <= (start_s or 0.0):
        raise UserError(f"{path}:{line}: the clip ends at {end_s} s, not after its start")
    if cells["video"] not in videos:
        videos[cells["video"]] = _video(path, line, cells["video"])
    return TrimmedClip(
        line=line,
        video=videos[cells["video"]],
        start_s=start_s or 0.0,
        end_s=end_s,
        split=SPLITS.get(cells.get("split") or "train", ""),
        labels={task: cells[task] for task in tasks if cells[task]},
    )


def _video(path: Path, line: int, name: str) -> Path:
    stem = path.parent / name
    for candidate in (stem, *(stem.with_name(stem.name + suffix) for suffix in sorted(SUFFIXES))):
        if candidate.is_file():
            return candidate
    raise UserError(f"{path}:{line}: video {name!r} does not exist; paths count from the list")


def _time(path: Path, line: int, column: str, text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UserError(f"{path}:{line}: {column} is {text!r}; expected seconds or a blank")
    return value


def _classes(path: Path, clips: tuple[TrimmedClip, ...], task: str) -> tuple[str, ...]:
    training = [clip for clip in clips if clip.split == "train" and task in clip.labels]
    classes = tuple(sorted({clip.labels[task] for clip in training}))
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "no label"
        raise UserError(
            f"{path}: column {task!r} has {found} among the training clips; "
            "a task needs two classes or more"
        )
    unseen = sum(
        clip.split == "validation" and task in clip.labels and clip.labels[task] not in classes
        for clip in clips
    )
    if unseen:
        log("classes_without_training_clips", path=path, task=task, validation_clips=unseen)
    return classes
