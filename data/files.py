"""Text files, plain or compressed: read whole with every fault named, written whole or not."""

import csv
import gc
import gzip
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tad_distill.console import UserError
from tad_distill.data import durable

# Times beyond this many seconds (or frames) are no times of a video; up to there arithmetic with
# them neither overflows nor loses milliseconds.
LATEST = 1e9


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, decompressed if it is gzip; never empty.

    Raises:
        UserError: The file is empty, broken or no text.
    """
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{path}: the gzip file is broken ({error}); copy it again") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: no text in UTF-8 (byte {error.start} is 0x{data[error.start]:02x}); "
            "expected JSON or CSV"
        ) from error
    if not text.strip():
        raise UserError(f"{path}: the file is empty")
    return text


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing, durably; gzip if it ends in ``.gz``.

    Raises:
        WriteError: The disk is full, or any other error of writing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode()
    durable.write_bytes(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


@contextmanager
def paused_gc() -> Iterator[None]:
    """Hold the garbage collector: it halves the speed of making millions of small objects."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def is_json(text: str) -> bool:
    """Whether a text starts like JSON; the others are taken for CSV."""
    return text.lstrip()[0] in "{["


def parse_json(path: Path, text: str) -> Any:
    """Parse JSON strictly: a name that an object holds twice is an error, not a silent loss.

    Raises:
        UserError: The text is no JSON, a key stands twice in one object, or a text in it is no
            Unicode.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise UserError(
                f"{path}: {twice!r} stands twice in one object; one entry would be lost"
            )
        return table

    try:
        with paused_gc(), not_too_deep(path):
            document = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        cut = "; the file seems cut off" if error.pos >= len(text.rstrip()) else ""
        raise UserError(
            f"{path}: no valid JSON: line {error.lineno}, column {error.colno}: {error.msg}{cut}"
        ) from error
    except ValueError as error:  # Python reads no number of more than 4,300 digits
        raise UserError(f"{path}: no valid JSON: a number has too many digits") from error
    if "\\ud" in text or "\\uD" in text:
        _refuse_half_characters(path, document)
    return document


def _refuse_half_characters(path: Path, document: Any) -> None:
    """JSON can spell half of a pair of surrogates, which no file and no terminal can take."""
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        broken = error.object[max(error.start - 30, 0) : error.start + 1]
        raise UserError(
            f"{path}: no valid Unicode: half of a surrogate pair at the end of {broken!r}"
        ) from error


@contextmanager
def not_too_deep(path: Path) -> Iterator[None]:
    """Turn what happens to JSON of a thousand levels, in reading it or quoting it, into an error.

    Raises:
        UserError: It happened.
    """
    try:
        yield
    except RecursionError as error:
        raise UserError(f"{path}: no valid JSON: nested too deeply") from error


def parse_csv(path: Path, text: str) -> tuple[list[str], list[list[str]]]:
    """The header, normalised, and the rows of a CSV file; empty lines are passed over.

    Header words come in lower case with ``_`` for all that is no letter or digit, so that
    ``video-name``, ``Video Name`` and ``video_name`` are one.

    Raises:
        UserError: There is no header, or a row has another number of cells.
    """
    try:
        lines = [row for row in csv.reader(text.splitlines()) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(f"{path}: no valid CSV: {error}") from error
    if not lines:
        raise UserError(f"{path}: no CSV: there is no header")
    header = ["".join(c if c.isalnum() else "_" for c in cell.strip().lower()) for cell in lines[0]]
    for number, row in enumerate(lines[1:]):
        if len(row) != len(header):
            raise UserError(
                f"{path}: row {number}: {len(row)} cells, but the header has {len(header)}"
            )
    return header, lines[1:]


def column(header: Sequence[str], names: Sequence[str]) -> int | None:
    """Where the first of several names for one column stands in a header."""
    return next((header.index(name) for name in names if name in header), None)


def finite(value: object, where: str, what: str) -> float:
    """A finite number, from a number or from text that spells one.

    Raises:
        UserError: It is none; the message reads ``where: what: found ...``.
    """
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise UserError(f"{where}: {what}: expected a finite number, found {value!r}")
    return number


def seconds(value: object, where: str, what: str) -> float:
    """A time in seconds (or frames), from a number or from text that spells one.

    Raises:
        UserError: It is no finite number, or none that a video could have.
    """
    number = finite(value, where, what)
    if abs(number) > LATEST:
        raise UserError(f"{where}: {what}: expected at most {LATEST:g}, found {value!r}")
    return number
