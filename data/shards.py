"""The one file format of a feature store: an immutable HDF5 file of whole videos.

A *shard* holds the videos of a finished unit of work, a *part* one video that is not packed yet;
both have this layout, which h5py alone reads (``file["x"][off:off + len]``)::

    x                [sum T, D], contiguous, '<f2' or '<f4'; maps (C, H, W) as rows of C*H*W
    index/           one row per video, sorted by id; off and len partition the rows of x
      id             fixed-length UTF-8, as wide as the longest name in the file
      off  len       '<i8', '<i4': the rows of the video
      crc            '<u4': zlib.crc32 of those rows as stored
      fps  duration  '<f8': of the source video, seconds; NaN where unknown
      source_hash    fixed-length: which source file the features were made from
      version        '<i4': 0; higher where the source has changed since (the highest counts)
    attributes       schema, stream, spec (JSON; holds the shape of a step), spec_hash,
                     num_videos, num_rows, max_abs, index_crc (CRC-32 of all columns in order)

The file is written with ``libver=("v108", "v108")``: HDF5 then checksums its own metadata
(h5py's default does not), any HDF5 since 1.8 reads it, and no flag "open for writing" can stick.
HDF5 lays the file out in memory; the bytes go through ``os.pwrite``, see
:mod:`tad_distill.data.sketch`.
"""

import errno
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from tad_distill.console import UserError
from tad_distill.data.sketch import Sketch, pwrite
from tad_distill.data.spec import StreamSpec

SCHEMA = 1
LIBVER = ("v108", "v108")
COLUMN_TYPES = {
    "id": "S",
    "off": "<i8",
    "len": "<i4",
    "crc": "<u4",
    "fps": "<f8",
    "duration": "<f8",
    "source_hash": "S",
    "version": "<i4",
}
Columns = dict[str, NDArray[Any]]

_BLOCK_BYTES = 8 << 20


class Damaged(UserError):
    """A file of the store does not hold what was written to it."""

    def __init__(self, path: Path, problem: str) -> None:
        """Name the file; ``problem`` says how it is known."""
        super().__init__(f"{path}: damaged: {problem}; put it aside with: tad-distill data repair")
        self.path, self.problem = path, problem


@dataclass(frozen=True)
class Shard:
    """What a shard says about itself; everything but the features."""

    path: Path
    spec_hash: str
    columns: Columns
    max_abs: float
    num_bytes: int


def column(name: str, values: Sequence[Any]) -> NDArray[Any]:
    """A column of the index from Python values; text becomes UTF-8 of fixed length."""
    if COLUMN_TYPES[name] != "S":
        return np.array(values, dtype=COLUMN_TYPES[name])
    encoded = [str(value).encode() for value in values]
    return np.array(encoded, dtype=f"S{max([1, *map(len, encoded)])}")


def write(
    path: Path, spec: StreamSpec, columns: Columns, max_abs: float, blocks: Iterable[memoryview]
) -> None:
    """Write and sync a shard under a name that nobody reads yet.

    Args:
        path: A temporary name.
        spec: Of the stream.
        columns: The index; ``len`` and ``crc`` describe what ``blocks`` will yield.
        max_abs: The largest magnitude among the features.
        blocks: The bytes of ``x``, in order.
    """
    num_rows = int(columns["len"].sum())
    sketch = Sketch()
    with h5py.File(sketch, "w", libver=LIBVER) as file:
        offset = _allocate(file, spec, num_rows)
        write_columns(file.create_group("index"), columns)
        file.attrs["schema"] = SCHEMA
        # Strings of fixed length lie in the checksummed header; variable ones do not.
        file.attrs["stream"] = np.bytes_(spec.stream)
        file.attrs["spec"] = np.bytes_(spec.json())
        file.attrs["spec_hash"] = np.bytes_(spec.hash)
        file.attrs["num_videos"] = len(columns["id"])
        file.attrs["num_rows"] = num_rows
        file.attrs["max_abs"] = max_abs
        file.attrs["index_crc"] = crc_of(columns)
    with open(path, "wb", buffering=0) as raw:
        sketch.write_to(raw.fileno())
        for block in blocks:
            pwrite(raw.fileno(), block, offset)
            offset += len(block)
        os.fsync(raw.fileno())


