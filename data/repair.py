"""Hold every file of a store against its checksums, and put aside what does not match."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tad_distill.console import UserError, check_stop, log, progress
from tad_distill.data import catalog, durable, shards
from tad_distill.data.packing import pack
from tad_distill.data.stream import Stream
from tad_distill.data.writer import Writer

if TYPE_CHECKING:
    from tad_distill.data.store import Store

QUARANTINE = "quarantine"


@dataclass(frozen=True)
class Finding:
    """Something that ``verify`` has to say.

    Attributes:
        stream: The name of the stream.
        path: The file.
        video: The video concerned; ``None``: the file as a whole.
        problem: What is wrong.
        damaged: Whether data are lost; otherwise a remark.
    """

    stream: str
    path: Path
    video: str | None
    problem: str
    damaged: bool = True

    def __str__(self) -> str:
        """One line."""
        where = f"video {self.video}: " if self.video else ""
        return f"{self.path}: {where}{self.problem}"


@dataclass(frozen=True)
class Repaired:
    """What ``repair`` has done.

    Attributes:
        quarantined: Files moved aside, under their new names.
        num_salvaged: Videos that were intact inside a damaged shard, in a new shard now.
        lost: ``(stream, video)`` pairs to extract again.
    """

    quarantined: list[Path]
    num_salvaged: int
    lost: list[tuple[str, str]]


def verify(store: "Store", quick: bool = False) -> list[Finding]:
    """Check a store.

    Args:
        store: The store.
        quick: Check sizes, HDF5's own checksums, and the index of every file, but not the
            features themselves.

    Returns:
        What was found; an empty list: the store is whole.
    """
    streams = [store.stream(name) for name in store.streams()]
    num_bytes = sum(_size(path) for stream in streams for path in _files(stream))
    findings: list[Finding] = []
    with progress("verify", total=num_bytes) as step:
        for stream in streams:
            checks = []
            for path in _files(stream):
                check_stop("nothing was changed")
                num_bytes = _size(path)
                checks.append(_check(stream, path, quick))
                step(num_bytes)
            findings += [finding for check in checks for finding in check.findings]
            findings += _check_index(stream)
            findings += _compare(stream, [check.shard for check in checks if check.shard])
    return findings


def repair(store: "Store") -> Repaired:
    """Move what is damaged to ``quarantine/``, so that resuming extracts only those videos again.

    The intact videos of a damaged shard are packed anew, leftovers of dead writers are removed,
    and the index is written from what is there.
    """
    quarantined: list[Path] = []
    lost: list[tuple[str, str]] = []
    num_salvaged = 0
    for name in store.streams():
        stream = store.stream(name)
        before = _known_videos(stream)
        for path in _files(stream):
            check_stop("files already checked stay as they are now")
            check = _check(stream, path, quick=False)
            if not check.findings:
                continue
            if check.intact:
                num_salvaged += len(check.intact.columns["id"])
                pack(stream.folder, stream.spec, [check.intact])
            before |= {finding.video for finding in check.findings if finding.video}
            quarantined.append(_set_aside(stream, path))
        for folder in (stream.folder / catalog.SHARDS, *catalog.list_units(stream.folder)):
            durable.sweep(folder)
        catalog.rebuild(stream.folder, stream.spec.hash, trust_index=False)
        stream.refresh()
        lost += [(name, video) for video in sorted(before) if video not in stream]
    return Repaired(quarantined, num_salvaged, lost)


def pack_parts(store: "Store") -> list[Path]:
    """Seal every unit that has parts, for workers that never came to it.

    Returns:
        The new shards.
    """
    packed = []
    for name in store.streams():
        stream = store.stream(name)
        for folder in catalog.list_units(stream.folder):
            packed.append(Writer(stream.folder, stream.spec, folder.name).seal())
    return [path for path in packed if path]


@dataclass(frozen=True)
class _Check:
    """One file: what is wrong, what it says, and what of it is good beside something bad."""

    findings: list[Finding]
    shard: shards.Shard | None = None
    intact: shards.Shard | None = None


def _check(stream: Stream, path: Path, quick: bool) -> _Check:
    try:
        shard = catalog.load_checked(path, stream.spec.hash)
        bad = [] if quick else shards.damaged_rows(shard, stream.spec)
    except FileNotFoundError:  # packed meanwhile
        return _Check([])
    except shards.Damaged as error:
        return _Check([Finding(stream.name, path, None, f"damaged: {error.problem}")])
    except UserError as error:
        return _Check([Finding(stream.name, path, None, str(error).removeprefix(f"{path}: "))])
    names = [shard.columns["id"][i].decode() for i in bad]
    problem = "damaged: its features do not match their checksum"
    findings = [Finding(stream.name, path, video, problem) for video in names]
    good = np.setdiff1d(np.arange(len(shard.columns["id"])), bad)
    columns = {name: values[good] for name, values in shard.columns.items()}
    intact = replace(shard, columns=columns) if bad and len(good) else None
    return _Check(findings, shard, intact)


def _check_index(stream: Stream) -> list[Finding]:
    try:
        index = catalog.read_index(stream.folder, stream.spec.hash)
    except shards.Damaged as error:
        return [Finding(stream.name, error.path, None, f"damaged: {error.problem}")]
    if index is None:
        return []
    findings = []
    for number, problem in catalog.absent(stream.folder, index).items():
        for row in np.flatnonzero(index.columns["file"] == number):
            video = index.columns["id"][row].decode()
            path = stream.folder / index.files[number]
            findings.append(Finding(stream.name, path, video, f"its shard {problem}"))
    return findings


def _compare(stream: Stream, loaded: list[shards.Shard]) -> list[Finding]:
    """Videos that two files hold with the same source and other numbers."""
    if not loaded:
        return []
    joined = {
        name: np.concatenate([shard.columns[name] for shard in loaded])
        for name in ("id", "source_hash", "version", "crc")
    }
    owner = np.repeat(np.arange(len(loaded)), [len(shard.columns["id"]) for shard in loaded])
    order = np.lexsort((owner, joined["version"], joined["id"]))
    findings = []
    for first, second in pairwise(order):
        if any(joined[name][first] != joined[name][second] for name in ("id", "version")):
            continue
        if joined["source_hash"][first] != joined["source_hash"][second]:
            problem = "made from another source file, both count as the newest"
        elif joined["crc"][first] != joined["crc"][second]:
            problem = "other numbers from the same source: the extraction is not deterministic"
        else:
            continue
        path, video = loaded[owner[second]].path, joined["id"][second].decode()
        other = loaded[owner[first]].path.name
        finding = Finding(stream.name, path, video, f"also in {other}, {problem}", damaged=False)
        findings.append(finding)
    return findings


def _known_videos(stream: Stream) -> set[str]:
    try:
        index = catalog.read_index(stream.folder, stream.spec.hash)
    except shards.Damaged:
        return set()
    return set(index.names()) if index else set()


def _set_aside(stream: Stream, path: Path) -> Path:
    folder = stream.folder / QUARANTINE
    folder.mkdir(exist_ok=True)
    number, target = 0, folder / path.name
    while target.exists():
        number += 1
        target = folder / f"{path.stem}.{number}{path.suffix}"
    path.replace(target)
    durable.sync(folder)
    durable.sync(path.parent)
    log("quarantined", stream=stream.name, file=path, now=target)
    return target


def _files(stream: Stream) -> Iterator[Path]:
    yield from catalog.list_shards(stream.folder)
    yield from catalog.list_parts(stream.folder)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # packed meanwhile
        return 0
