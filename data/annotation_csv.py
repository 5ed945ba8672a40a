"""Annotations in CSV: one row each, under a header (THUMOS'14, TSP, or one's own)."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from tad_distill.console import UserError
from tad_distill.data.annotation_raw import (
    DURATION_S,
    END_FRAME,
    END_S,
    FPS,
    LABEL,
    LABEL_ID,
    NUM_FRAMES,
    REGION,
    START_FRAME,
    START_S,
    VIDEO,
    Content,
    RawAnnotation,
    RawVideo,
    optional,
    plain_name,
    unknown_form,
)
from tad_distill.data.files import column, finite, parse_csv, seconds

# The ids of thumos14_test_groundtruth.csv: the 20 labels in alphabetical order.
THUMOS_LABELS = (
    "BaseballPitch BasketballDunk Billiards CleanAndJerk CliffDiving CricketBowling CricketShot "
    "Diving FrisbeeCatch GolfSwing HammerThrow HighJump JavelinThrow LongJump PoleVault Shotput "
    "SoccerPenalty TennisSwing ThrowDiscus VolleyballSpiking"
).split()
THUMOS_NAME = re.compile(r"video_(test|validation)_\d{7}")


def read_csv(path: Path, text: str) -> Content:
    """Read the annotations of a CSV file; videos come in the order in which they first occur.

    Raises:
        UserError: A column is missing, or a cell is not what it should be.
    """
    header, rows = parse_csv(path, text)
    if "score" in header:
        raise UserError(f"{path}: has a column score: detections, not annotations")
    columns = _Columns.of(path, header)
    content = Content("CSV")
    lists: dict[str, list[RawAnnotation]] = {}
    for number, row in enumerate(rows):
        where = f"{path}: row {number}: {row[columns.video]}"
        annotations = lists.setdefault(plain_name(row[columns.video].strip()), [])
        if columns.region is not None and row[columns.region].strip().lower() != "action":
            content.counts["background"] += 1
            continue
        annotations.append(columns.annotation(row, where, len(annotations)))
    content.videos = [
        replace(video, annotations=tuple(lists[video.name]))
        for video in _videos(path, header, rows)
    ]
    return content


def read_csv_info(path: Path, text: str) -> list[RawVideo]:
    """Read a CSV table of videos: video and any of fps, duration, number of frames, subset."""
    header, rows = parse_csv(path, text)
    if column(header, VIDEO) is None:
        raise UserError(f"{path}: no column video; found {', '.join(header)[:120]}")
    return _videos(path, header, rows)


def _videos(path: Path, header: list[str], rows: list[list[str]]) -> list[RawVideo]:
    """What the first row of each video says about it."""
    at, subset = column(header, VIDEO), column(header, ("subset",))
    assert at is not None
    videos: dict[str, RawVideo] = {}
    for number, row in enumerate(rows):
        name = plain_name(row[at].strip())
        if name in videos:
            continue
        where = f"{path}: row {number}: {name}"
        if not name:
            raise UserError(f"{where}: the name of the video is empty")
        cells = {key: cell for key, cell in zip(header, row, strict=True) if cell.strip()}
        thumos = THUMOS_NAME.fullmatch(name)
        videos[name] = RawVideo(
            name,
            row[subset].strip() if subset is not None else thumos.group(1) if thumos else "",
            optional(cells, DURATION_S, where),
            optional(cells, FPS, where),
            optional(cells, NUM_FRAMES, where),
        )
    return list(videos.values())


@dataclass(frozen=True)
class _Columns:
    """Where the cells of an annotation stand. Seconds are read where a file has both."""

    video: int
    start: int
    end: int
    in_frames: bool
    label: int | None
    label_id: int | None
    region: int | None

    @classmethod
    def of(cls, path: Path, header: list[str]) -> "_Columns":
        """Find the columns.

        Raises:
            UserError: One is missing; the message names those there are.
        """
        seconds = column(header, START_S), column(header, END_S)
        frames = column(header, START_FRAME), column(header, END_FRAME)
        start, end = frames if None in seconds else seconds
        video, label, label_id = (column(header, names) for names in (VIDEO, LABEL, LABEL_ID))
        if video is None or start is None or end is None or (label is None and label_id is None):
            raise unknown_form(path, f"the columns {', '.join(header)[:120]}")
        region = column(header, REGION)
        return cls(video, start, end, None in seconds, label, label_id, region)

    def annotation(self, row: list[str], where: str, index: int) -> RawAnnotation:
        """One row; ``index`` counts within the video."""
        where += f": annotation {index}"
        start = seconds(row[self.start].strip(), where, "start")
        end = seconds(row[self.end].strip(), where, "end")
        return RawAnnotation(self._label(row, where), start, end, self.in_frames, index)

    def _label(self, row: list[str], where: str) -> str:
        if self.label is not None:
            if not row[self.label].strip():
                raise UserError(f"{where}: the label is empty")
            return row[self.label].strip()
        assert self.label_id is not None
        number = finite(row[self.label_id].strip(), where, "label-idx")
        if number == -1:
            return "Ambiguous"
        if number not in range(len(THUMOS_LABELS)):
            raise UserError(f"{where}: label-idx: expected -1 to 19, found {number:g}")
        return THUMOS_LABELS[int(number)]