def load(path: Path) -> Shard:
    """Read a shard's index and check it against its checksum.

    Raises:
        Damaged: Truncated, altered, or of another format.
        FileNotFoundError: It does not exist.
    """
    with opened(path) as file:
        columns = read_columns(file["index"])
        off, length = columns["off"], columns["len"]
        attributes = dict(file.attrs)
        if int(attributes["schema"]) != SCHEMA:
            raise UserError(f"{path}: schema {attributes['schema']}, this version reads {SCHEMA}")
        problem = None
        if crc_of(columns) != int(attributes["index_crc"]):
            problem = "its index does not match its checksum"
        elif len(off) != int(attributes["num_videos"]):
            problem = "its index has another number of videos than recorded"
        elif not np.array_equal(off, np.cumsum(length, dtype=np.int64) - length):
            problem = "its videos do not follow one another"
        elif length.sum() != attributes["num_rows"] or file["x"].shape[0] != attributes["num_rows"]:
            problem = "it has another number of rows than recorded"
        if problem:
            raise Damaged(path, problem)
        spec_hash = attributes["spec_hash"].decode()
        max_abs = float(attributes["max_abs"])
    return Shard(path, spec_hash, columns, max_abs, path.stat().st_size)


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a file of the store for reading; what HDF5 cannot make sense of is ``Damaged``.

    We open it and HDF5 reads from us: HDF5's own opening looks at the name several times, and
    calls a file that is unlinked in between a broken one. It also takes no lock that way, which
    files that never change do not need.

    Errors of the operating system, too many open files say, stay what they are: repairing must
    not take a good file away because of them.
    """
    with path.open("rb") as raw:
        try:
            with h5py.File(raw, "r") as file:
                yield file
        except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
            if getattr(error, "errno", None) not in (None, errno.EINVAL):
                raise
            raise Damaged(path, str(error)) from error


class Handle:
    """A shard opened for reading rows at random; closes itself when nothing uses it any more.

    Rows come by ``os.preadv`` from the offset that HDF5 reports, which takes no lock, shares no
    position and survives a fork. A file whose ``x`` was repacked (chunked or compressed, by
    ``h5repack`` say) is read by h5py instead.
    """

    def __init__(self, path: Path, dtype: str, width: int) -> None:
        """Open and check that ``x`` is what the spec says.

        Raises:
            Damaged: It is not.
        """
        self.path, self.width = path, width
        self.dtype = np.dtype(dtype).newbyteorder("<")
        with opened(path) as file:
            x = file["x"]
            if x.ndim != 2 or x.shape[1] != width or x.dtype != self.dtype:
                raise Damaged(path, f"holds {x.dtype} {x.shape}, expected {dtype} (rows, {width})")
            offset = x.id.get_offset()
            plain = offset is not None and x.chunks is None and self.dtype.isnative
            self.offset = int(offset) if plain else None
        self.file: Any = (
            open(path, "rb", buffering=0) if plain else h5py.File(path, "r", locking=False)
        )

    def __del__(self) -> None:
        """Close the file; also the copy that a forked process inherited."""
        if file := getattr(self, "file", None):
            file.close()

    def rows(self, first: int, count: int) -> NDArray[np.floating]:
        """``(count, width)`` rows from row ``first`` on, freshly allocated."""
        if self.offset is None:
            return self.file["x"][first : first + count]
        num_bytes = count * self.width * self.dtype.itemsize
        at = self.offset + first * self.width * self.dtype.itemsize
        raw = np.empty(num_bytes, np.uint8)
        view = raw.data
        done = 0
        while done < num_bytes:  # one call moves at most 2 GiB
            moved = os.preadv(self.file.fileno(), [view[done:]], at + done)
            if not moved:
                raise Damaged(self.path, f"it ends before row {first + count}")
            done += moved
        return raw.view(self.dtype).reshape(count, self.width)

    def blocks(self, first: int, count: int) -> Iterator[memoryview]:
        """The bytes of those rows, a few MiB at a time."""
        step = max(1, _BLOCK_BYTES // (self.width * self.dtype.itemsize))
        for start in range(first, first + count, step):
            yield bytes_of(self.rows(start, min(step, first + count - start)))


def damaged_rows(shard: Shard, spec: StreamSpec) -> list[int]:
    """The rows of a shard's index whose features do not match their checksums."""
    handle = Handle(shard.path, spec.dtype, spec.width)
    spans = zip(shard.columns["off"].tolist(), shard.columns["len"].tolist(), strict=True)
    crcs = [crc_of_blocks(handle.blocks(off, length)) for off, length in spans]
    return np.flatnonzero(np.array(crcs, "<u4") != shard.columns["crc"]).tolist()


def write_columns(group: h5py.Group, columns: Columns) -> None:
    """Write columns as one dataset each, text marked as UTF-8 of fixed length."""
    for name, values in columns.items():
        if values.dtype.kind == "S":
            values = values.astype(h5py.string_dtype("utf-8", values.dtype.itemsize))
        group.create_dataset(name, data=values)


def read_columns(group: h5py.Group) -> Columns:
    """Read what :func:`write_columns` wrote."""
    # astype drops the note "this is UTF-8", which would keep columns from being joined.
    return {name: (values := group[name][:]).astype(values.dtype.str, copy=False) for name in group}


def bytes_of(array: NDArray[Any]) -> memoryview:
    """The bytes of an array, not copied when it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def crc_of(columns: Columns) -> int:
    """CRC-32 over all columns of an index."""
    return crc_of_blocks(bytes_of(columns[name]) for name in sorted(columns))


def crc_of_blocks(blocks: Iterable[memoryview]) -> int:
    """CRC-32 of the concatenated blocks."""
    crc = 0
    for block in blocks:
        crc = zlib.crc32(block, crc)
    return crc


def _allocate(file: h5py.File, spec: StreamSpec, num_rows: int) -> int:
    """Create ``x`` with its place in the file reserved, and return where that is."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    kind = h5py.h5t.py_create(np.dtype(spec.dtype).newbyteorder("<"), logical=True)
    space = h5py.h5s.create_simple((num_rows, spec.width))
    return int(h5py.h5d.create(file.id, b"x", kind, space, creation).get_offset())
