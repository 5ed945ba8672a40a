"""Fetch a file over the network so that a kill or a cut connection costs nothing.

The bytes go to ``NAME.partial``; beside it, ``NAME.partial.json`` says which version of the remote
file they are of. The next attempt asks for the rest of that version, and begins anew if the server
has another one. Only a whole file gets its name.
"""

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tad_distill import __version__
from tad_distill.console import Step, UserError, check_stop, log, progress
from tad_distill.data import durable

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0
NUM_ATTEMPTS = 4
WAIT_S = 2.0
MEGABYTE = 1e6


@dataclass(frozen=True)
class _Version:
    """Which bytes a partial file holds the beginning of."""

    url: str
    validator: str
    num_bytes: int | None


class _Cut(Exception):
    """The connection ended early; what has arrived is kept."""


def download(url: str, path: Path, check: Callable[[Path], object] = lambda _: None) -> None:
    """Download a file, going on where an earlier attempt has stopped.

    Args:
        url: Of the file.
        path: Where it goes; its folder exists. A file of that name is replaced.
        check: Called with the whole file before it gets its name; what it raises leaves nothing
            behind, so that the next attempt begins anew.

    Raises:
        UserError: No network, no such file, a broken connection, no space: with the remedy. What
            has arrived is kept for the next attempt.
        Interrupted: A signal has asked for a stop; likewise.
    """
    partial = path.with_name(f"{path.name}.partial")
    for attempt in range(1, NUM_ATTEMPTS + 1):
        before = _size(partial)
        try:
            _attempt(url, partial)
            break
        except _Cut as cut:
            arrived = _size(partial)
            # A server that gives nothing will not give more to a fourth question.
            if attempt == NUM_ATTEMPTS or arrived <= before:
                raise UserError(
                    f"{url}: {cut}; {arrived} bytes are kept in {partial.name}, run the same "
                    "command again to go on"
                ) from cut
            log("download_cut", url=url, arrived=arrived, attempt=attempt)
            time.sleep(WAIT_S * attempt)
    try:
        check(partial)
    except BaseException:
        partial.unlink()
        _facts(partial).unlink(missing_ok=True)
        raise
    durable.sync(partial)
    os.replace(partial, path)
    durable.sync(path.parent)
    _facts(partial).unlink(missing_ok=True)


def _attempt(url: str, partial: Path) -> None:
    held = _size(partial)
    known = _read_facts(partial) if held else None
    if held and (known is None or known.url != url or not known.validator):
        held = 0
    headers = {"User-Agent": f"tad-distill/{__version__}", "Accept-Encoding": "identity"}
    if held and known:
        if held == known.num_bytes:
            return
        headers |= {"Range": f"bytes={held}-", "If-Range": known.validator}
    with _open(urllib.request.Request(url, headers=headers)) as answer:
        total = _length(answer)
        if answer.status == http.client.PARTIAL_CONTENT:
            start, total = _content_range(answer)
            if start != held:
                raise UserError(f"{url}: the server sent bytes from {start}, asked for {held}")
        else:
            held = 0
        version = _Version(url, _validator(answer), total)
        if total:
            durable.require_space(partial, total - held)
        durable.write_bytes(_facts(partial), json.dumps(asdict(version)).encode())
        _copy(answer, partial, held, version)


def _copy(answer: Any, partial: Path, held: int, version: _Version) -> None:
    """Append what arrives to the partial file, of which ``held`` bytes stay."""
    total = version.num_bytes
    shown = (total or held) / MEGABYTE
    with (
        partial.open("r+b" if held else "wb") as file,
        progress(f"download {partial.stem}, MB", shown) as step,
    ):
        file.truncate(held)
        file.seek(held)
        step(held / MEGABYTE)
        arrived = held + _pump(answer, file, step)
    if total is not None and arrived != total:
        raise _Cut(f"the connection ended after {arrived} of {total} bytes")


def _pump(answer: Any, file: Any, step: Step) -> int:
    num = 0
    while True:
        check_stop("what has arrived is kept")
        try:
            data = answer.read(CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _Cut(f"the connection broke ({error or type(error).__name__})") from error
        if not data:
            return num
        file.write(data)
        num += len(data)
        step(len(data) / MEGABYTE)


def _open(request: urllib.request.Request) -> Any:
    url = request.full_url
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code in (http.client.NOT_FOUND, http.client.GONE):
            raise UserError(
                f"{url}: the server has no such file (HTTP {error.code}); it may have moved: look "
                "in the publisher's repository and give the file to --weights"
            ) from error
        raise UserError(f"{url}: the server refused (HTTP {error.code} {error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        # URLError is an OSError, and says itself why.
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise UserError(
            f"{url}: cannot be reached ({reason}); without a network, fetch it elsewhere, copy it "
            "here and run `tad-distill weights check` on it"
        ) from error


def _length(answer: Any) -> int | None:
    text = answer.headers.get("Content-Length")
    return int(text) if text and text.isdigit() else None


def _content_range(answer: Any) -> tuple[int, int | None]:
    """Where a partial answer begins, and how long the whole is."""
    text = answer.headers.get("Content-Range", "")
    span, _, total = text.removeprefix("bytes ").partition("/")
    start = span.partition("-")[0]
    return (int(start) if start.isdigit() else -1), (int(total) if total.isdigit() else None)


def _validator(answer: Any) -> str:
    """What a server recognises its version by; a weak tag does not promise equal bytes."""
    tag: str = answer.headers.get("ETag", "")
    if tag and not tag.startswith("W/"):
        return tag
    return str(answer.headers.get("Last-Modified", ""))


def _facts(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _read_facts(partial: Path) -> _Version | None:
    try:
        return _Version(**json.loads(_facts(partial).read_text()))
    except (OSError, ValueError, TypeError):  # an older attempt's, or none
        return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
