"""Detections in files: the results form of ActivityNet, and CSV.

A table of detections has the columns video, label, score, start_s, end_s, in the order of the file.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tad_distill import console
from tad_distill.console import UserError
from tad_distill.data.files import (
    LATEST,
    column,
    finite,
    is_json,
    not_too_deep,
    parse_csv,
    parse_json,
    paused_gc,
    read_text,
    seconds,
    write_text,
)

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("video", "label", "score", "start_s", "end_s")

# Names of columns in the wild, ours first.
VIDEO = ("video", "video_name", "video_id", "videoid")
LABEL = ("label", "action_label", "class", "type")
START_S = ("start_s", "t_start", "start", "t_init")
END_S = ("end_s", "t_end", "end")

Row = tuple[str, str, float, float, float]


@dataclass(frozen=True)
class Detections:
    """A file of detections.

    Attributes:
        table: One row per detection: video, label, score, start_s, end_s.
        videos: Every video that the file names, those without detections too.
        header: What stands beside the results: ``version``, ``external_data``, provenance.
    """

    table: "pd.DataFrame"
    videos: tuple[str, ...]
    header: dict[str, Any]


def read(path: Path) -> "pd.DataFrame":
    """The table of a file of detections; see :func:`load`."""
    return load(path).table


def load(path: Path) -> Detections:
    """Read a file of detections, JSON or CSV, also compressed (``.gz``).

    Segments that do not last or end before they start are kept, counted and logged: they can be
    nothing but false positives, and the ActivityNet kit counts them so.

    Raises:
        UserError: The file cannot be read, or a score or time is no finite number; the message
            names the file, the video and the index of the detection.
    """
    text = read_text(path)
    with paused_gc():
        if is_json(text):
            with not_too_deep(path):
                header, videos, columns = _read_json(path, parse_json(path, text))
        else:
            header, videos, columns = _read_csv(path, text)
    found = table(*columns)
    length = (found["end_s"] - found["start_s"]).to_numpy()
    odd = {"zero_length": int((length == 0).sum()), "reversed": int((length < 0).sum())}
    console.log(
        "detections",
        file=path,
        num_detections=len(found),
        num_videos=len(videos),
        **{name: count for name, count in odd.items() if count},
    )
    if odd["reversed"]:
        first = found["video"].iloc[int((length < 0).argmax())]
        console.warn(
            f"{path}: {odd['reversed']} detections end before they start, the first in {first}; "
            "they can be nothing but false positives"
        )
    return Detections(found, videos, header)


def table(
    video: list[str],
    label: list[str],
    score: "np.typing.ArrayLike",
    start_s: "np.typing.ArrayLike",
    end_s: "np.typing.ArrayLike",
) -> "pd.DataFrame":
    """A table of detections from its columns; empty ones make an empty table."""
    import pandas as pd

    return pd.DataFrame(
        {
            "video": pd.Series(video, dtype=str),
            "label": pd.Series(label, dtype=str),
            "score": np.asarray(score, dtype=np.float64),
            "start_s": np.asarray(start_s, dtype=np.float64),
            "end_s": np.asarray(end_s, dtype=np.float64),
        }
    )


def write(
    path: Path,
    detections: "pd.DataFrame",
    *,
    videos: tuple[str, ...] = (),
    header: Mapping[str, Any] | None = None,
) -> None:
    """Write detections: CSV if the path ends in ``.csv``, else the results form in JSON.

    Args:
        path: Where to.
        detections: Columns video, label, score, start_s, end_s.
        videos: Videos that are listed even if nothing was found in them (JSON only).
        header: Goes beside the results (JSON only), by default ``version`` and ``external_data``.
    """
    if path.suffix == ".csv":
        write_text(path, detections[list(COLUMNS)].to_csv(index=False))
        return
    results: dict[str, list[dict[str, Any]]] = {video: [] for video in videos}
    for row in detections[list(COLUMNS)].itertuples(index=False):
        video, label, score, start, end = row
        entry = {"label": label, "score": float(score), "segment": [float(start), float(end)]}
        results.setdefault(video, []).append(entry)
    document = {"version": "tad-distill", "external_data": {}, **(header or {}), "results": results}
    write_text(path, json.dumps(document, default=console.jsonable) + "\n")


def _read_json(
    path: Path, document: Any
) -> tuple[dict[str, Any], tuple[str, ...], list[list[Any]]]:
    if not isinstance(document, dict) or "results" not in document:
        what = f"keys {list(document)[:5]}" if isinstance(document, dict) else "a list"
        hint = "; these are annotations" if "database" in document else ""
        raise UserError(f'{path}: expected detections, JSON with "results"; found {what}{hint}')
    results = document["results"]
    if not isinstance(results, dict):
        raise UserError(
            f'{path}: "results": expected lists of detections by video, found {results!r:.60}'
        )
    rows = _json_rows(path, results)
    header = {key: value for key, value in document.items() if key != "results"}
    return header, tuple(results), [list(c) for c in zip(*rows, strict=True)] or [[]] * 5


def _json_rows(path: Path, results: Mapping[str, Any]) -> Iterator[Row]:
    for video, found in results.items():
        if not isinstance(found, list):
            raise UserError(f"{path}: {video}: expected a list of detections, found {found!r:.60}")
        for i, detection in enumerate(found):
            try:
                label, score = detection["label"], detection["score"]
                start, end = detection["segment"]
            except (KeyError, TypeError, ValueError) as error:
                raise _malformed(f"{path}: {video}: detection {i}", detection) from error
            if not (type(label) is str and _score(score) and _time(start) and _time(end)):
                where = f"{path}: {video}: detection {i}"
                if not isinstance(label, str):
                    raise UserError(f'{where}: "label": expected a name, found {label!r}')
                score = finite(score, where, '"score"')
                start, end = (seconds(value, where, '"segment"') for value in (start, end))
            yield video, label, score, start, end


def _score(value: object) -> bool:
    """Whether a value is a score as it stands; fast for the usual case."""
    return type(value) in (float, int) and -1e300 < value < 1e300  # type: ignore[operator]


def _time(value: object) -> bool:
    """Whether a value is a time as it stands; fast for the usual case."""
    return type(value) in (float, int) and -LATEST <= value <= LATEST  # type: ignore[operator]


def _malformed(where: str, detection: object) -> UserError:
    if not isinstance(detection, dict):
        return UserError(f"{where}: expected an object, found {detection!r:.60}")
    for key in ("label", "score", "segment"):
        if key not in detection:
            return UserError(f'{where}: no "{key}"; found {list(detection)}')
    return UserError(
        f'{where}: "segment": expected [start, end], found {detection["segment"]!r:.60}'
    )


def _read_csv(path: Path, text: str) -> tuple[dict[str, Any], tuple[str, ...], list[list[Any]]]:
    header, rows = parse_csv(path, text)
    wanted = {"video": VIDEO, "label": LABEL, "score": ("score",), "start_s": START_S,
              "end_s": END_S}  # fmt: skip
    at = {name: column(header, names) for name, names in wanted.items()}
    missing = [name for name, place in at.items() if place is None]
    if missing:
        raise UserError(
            f"{path}: expected detections with the columns {','.join(COLUMNS)}; "
            f"no {', '.join(missing)} among {', '.join(header)[:120]}"
        )
    places = [place for place in at.values() if place is not None]
    columns: list[list[Any]] = [[row[place].strip() for row in rows] for place in places]
    for name, cells in zip(COLUMNS[2:], columns[2:], strict=True):
        for i, cell in enumerate(cells):
            where = f"{path}: row {i}: {columns[0][i]}"
            cells[i] = (finite if name == "score" else seconds)(cell, where, name)
    return {}, tuple(dict.fromkeys(columns[0])), columns
