"""Which videos a store is to hold: ``STORE/videos.csv``, with what their containers claim.

Written before anything is extracted, so that the work can be shared out by duration and what is
left can be counted. It is derived: without it nothing is lost, and the next extraction opens the
videos again.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tad_distill.console import UserError
from tad_distill.data import durable

NAME = "videos.csv"
COLUMNS = ("video", "path", "bytes", "modified_ns", "duration_s", "frames")


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A video file and what its container claims.

    Attributes:
        path: Where it was.
        num_bytes: Its size.
        modified_ns: When it was changed last; with the size it tells whether the rest still holds.
        duration_s: Claimed; None where the file does not say or cannot be opened.
        num_frames: Claimed, likewise.
    """

    path: str
    num_bytes: int
    modified_ns: int
    duration_s: float | None
    num_frames: int | None


def read(store: Path) -> dict[str, Listed]:
    """The listed videos by name; none where there is no list.

    Raises:
        UserError: The file is not such a list.
    """
    path = store / NAME
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return {}
    rows = list(csv.reader(io.StringIO(text)))
    try:
        if tuple(rows[0]) != COLUMNS:
            raise ValueError(f"columns {','.join(rows[0])[:80]}, expected {','.join(COLUMNS)}")
        return {
            video: Listed(
                path=where,
                num_bytes=int(size),
                modified_ns=int(modified),
                duration_s=float(duration) if duration else None,
                num_frames=int(frames) if frames else None,
            )
            for video, where, size, modified, duration, frames in rows[1:]
        }
    except (ValueError, IndexError) as error:
        raise UserError(
            f"{path}: not a list of videos ({error}); delete it, the next extraction writes it anew"
        ) from error


def write(store: Path, videos: Mapping[str, Listed]) -> None:
    """Write the list, whole or not at all.

    Raises:
        WriteError: The disk is full, or any other error of writing.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for video, facts in sorted(videos.items()):
        duration = "" if facts.duration_s is None else repr(facts.duration_s)
        frames = "" if facts.num_frames is None else facts.num_frames
        writer.writerow((video, facts.path, facts.num_bytes, facts.modified_ns, duration, frames))
    durable.write_bytes(store / NAME, text.getvalue().encode("utf-8", "surrogateescape"))
