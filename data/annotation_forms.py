"""The forms in which annotation files come; which one it is, is found from the content.

JSON: ``{"database": {video: {"subset", "duration", "fps", "annotations": [...]}}}``, an annotation
being ``{"label": text, "segment": [start, end]}`` in seconds (ActivityNet, ActionFormer, G-TAD with
its numbers as text, this program); the inner mapping alone (BSN, mmaction2; ``duration_second``);
the temporal extents of UCF101-24 (``label``, ``frames``).
CSV: one row per annotation with a header (THUMOS'14, TSP, one's own).
"""

from pathlib import Path
from typing import Any

from tad_distill.console import UserError
from tad_distill.data.annotation_csv import read_csv, read_csv_info
from tad_distill.data.annotation_raw import (
    DURATION_S,
    FPS,
    NUM_FRAMES,
    Content,
    RawAnnotation,
    RawVideo,
    VideoInfo,
    few,
    optional,
    plain_name,
    positive,
    unknown_form,
)
from tad_distill.data.files import is_json, not_too_deep, parse_json, read_text, seconds


def read(path: Path) -> Content:
    """Read an annotation file of any known form.

    Raises:
        UserError: The form is unknown, or something in the file is not what the form asks for.
    """
    text = read_text(path)
    if not is_json(text):
        return read_csv(path, text)
    with not_too_deep(path):
        return _read_json(path, parse_json(path, text))


def read_info(path: Path) -> dict[str, VideoInfo]:
    """Read what is known about videos apart from annotations, by video name.

    Forms: JSON ``{video: frames per second}``, JSON of annotations (their durations and rates),
    CSV with a header and the columns video and any of fps, duration, subset.

    Raises:
        UserError: The form is unknown or a value is no number.
    """
    text = read_text(path)
    if not is_json(text):
        videos = read_csv_info(path, text)
    else:
        table = parse_json(path, text)
        if isinstance(table, dict) and table and all(_is_number(v) for v in table.values()):
            return {
                plain_name(key): VideoInfo("", None, positive(rate, f"{path}: {key}", "fps"))
                for key, rate in table.items()
            }
        with not_too_deep(path):
            videos = _read_json(path, table).videos
    return {video.name: VideoInfo(video.subset, video.duration_s, video.fps) for video in videos}


def _read_json(path: Path, table: Any) -> Content:
    if not isinstance(table, dict):
        raise unknown_form(path, f"a JSON {type(table).__name__}")
    wrapper = next((key for key in ("database", "GT") if key in table), None)
    entries = table[wrapper] if wrapper else table
    if wrapper is None:
        if "results" in table:
            raise UserError(f'{path}: detections ("results"), not annotations')
        if table and all(_is_number(value) for value in table.values()):
            raise UserError(
                f"{path}: a number for each of {len(table)} videos, frame rates perhaps, but no "
                "annotations; it can be named beside the annotations"
            )
        if not table or not all(isinstance(v, dict) and "annotations" in v for v in table.values()):
            raise unknown_form(path, f"JSON with the keys {few(table)}")
    if not isinstance(entries, dict):
        raise UserError(
            f'{path}: "{wrapper}": expected videos by name, found a {type(entries).__name__}'
        )
    extents = any(isinstance(v, dict) and "annotations" not in v and "frames" in v
                  for v in entries.values())  # fmt: skip
    form = "UCF101" if extents else "database" if wrapper else "videos"
    content = Content(form, extra={k: v for k, v in table.items() if wrapper and k != wrapper})
    for name, entry in entries.items():
        content.videos.append(_entry(f"{path}: {name}", plain_name(name), entry, content))
    _refuse_twins(path, content.videos)
    return content


def _entry(where: str, name: str, entry: Any, content: Content) -> RawVideo:
    """One video of a JSON file."""
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected an object, found {entry!r}")
    if content.form == "UCF101":
        label, extents = entry.get("label"), entry.get("frames", [])
        if not isinstance(extents, list):
            raise UserError(f'{where}: "frames": expected a list, found {extents!r:.80}')
        items: Any = [{"label": label, "segment": s} for s in extents]
    elif "annotations" in entry:
        items = entry["annotations"]
    else:
        raise UserError(f'{where}: no "annotations"; found {few(entry)}')
    if not isinstance(items, list):
        raise UserError(f'{where}: "annotations": expected a list, found {items!r:.80}')
    subset = entry.get("subset") or ""
    if not isinstance(subset, str):
        raise UserError(f'{where}: "subset": expected a text, found {subset!r}')
    lookup = {key.lower(): value for key, value in entry.items() if value is not None}
    return RawVideo(
        name=name,
        subset=subset,
        duration_s=optional(lookup, DURATION_S, where),
        fps=optional(lookup, FPS, where),
        num_frames=optional(lookup, NUM_FRAMES, where),
        annotations=tuple(
            _item(f"{where}: annotation {i}", item, i, content) for i, item in enumerate(items)
        ),
    )


def _item(where: str, item: Any, index: int, content: Content) -> RawAnnotation:
    """One annotation of a JSON file."""
    if not isinstance(item, dict):
        raise UserError(f"{where}: expected an object with label and segment, found {item!r:.80}")
    for key in ("label", "segment"):
        if key not in item:
            raise UserError(f'{where}: no "{key}"; found {few(item)}')
    label, segment = item["label"], item["segment"]
    if not isinstance(label, str) or not label.strip():
        raise UserError(f'{where}: "label": expected a name, found {label!r}')
    if not isinstance(segment, list | tuple) or len(segment) != 2:
        raise UserError(f'{where}: "segment": expected [start, end], found {segment!r:.80}')
    content.counts["numbers_as_text"] += sum(isinstance(end, str) for end in segment)
    start, end = (seconds(value, where, '"segment"') for value in segment)
    return RawAnnotation(label, start, end, content.form == "UCF101", index)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refuse_twins(path: Path, videos: list[RawVideo]) -> None:
    seen: set[str] = set()
    for video in videos:
        if video.name in seen:
            raise UserError(f"{path}: {video.name}: two entries for this video")
        seen.add(video.name)
