"""Fill a stream video by video, surviving a kill at any moment; see :mod:`tad_distill.data.store`.

Commit (a video): write a part under a temporary name, sync, rename, sync the folder.
Seal (a unit): copy its parts into one shard while checking them, sync, reopen and check the
temporary file, rename, sync the folder, and only then unlink the parts.
No lock is needed: names follow from contents, so two workers on one unit waste work and cannot
spoil it.
"""

import hashlib
import json
import re
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tad_distill.console import UserError, log
from tad_distill.data import catalog, durable, shards
from tad_distill.data.catalog import PARTS, SHARDS
from tad_distill.data.packing import OVERHEAD_BYTES, newest, pack, reads_back
from tad_distill.data.shards import Columns, Shard, column
from tad_distill.data.spec import StreamSpec, check_name, to_rows

FAILED = "failed"

# How often to begin again when another worker on the same unit takes files or folders away.
_ATTEMPTS = 5


@dataclass(frozen=True)
class Failure:
    """A video that could not be turned into features, so that resuming does not try again."""

    video: str
    reason: str
    source_hash: str
    traceback: str
    unit: str


def read_failure(path: Path) -> Failure:
    """Read what ``Writer.fail`` wrote.

    Raises:
        UserError: The file is damaged.
        FileNotFoundError: It is gone.
    """
    try:
        return Failure(**json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read: {error}; delete it") from error


class Writer:
    """Writes the videos of one unit of work; get one from ``Stream.writer``.

    Any error of writing ends in :class:`~tad_distill.data.durable.WriteError`: end the process,
    free what the message says, and run the same command again.
    """

    def __init__(self, folder: Path, spec: StreamSpec, unit: str) -> None:
        """Take stock of what is committed, and clear away what dead writers left."""
        if not re.fullmatch(r"\w[\w.-]{0,99}", unit, re.ASCII):
            raise UserError(f"unit {unit!r}: expected letters, digits and . - _, up to 100")
        self.folder, self.spec, self.unit = folder, spec, unit
        self._parts = folder / PARTS / unit
        self._failures = folder / FAILED / unit
        places = (self._parts, self._failures, folder / SHARDS, folder)
        num_swept = sum(durable.sweep(place) for place in places)
        if num_swept:
            log("swept", stream=spec.stream, unit=unit, temporary_files=num_swept)
        self._survey()

    def state(self, video: str, source_hash: str) -> Literal["done", "failed", "missing"]:
        """What is known about a video made from this very source file."""
        key = _file_name(video, source_hash)
        if video in self._versions:
            done = self._versions[video][1] == source_hash
        else:
            done = key in self._part_keys or self._sealed_as(video)[1] == source_hash
        if done or (self._parts / f"{key}.h5").exists():  # the latter: another worker was faster
            return "done"
        return "failed" if (self._failures / f"{key}.json").exists() else "missing"

    def commit(
        self,
        video: str,
        feats: NDArray[Any],
        *,
        fps: float,
        duration_s: float | None,
        source_hash: str,
    ) -> None:
        """Store the features of a video; when this returns they survive anything but the disk.

        Args:
            video: Its name: any file stem.
            feats: ``(T, *shape)``, cast to the dtype of the stream.
            fps: Frames per second of the video itself.
            duration_s: Of the video; ``None`` where unknown.
            source_hash: Names the source file; another one means that the video has changed.

        Raises:
            UserError: The name is no name, or the features cannot be stored, with the reason.
            WriteError: The disk is full, or any other error of writing.
        """
        check_name(video)
        rows, max_abs = to_rows(video, feats, self.spec)
        if not (np.isfinite(fps) and fps > 0):
            raise UserError(f"video {video}: fps must be positive, got {fps}")
        duration = float("nan") if duration_s is None else float(duration_s)
        data = shards.bytes_of(rows)
        columns = {
            "id": column("id", [video]),
            "off": column("off", [0]),
            "len": column("len", [len(rows)]),
            "crc": column("crc", [zlib.crc32(data)]),
            "fps": column("fps", [fps]),
            "duration": column("duration", [duration]),
            "source_hash": column("source_hash", [source_hash]),
            "version": column("version", [self._version(video, source_hash)]),
        }
        key = _file_name(video, source_hash)
        self._write_part(self._parts / f"{key}.h5", columns, max_abs, data)
        self._part_keys.add(key)
        self._versions[video] = (int(columns["version"][0]), source_hash)
        self._forget_failures(video)

    def fail(self, video: str, *, reason: str, source_hash: str, traceback: str = "") -> None:
        """Record that a video cannot be turned into features, and why."""
        check_name(video)
        self._failures.mkdir(parents=True, exist_ok=True)
        failure = Failure(video, reason, source_hash, traceback, self.unit)
        data = json.dumps(asdict(failure), indent=1).encode()
        durable.write_bytes(self._failures / f"{_file_name(video, source_hash)}.json", data)

    def seal(self) -> Path | None:
        """Pack the parts of the unit into one shard; call it when the unit is finished.

        Returns:
            The shard; ``None`` when there was nothing to pack.

        Raises:
            Damaged: A part does not match its checksum; ``data repair`` puts it aside.
            WriteError: The disk is full, or any other error of writing.
        """
        for _ in range(_ATTEMPTS):
            try:
                parts = self._survey()
                path = pack(self.folder, self.spec, newest(parts)) if parts else None
                break
            except FileNotFoundError:  # another worker has packed the same parts meanwhile
                continue
        else:
            raise UserError(f"{self._parts}: its files keep vanishing while they are packed")
        for part in parts:
            part.path.unlink(missing_ok=True)
        for folder in (self._parts, self._parts.parent):
            with suppress(OSError):  # not empty: another worker has something there
                folder.rmdir()
        catalog.rebuild(self.folder, self.spec.hash, trust_index=True)
        return path

    def _survey(self) -> list[Shard]:
        """Take stock of what is committed, and return the unit's parts that no shard holds.

        Parts that a shard holds, or holds from a newer source, are unlinked: their worker died
        between its last two steps.
        """
        self._part_keys = {path.stem for path in catalog.list_parts(self.folder)}
        paths = catalog.list_parts(self.folder, self.unit)
        self._sealed = catalog.read(self.folder, self.spec.hash, parts=False)
        self._versions: dict[str, tuple[int, str]] = {}
        parts = []
        for path in paths:
            try:
                part = catalog.load_checked(path, self.spec.hash)
            except FileNotFoundError:
                continue
            video, source_hash, version = _identity(part)
            sealed_version, sealed_source = self._sealed_as(video)
            if sealed_source == source_hash or sealed_version > version:
                path.unlink(missing_ok=True)
                continue
            parts.append(part)
            # The shards' versions are no higher: such parts are gone by now.
            self._versions[video] = max(
                self._versions.get(video, (version, source_hash)), (version, source_hash)
            )
        return parts

    def _write_part(self, path: Path, columns: Columns, max_abs: float, data: memoryview) -> None:
        def redone() -> bool:
            return reads_back(path, self.spec)

        for attempt in range(_ATTEMPTS):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with durable.replacing(path, len(data) + OVERHEAD_BYTES, redone) as temp:
                    shards.write(temp, self.spec, columns, max_abs, [data])
                return
            except FileNotFoundError:  # a worker that sealed the unit took the folder away
                if attempt + 1 == _ATTEMPTS:
                    raise

    def _forget_failures(self, video: str) -> None:
        """Unlink what is recorded about a video, in whatever unit it failed."""
        for folder in catalog.list_units(self.folder, FAILED):
            for path in folder.glob(f"{_readable(video)}-*.json"):
                with suppress(FileNotFoundError):  # another worker has been here
                    if read_failure(path).video == video:
                        path.unlink()

    def _version(self, video: str, source_hash: str) -> int:
        """One more than the newest committed one, unless that is of the same source."""
        known = self._versions.get(video) or self._sealed_as(video)
        return known[0] if known[1] == source_hash else known[0] + 1

    def _sealed_as(self, video: str) -> tuple[int, str | None]:
        """Version and source of a video in the shards; ``(-1, None)`` if none has it."""
        row, columns = self._sealed.find(video), self._sealed.columns
        if row < 0:
            return -1, None
        return int(columns["version"][row]), columns["source_hash"][row].decode()


def _identity(part: Shard) -> tuple[str, str, int]:
    columns = part.columns
    video, source_hash = columns["id"][0].decode(), columns["source_hash"][0].decode()
    return video, source_hash, int(columns["version"][0])


def _file_name(video: str, source_hash: str) -> str:
    """A short, safe name: what is readable of the video's name, and a hash of name and source.

    The hash keeps apart names that differ only in what file systems ignore, and makes the part
    of another source another file.
    """
    digest = hashlib.sha256(f"{video}\0{source_hash}".encode()).hexdigest()
    return f"{_readable(video)}-{digest[:16]}"


def _readable(video: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", video)[:60]
