"""Annotations as a file has them, before any policy; and the words that files use for them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tad_distill.console import UserError
from tad_distill.data.files import LATEST, finite

KNOWN = (
    'JSON with "database" (ActivityNet, ActionFormer, G-TAD, UCF101-24), JSON with videos at the '
    "top (BSN, mmaction2), CSV with a header (THUMOS'14, TSP, or video,label,start_s,end_s)"
)

# Names of columns and keys in the wild, ours first.
VIDEO = ("video", "video_name", "video_id", "videoid")
LABEL = ("label", "type", "action_label", "class", "label_name")
LABEL_ID = ("label_idx",)
START_S = ("start_s", "start", "t_start", "t_init")
END_S = ("end_s", "end", "t_end")
START_FRAME = ("start_frame", "startframe", "f_init")
END_FRAME = ("end_frame", "endframe", "stop_frame", "f_end")
DURATION_S = ("duration_s", "duration", "duration_second", "video_duration", "seconds")
FPS = ("fps", "frame_rate")
NUM_FRAMES = ("num_frames", "numframe", "video_frames", "duration_frame", "numf")
REGION = ("temporal_region_label",)

FILE_ENDINGS = re.compile(r"\.(mp4|avi|mkv|webm|mov|npy|npz|csv|h5)$", re.IGNORECASE)


@dataclass(frozen=True)
class RawAnnotation:
    """One annotation as written; ``index`` counts within its video, in the order of the file."""

    label: str
    start: float
    end: float
    in_frames: bool
    index: int


@dataclass(frozen=True)
class RawVideo:
    """One video as written; ``num_frames`` counts at ``fps``."""

    name: str
    subset: str = ""
    duration_s: float | None = None
    fps: float | None = None
    num_frames: float | None = None
    annotations: tuple[RawAnnotation, ...] = ()


@dataclass(frozen=True)
class VideoInfo:
    """What a table beside the annotations says about one video."""

    subset: str
    duration_s: float | None
    fps: float | None


@dataclass
class Content:
    """What a file holds, and what was odd about it."""

    form: str
    videos: list[RawVideo] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"numbers_as_text": 0, "background": 0})
    extra: dict[str, Any] = field(default_factory=dict)


def optional(table: Mapping[str, Any], names: tuple[str, ...], where: str) -> float | None:
    """The first of ``names`` that a video's entry has, as a positive number."""
    for name in names:
        if name in table:
            return positive(table[name], where, name)
    return None


def positive(value: object, where: str, what: str) -> float:
    """A positive number of a sensible size, or an error that begins with ``where: what``."""
    number = finite(value, where, what)
    if number <= 0:
        raise UserError(f"{where}: {what}: expected a positive number, found {value!r}")
    if not 1 / LATEST <= number <= LATEST:
        raise UserError(f"{where}: {what}: expected {1 / LATEST:g} to {LATEST:g}, found {value!r}")
    return number


def plain_name(name: str) -> str:
    """The name of a video without the ending of a video or feature file."""
    return FILE_ENDINGS.sub("", name)


def few(table: Iterable[str]) -> str:
    """The first few names, for a message."""
    names = list(table)
    return ", ".join(map(repr, names[:5])) + (" ..." if len(names) > 5 else "") or "nothing"


def unknown_form(path: Path, found: str) -> UserError:
    """The error for a file that is nothing known: what was found, which forms are known."""
    return UserError(f"{path}: no known form of annotations: {found}. Known: {KNOWN}")
