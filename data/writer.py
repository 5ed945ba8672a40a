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
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tad_distill.console import UserError, log
from tad_distill.data import catalog, durable, shards
from tad_distill.data.catalog import PARTS, SHARDS
from tad_distill.data.shards import Columns, Damaged, Shard, column
from tad_distill.data.spec import StreamSpec

FAILED = "failed"

# File systems allow 255 bytes in a name; a video's name may use them all.
MAX_NAME_BYTES = 255
FLOAT16_MAX = 65504.0

# What a shard weighs beside its rows, rounded up: headers, and the index per video.
_OVERHEAD_BYTES, _OVERHEAD_PER_VIDEO = 72_000, 400

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
        num_swept = durable.sweep(self._parts) + durable.sweep(folder / SHARDS)
        if num_swept:
            log("swept", stream=spec.stream, unit=unit, temporary_files=num_swept)
        self._survey()

    def state(self, video: str, source_hash: str) -> Literal["done", "failed", "missing"]:
        """What is known about a video made from this very source file."""
        key = _file_name(video, source_hash)
        if key in self._part_keys or _holds(self._sealed, video, source_hash):
            return "done"
        if (self._parts / f"{key}.h5").exists():  # another worker was faster
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
        (self._failures / f"{key}.json").unlink(missing_ok=True)

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

        Parts that a shard holds are unlinked: their worker died between its last two steps.
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
            if _holds(self._sealed, video, source_hash):
                path.unlink(missing_ok=True)
                continue
            parts.append(part)
            self._versions[video] = max(self._versions.get(video, (-1, "")), (version, source_hash))
        return parts

    def _write_part(self, path: Path, columns: Columns, max_abs: float, data: memoryview) -> None:
        num_bytes = len(data) + _OVERHEAD_BYTES
        for attempt in range(_ATTEMPTS):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with durable.replacing(path, num_bytes, lambda: _good(path, self.spec)) as temp:
                    shards.write(temp, self.spec, columns, max_abs, [data])
                return
            except FileNotFoundError:  # a worker that sealed the unit took the folder away
                if attempt + 1 == _ATTEMPTS:
                    raise

    def _version(self, video: str, source_hash: str) -> int:
        """One more than the newest committed one, unless that is of the same source."""
        newest_version, source = self._versions.get(video, (-1, ""))
        row = self._sealed.find(video)
        if row >= 0 and self._sealed.columns["version"][row] > newest_version:
            newest_version = int(self._sealed.columns["version"][row])
            source = self._sealed.columns["source_hash"][row].decode()
        return newest_version if source == source_hash else newest_version + 1


def pack(folder: Path, spec: StreamSpec, parts: list[Shard]) -> Path:
    """Write the videos of ``parts`` (each video once) into one shard, checked before it counts.

    The shard's name follows from the settings and the (video, source) pairs, so equal units get
    equal names wherever they are packed.
    """
    tables = [part.columns for part in parts]
    columns = {name: np.concatenate([t[name] for t in tables]) for name in shards.COLUMN_TYPES}
    owner = np.repeat(np.arange(len(parts)), [len(table["id"]) for table in tables])
    order = np.argsort(columns["id"])
    columns = {name: values[order] for name, values in columns.items()}
    first = columns["off"].copy()
    columns["off"] = np.cumsum(columns["len"], dtype=np.int64) - columns["len"]
    path = folder / SHARDS / f"{spec.folder}-{_shard_key(spec, columns)}.h5"
    if path.exists() and _good(path, spec):
        return path
    path.parent.mkdir(exist_ok=True)
    itemsize = np.dtype(spec.dtype).itemsize
    num_bytes = int(columns["len"].sum()) * spec.width * itemsize
    num_bytes += _OVERHEAD_BYTES + _OVERHEAD_PER_VIDEO * len(order)
    durable.require_space(path, num_bytes)
    blocks = _checked_blocks(parts, owner[order], first, columns, spec)
    with durable.replacing(path, num_bytes, lambda: _good(path, spec)) as temp:
        shards.write(temp, spec, columns, max(part.max_abs for part in parts), blocks)
        if not _good(temp, spec):
            raise UserError(f"{path}: what was written does not read back; the disk is failing")
    return path


def newest(parts: list[Shard]) -> list[Shard]:
    """Of parts of the same video, the one from the newest source."""
    best: dict[bytes, Shard] = {}
    for part in sorted(parts, key=lambda part: (int(part.columns["version"][0]), part.path)):
        best[bytes(part.columns["id"][0])] = part
    return list(best.values())


