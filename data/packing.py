"""Pack the parts of a finished unit into one shard, checked before it counts."""

import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tad_distill.console import UserError
from tad_distill.data import durable, shards
from tad_distill.data.catalog import SHARDS
from tad_distill.data.shards import Columns, Damaged, Shard
from tad_distill.data.spec import StreamSpec

# What a file weighs beside its rows, rounded up: headers, and the index per video.
OVERHEAD_BYTES, OVERHEAD_PER_VIDEO = 72_000, 400


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
    if path.exists() and reads_back(path, spec):
        return path
    path.parent.mkdir(exist_ok=True)
    itemsize = np.dtype(spec.dtype).itemsize
    num_bytes = int(columns["len"].sum()) * spec.width * itemsize
    num_bytes += OVERHEAD_BYTES + OVERHEAD_PER_VIDEO * len(order)
    durable.require_space(path, num_bytes)
    blocks = _checked_blocks(parts, owner[order], first, columns, spec)
    with durable.replacing(path, num_bytes, lambda: reads_back(path, spec)) as temp:
        shards.write(temp, spec, columns, max(part.max_abs for part in parts), blocks)
        if not reads_back(temp, spec):
            raise UserError(f"{path}: what was written does not read back; the disk is failing")
    return path


def reads_back(path: Path, spec: StreamSpec) -> bool:
    """Whether a file is there and all of it matches its checksums."""
    try:
        return not shards.damaged_rows(shards.load(path), spec)
    except (Damaged, FileNotFoundError):
        return False


def newest(parts: list[Shard]) -> list[Shard]:
    """Of parts of the same video, the one from the newest source."""
    best: dict[bytes, Shard] = {}
    for part in sorted(parts, key=lambda part: (int(part.columns["version"][0]), part.path)):
        best[bytes(part.columns["id"][0])] = part
    return list(best.values())


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


def _shard_key(spec: StreamSpec, columns: Columns) -> str:
    names = ("id", "source_hash", "version")
    rows = sorted(zip(*(columns[name].tolist() for name in names), strict=True))
    text = "".join(f"\n{video}\0{source}\0{version}" for video, source, version in rows)
    return hashlib.sha256(f"{spec.hash}{text}".encode()).hexdigest()[:12]
