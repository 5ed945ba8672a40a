"""Which videos a stream holds and where: the union of its sealed shards and its parts.

``index.h5`` is a cache of what the shards say, with ids sorted, so that opening a stream of a
million videos reads a few columns. It is derived: deleting it loses nothing but the memory of
which shards there should be. A shard that it lists and that is gone, or has another size, is an
error by name.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from tad_distill.console import UserError, warn
from tad_distill.data import durable
from tad_distill.data.shards import (
    COLUMN_TYPES,
    LIBVER,
    SCHEMA,
    Columns,
    Damaged,
    Shard,
    column,
    crc_of,
    load,
    opened,
    read_columns,
    write_columns,
)
from tad_distill.data.sketch import Sketch

INDEX, SHARDS, PARTS = "index.h5", "shards", "parts"

# How often to look again when parts are packed away while they are being listed.
_ATTEMPTS = 10


class MissingShard(UserError):
    """A shard that the index lists is gone or has changed."""


@dataclass(frozen=True)
class Catalog:
    """The videos of a stream at one moment.

    Attributes:
        files: Shards and parts, relative to the stream's folder.
        sizes: Their bytes.
        columns: As in a shard, sorted by ``id``, each video once; ``file`` indexes ``files``.
        num_superseded: How many rows of the files do not count, being double or outdated.
    """

    files: tuple[str, ...]
    sizes: tuple[int, ...]
    columns: Columns
    num_superseded: int

    def __len__(self) -> int:
        """The number of videos."""
        return len(self.columns["id"])

    def find(self, video: str) -> int:
        """The row of a video, or -1."""
        ids = self.columns["id"]
        key = video.encode(errors="surrogateescape")
        # A wider key would make numpy copy the whole column.
        if not len(ids) or len(key) > ids.dtype.itemsize:
            return -1
        row = int(np.searchsorted(ids, np.array(key, dtype=ids.dtype)))
        return row if row < len(ids) and ids[row] == key else -1

    def names(self) -> list[str]:
        """All videos, sorted."""
        return [name.decode() for name in self.columns["id"].tolist()]


def read(folder: Path, spec_hash: str, *, parts: bool = True, trust_index: bool = True) -> Catalog:
    """Take stock of a stream.

    Args:
        folder: Of the stream.
        spec_hash: That all files must carry.
        parts: Whether to count videos that are not packed yet.
        trust_index: Whether to start from ``index.h5``; if not, every shard is read.

    Raises:
        MissingShard: ``index.h5`` lists a shard that is gone or has another size.
        Damaged: A shard or part cannot be read.
        UserError: A file was made with other settings.
    """
    for _ in range(_ATTEMPTS):
        try:
            return _read(folder, spec_hash, parts, trust_index)
        except FileNotFoundError:  # a part was packed after we had listed it: its shard is there
            continue
    raise UserError(f"{folder}: its files keep vanishing while they are read")


def rebuild(folder: Path, spec_hash: str, *, trust_index: bool) -> Catalog:
    """Write ``index.h5`` from the shards there are; see :func:`read`."""
    catalog = read(folder, spec_hash, parts=False, trust_index=trust_index)
    names = [os.path.basename(name) for name in catalog.files]
    table = {"name": column("id", names), "size": np.array(catalog.sizes, "<i8")}
    sketch = Sketch()
    with h5py.File(sketch, "w", libver=LIBVER) as file:
        write_columns(file.create_group("shards"), table)
        write_columns(file.create_group("index"), catalog.columns)
        file.attrs["schema"] = SCHEMA
        file.attrs["spec_hash"] = np.bytes_(spec_hash)
        file.attrs["num_superseded"] = catalog.num_superseded
        file.attrs["index_crc"] = crc_of(catalog.columns | table)
    with (
        durable.replacing(folder / INDEX, sketch.size) as temp,
        open(temp, "wb", buffering=0) as raw,
    ):
        sketch.write_to(raw.fileno())
    return catalog


def list_parts(folder: Path, unit: str | None = None) -> list[Path]:
    """The committed parts of one unit, or of all."""
    units = [folder / PARTS / unit] if unit is not None else list_units(folder)
    return [path for unit_folder in units for path in _children(unit_folder) if _final(path)]


def list_units(folder: Path, kind: str = PARTS) -> list[Path]:
    """The folders of the units that have parts (or, by ``kind``, failures)."""
    return [path for path in _children(folder / kind) if path.is_dir()]


def list_shards(folder: Path) -> list[Path]:
    """The sealed shards."""
    return [path for path in _children(folder / SHARDS) if _final(path)]


def load_checked(path: Path, spec_hash: str) -> Shard:
    """Read a shard or part and check that it belongs to the stream."""
    shard = load(path)
    if shard.spec_hash != spec_hash:
        raise UserError(
            f"{path}: made with other settings than its stream (spec hash {shard.spec_hash[:12]}, "
            f"expected {spec_hash[:12]}); move it to the store that it comes from"
        )
    return shard


def _read(folder: Path, spec_hash: str, parts: bool, trust_index: bool) -> Catalog:
    # Parts before shards: what is packed in between is then seen twice, never not at all.
    part_paths = list_parts(folder) if parts else []
    known = _trusted_index(folder, spec_hash) if trust_index else None
    listed = set(known.files) if known else set()
    new = [p for p in list_shards(folder) if f"{SHARDS}/{p.name}" not in listed]
    extra = [load_checked(path, spec_hash) for path in [*new, *part_paths]]
    return _merge(folder, known, extra)


def read_index(folder: Path, spec_hash: str) -> Catalog | None:
    """Read ``index.h5``, which knows the sealed shards; ``None`` when there is none.

    Raises:
        Damaged: It does not match its checksum or belongs to other settings.
    """
    try:
        with opened(folder / INDEX) as file:
            columns, table = read_columns(file["index"]), read_columns(file["shards"])
            if crc_of(columns | table) != int(file.attrs["index_crc"]):
                raise Damaged(folder / INDEX, "it does not match its checksum")
            if file.attrs["spec_hash"].decode() != spec_hash:
                raise Damaged(folder / INDEX, "it was made with other settings")
            num_superseded = int(file.attrs["num_superseded"])
    except FileNotFoundError:
        return None
    files = tuple(f"{SHARDS}/{name.decode()}" for name in table["name"])
    sizes = tuple(int(size) for size in table["size"])
    return Catalog(files, sizes, columns, num_superseded)


def absent(folder: Path, index: Catalog) -> dict[int, str]:
    """Which files of an index are gone or changed: number in ``index.files`` -> what is wrong."""
    found = {f"{SHARDS}/{path.name}": path.stat().st_size for path in list_shards(folder)}
    problems = {}
    for number, (name, size) in enumerate(zip(index.files, index.sizes, strict=True)):
        if name not in found:
            problems[number] = f"is missing, {INDEX} lists it"
        elif found[name] != size:
            problems[number] = f"has {found[name]:,} bytes, {INDEX} says {size:,}"
    return problems


def _trusted_index(folder: Path, spec_hash: str) -> Catalog | None:
    try:
        index = read_index(folder, spec_hash)
    except Damaged as error:
        warn(
            f"{error.path}: ignored, {error.problem}; reading the shards instead "
            "(write it anew with: tad-distill data index)"
        )
        return None
    if index is None:
        return None
    for number, problem in absent(folder, index).items():
        raise MissingShard(
            f"{folder / index.files[number]}: {problem}; restore it, or run "
            f"tad-distill data repair {folder.parent} and extract its videos again"
        )
    return index


def _merge(folder: Path, known: Catalog | None, extra: list[Shard]) -> Catalog:
    base: tuple[Columns, ...] = (known.columns,) if known else ()
    files, sizes = (known.files, known.sizes) if known else ((), ())
    if not extra and known:
        return known
    tables = [
        shard.columns | {"file": np.full(len(shard.columns["id"]), len(files) + i, "<i4")}
        for i, shard in enumerate(extra)
    ]
    joined = {
        name: np.concatenate([table[name] for table in (*base, *tables)])
        if base or tables
        else column(name, [])
        for name in COLUMN_TYPES
    }
    files += tuple(str(shard.path.relative_to(folder)) for shard in extra)
    sizes += tuple(shard.num_bytes for shard in extra)
    owner = [table["file"] for table in (*base, *tables)]
    joined["file"] = np.concatenate(owner) if owner else np.zeros(0, "<i4")
    winners = _winners(joined, files)
    num_superseded = len(joined["id"]) - len(winners) + (known.num_superseded if known else 0)
    return Catalog(files, sizes, {k: v[winners] for k, v in joined.items()}, num_superseded)


def _winners(columns: Columns, files: Sequence[str]) -> NDArray[np.int64]:
    """The rows that count, sorted by id: newest source first, then shards, then by file name."""
    order: Any = sorted(range(len(files)), key=lambda i: (files[i].startswith(PARTS), files[i]))
    rank = np.empty(len(files), np.int64)
    rank[order] = np.arange(len(files))
    rows = np.lexsort((rank[columns["file"]], -columns["version"], columns["id"]))
    ids = columns["id"][rows]
    first = np.ones(len(rows), bool)
    first[1:] = ids[1:] != ids[:-1]
    return rows[first]


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _final(path: Path) -> bool:
    return path.suffix == ".h5" and not path.name.startswith(".")