def check_name(video: str) -> None:
    """Refuse what cannot be the name of a video.

    Raises:
        UserError: Empty, over 255 bytes as UTF-8, not UTF-8, or with a slash or NUL inside.
    """
    try:
        num_bytes = len(video.encode())
    except UnicodeEncodeError as error:
        raise UserError(f"video {video!r}: its name is not valid UTF-8; rename it") from error
    if not 0 < num_bytes <= MAX_NAME_BYTES:
        raise UserError(
            f"video {video!r}: its name has {num_bytes} bytes as UTF-8, "
            f"1 to {MAX_NAME_BYTES} are possible; rename it"
        )
    if "/" in video or "\0" in video:
        raise UserError(f"video {video!r}: a name may not contain / or NUL")


def to_rows(video: str, feats: NDArray[Any], spec: StreamSpec) -> tuple[NDArray[Any], float]:
    """Check features and cast them to what is stored.

    Args:
        video: For the error line.
        feats: ``(T, *shape)``.
        spec: Of the stream.

    Returns:
        ``(T, D)`` rows in the stored dtype, and the largest magnitude.
    """
    feats = np.asarray(feats)
    expected = "(" + ", ".join(["T", *map(str, spec.shape)]) + ")"
    if feats.shape[1:] != spec.shape or feats.ndim == 0:
        raise UserError(f"video {video}: features are {feats.shape}, {spec.stream} has {expected}")
    if not len(feats):
        raise UserError(f"video {video}: no features (0 steps); is it shorter than a clip?")
    if not np.issubdtype(feats.dtype, np.number) or np.iscomplexobj(feats):
        raise UserError(f"video {video}: features are {feats.dtype}, expected numbers")
    max_abs = max(float(feats.max()), -float(feats.min()))
    if not np.isfinite(max_abs):
        finite = np.isfinite(feats).reshape(len(feats), -1)
        raise UserError(
            f"video {video}: {finite.size - int(finite.sum())} of {finite.size} features are not "
            f"finite, first in step {int(np.argmin(finite.all(1)))}"
        )
    limit = FLOAT16_MAX if spec.dtype == "float16" else float(np.finfo(np.float32).max)
    if max_abs > limit:
        raise UserError(
            f"video {video}: a feature has magnitude {max_abs:g}, {spec.dtype} holds up to "
            f"{limit:g}; store {spec.stream} as another dtype or scale it"
        )
    rows = feats.reshape(len(feats), -1).astype(np.dtype(spec.dtype).newbyteorder("<"))
    return rows, max_abs


def _checked_blocks(
    parts: list[Shard],
    owner: NDArray[np.int64],
    first: NDArray[np.int64],
    columns: Columns,
    spec: StreamSpec,
) -> Iterator[memoryview]:
    """The bytes of the new shard; each video is checked against its checksum as it passes."""
    for i, part in enumerate(owner):
        try:
            handle = shards.Handle(parts[part].path, spec.dtype, spec.width)
            crc = 0
            for block in handle.blocks(int(first[i]), int(columns["len"][i])):
                crc = zlib.crc32(block, crc)
                yield block
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise UserError(f"cannot read {parts[part].path}: {error.strerror}") from error
        if crc != columns["crc"][i]:
            video = columns["id"][i].decode()
            raise Damaged(handle.path, f"video {video} does not match its checksum")


def _good(path: Path, spec: StreamSpec) -> bool:
    try:
        return not shards.damaged_rows(shards.load(path), spec)
    except (Damaged, FileNotFoundError):
        return False


def _holds(sealed: catalog.Catalog, video: str, source_hash: str) -> bool:
    row = sealed.find(video)
    return row >= 0 and sealed.columns["source_hash"][row] == source_hash.encode()


def _identity(part: Shard) -> tuple[str, str, int]:
    columns = part.columns
    video, source_hash = columns["id"][0].decode(), columns["source_hash"][0].decode()
    return video, source_hash, int(columns["version"][0])


def _shard_key(spec: StreamSpec, columns: Columns) -> str:
    names = ("id", "source_hash", "version")
    rows = sorted(zip(*(columns[name].tolist() for name in names), strict=True))
    text = "".join(f"\n{video}\0{source}\0{version}" for video, source, version in rows)
    return hashlib.sha256(f"{spec.hash}{text}".encode()).hexdigest()[:12]


def _file_name(video: str, source_hash: str) -> str:
    """A short, safe name: what is readable of the video's name, and a hash of name and source.

    The hash keeps apart names that differ only in what file systems ignore, and makes the part
    of another source another file.
    """
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", video)[:60]
    digest = hashlib.sha256(f"{video}\0{source_hash}".encode()).hexdigest()
    return f"{readable}-{digest[:16]}"
