"""The feature store: one folder per stream, files that never change once they have their name.

::

    STORE/
      store.json                     schema, made once
      tsm18.rgb/                     a stream; its name with ":" written "."
        spec.json                    what made the features, and the hash over it
        parts/UNIT/VIDEO-HASH.h5     a committed video that is not packed yet
        shards/STREAM-KEY.h5         a sealed unit of videos; KEY follows from the contents
        failed/UNIT/VIDEO-HASH.json  a video that could not be extracted, and why
        index.h5                     cache over the shards, may be deleted at any time
        quarantine/                  what ``data repair`` has put aside

The files are described in :mod:`tad_distill.data.shards`; h5py alone reads them. Rules:

1. A name that ends in ``.h5`` and has no leading dot is complete and is never written again.
2. A video is committed if and only if a sealed shard lists it, or its part exists, with the hash
   of its source file. No log and no database counts.
3. The rows of one video are contiguous, and a CRC-32 of them is stored.
4. A part is unlinked only after the shard that holds it is durable. While both exist the shard
   counts.
5. ``index.h5`` is derived. A shard that it lists and that is gone is an error by name.
6. A feature that float16 cannot hold is an error naming the video.

A video's name is any file stem of up to 255 bytes of UTF-8, kept byte for byte. In the files it
stands as UTF-8; the name of a part is its readable letters and a hash.
"""

import json
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tad_distill.console import UserError
from tad_distill.data import catalog, durable, shards
from tad_distill.data.repair import repair, verify
from tad_distill.data.spec import StreamSpec
from tad_distill.data.timeline import Timeline
from tad_distill.data.writer import FAILED, Failure, Writer

__all__ = [
    "Entry",
    "Failure",
    "Store",
    "Stream",
    "StreamSpec",
    "Writer",
    "rebuild_index",
    "repair",
    "verify",
]

MARKER, SPEC = "store.json", "spec.json"
SCHEMA = 1
MAX_OPEN_SHARDS = 64


@dataclass(frozen=True)
class Entry:
    """What a stream knows about one video.

    Attributes:
        video: Its name.
        num_steps: Features along time.
        fps: Frames per second of the video itself.
        duration_s: Of the video; ``None`` where unknown.
        source_hash: Which source file the features were made from.
    """

    video: str
    num_steps: int
    fps: float
    duration_s: float | None
    source_hash: str


class Store:
    """A folder of streams; make one with :meth:`create` or :meth:`open`."""

    def __init__(self, path: Path) -> None:
        """Use :meth:`create` or :meth:`open`."""
        self.path = path

    @classmethod
    def create(cls, path: Path) -> "Store":
        """Make a store, or open the one that is there.

        Raises:
            UserError: The folder holds something else.
        """
        path = Path(path)
        if not (path / MARKER).exists():
            if path.exists() and not path.is_dir():
                raise UserError(f"{path}: not a folder, a feature store is one")
            if path.exists() and any(not p.name.startswith(".") for p in path.iterdir()):
                raise UserError(f"{path}: not empty and not a feature store; name a new folder")
            path.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"format": "tad-distill feature store", "schema": SCHEMA})
            durable.write_once(path / MARKER, text.encode())
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Open a store.

        Raises:
            UserError: There is none, or a newer version wrote it.
        """
        path = Path(path)
        try:
            facts = json.loads((path / MARKER).read_text())
        except FileNotFoundError as error:
            raise UserError(
                f"{path}: no feature store ({MARKER} is missing); make one with tad-distill "
                "extract or tad-distill data import"
            ) from error
        except (json.JSONDecodeError, NotADirectoryError) as error:
            raise UserError(f"{path / MARKER}: not readable: {error}") from error
        if facts.get("schema") != SCHEMA:
            raise UserError(f"{path}: schema {facts.get('schema')}, this version reads {SCHEMA}")
        return cls(path)

    def streams(self) -> list[str]:
        """The names of the streams, sorted."""
        return sorted(_read_spec(path.parent).stream for path in self.path.glob(f"*/{SPEC}"))

    def stream(self, name: str) -> "Stream":
        """Open a stream for reading.

        Raises:
            UserError: There is none of that name; the message lists those there are.
        """
        folder = self.path / name.replace(":", ".")
        if not (folder / SPEC).exists():
            there = ", ".join(self.streams()) or "none"
            raise UserError(f"{self.path}: no stream {name!r} (there are: {there})")
        return Stream(folder, _read_spec(folder))

    def create_stream(self, spec: StreamSpec) -> "Stream":
        """Make a stream, or open the one that was made with the same settings.

        Raises:
            UserError: The stream was made with other settings; the message names those that
                differ.
        """
        folder = self.path / spec.folder
        folder.mkdir(exist_ok=True)
        text = json.dumps({"schema": SCHEMA, "spec_hash": spec.hash, **json.loads(spec.json())})
        durable.write_once(folder / SPEC, (text + "\n").encode())
        there = _read_spec(folder)
        if there.hash != spec.hash:
            raise UserError(
                f"{folder}: stream {there.stream} was made with other settings: "
                f"{'; '.join(spec.differences(there))}; use another store, or delete the folder"
            )
        return Stream(folder, there)


class Stream:
    """The features of many videos, made in one way; safe to send to other processes.

    What is committed is looked up when first asked for; :meth:`refresh` looks again. Handles are
    opened where they are used and belong to one process.
    """

    def __init__(self, folder: Path, spec: StreamSpec) -> None:
        """Use ``Store.stream`` or ``Store.create_stream``."""
        self.folder, self.spec = folder, spec
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._handles: OrderedDict[int, shards.Handle] = OrderedDict()
        self._catalog: catalog.Catalog | None = None
        self._checked: NDArray[np.bool_] = np.zeros(0, bool)

    def __getstate__(self) -> dict[str, Any]:
        """Folder and spec alone: another process looks for itself."""
        return {"folder": self.folder, "spec": self.spec}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start with nothing open."""
        self.folder, self.spec = state["folder"], state["spec"]
        self._forget()

    def __repr__(self) -> str:
        """The name and the place."""
        return f"Stream({self.name!r} in {str(self.folder.parent)!r})"

    @property
    def name(self) -> str:
        """As in ``tsm18:rgb``."""
        return self.spec.stream

    @property
    def videos(self) -> list[str]:
        """The committed videos, sorted; a new list at every call."""
        return self.catalog.names()

    @property
    def catalog(self) -> catalog.Catalog:
        """Which videos there are and where; see :func:`tad_distill.data.catalog.read`."""
        if self._catalog is None:
            self._catalog = catalog.read(self.folder, self.spec.hash)
            self._checked = np.zeros(len(self._catalog), bool)
        return self._catalog

    def __len__(self) -> int:
        """The number of committed videos."""
        return len(self.catalog)

    def __contains__(self, video: str) -> bool:
        """Whether a video is committed."""
        return self.catalog.find(video) >= 0

    def refresh(self) -> None:
        """Look again for what is committed."""
        self._forget()

    def entry(self, video: str) -> Entry:
        """What is known about a video.

        Raises:
            UserError: It is not in the stream.
        """
        row, columns = self._row(video), self.catalog.columns
        duration = float(columns["duration"][row])
        return Entry(
            video=video,
            num_steps=int(columns["len"][row]),
            fps=float(columns["fps"][row]),
            duration_s=None if np.isnan(duration) else duration,
            source_hash=columns["source_hash"][row].decode(),
        )

    def timeline(self, video: str) -> Timeline:
        """Where the features of a video lie in time."""
        fps = self.spec.fps or float(self.catalog.columns["fps"][self._row(video)])
        return Timeline(
            fps=fps,
            stride_frames=self.spec.stride_frames,
            offset_frames=self.spec.offset_frames,
        )

    def read(self, video: str, start: int = 0, stop: int | None = None) -> NDArray[np.floating]:
        """Read features of a video.

        A whole video is held against its checksum the first time that this process reads it;
        a window is not (``data verify`` checks everything).

        Args:
            video: Its name.
            start: The first step.
            stop: One past the last step; ``None``: all.

        Returns:
            ``(T, *shape)`` in the stored dtype, freshly allocated.

        Raises:
            UserError: The video is not in the stream, or its file is gone.
            Damaged: The features are not what was stored.
        """
        row = self._row(video)
        columns = self.catalog.columns
        num_steps = int(columns["len"][row])
        stop = num_steps if stop is None else stop
        if not 0 <= start <= stop <= num_steps:
            raise ValueError(f"video {video}: steps {start}:{stop} of {num_steps}")
        try:
            handle = self._handle(int(columns["file"][row]))
        except FileNotFoundError:  # a part that has been packed since we looked
            self.refresh()
            return self._read_again(video, start, stop)
        rows = handle.rows(int(columns["off"][row]) + start, stop - start)
        if stop - start == num_steps and not self._checked[row]:
            if shards.crc_of_blocks([shards.bytes_of(rows)]) != columns["crc"][row]:
                raise shards.Damaged(handle.path, f"video {video} does not match its checksum")
            self._checked[row] = True
        return rows.reshape(stop - start, *self.spec.shape)

    def failed(self) -> list[Failure]:
        """The videos that could not be extracted and are not committed, sorted by name."""
        failures = []
        for unit in catalog.list_units(self.folder, FAILED):
            for path in unit.glob("*.json"):
                try:
                    failure = Failure(**json.loads(path.read_text()))
                except FileNotFoundError:
                    continue
                if failure.video not in self:
                    failures.append(failure)
        return sorted(failures, key=lambda failure: (failure.video, failure.unit))

    def writer(self, unit: str) -> Writer:
        """Start or resume writing a unit of work: any name, the same when it is resumed."""
        return Writer(self.folder, self.spec, unit)

    def _row(self, video: str) -> int:
        row = self.catalog.find(video)
        if row < 0:
            raise UserError(
                f"{self.folder.parent}: stream {self.name} has no video {video!r} "
                f"(it has {len(self):,}); list them with tad-distill data info --videos"
            )
        return row

    def _read_again(self, video: str, start: int, stop: int) -> NDArray[np.floating]:
        row = self._row(video)
        name = self.catalog.files[int(self.catalog.columns["file"][row])]
        if not (self.folder / name).exists():
            raise catalog.MissingShard(f"{self.folder / name}: gone while the store was read")
        return self.read(video, start, stop)

    def _handle(self, number: int) -> shards.Handle:
        """The opened file, from those that this process has open."""
        if self._pid != os.getpid():
            self._handles, self._pid = OrderedDict(), os.getpid()
        handle = self._handles.pop(number, None)
        if handle is None:
            path = self.folder / self.catalog.files[number]
            handle = shards.Handle(path, self.spec.dtype, self.spec.width)
            if len(self._handles) >= MAX_OPEN_SHARDS:
                self._handles.popitem(last=False)
        self._handles[number] = handle
        return handle


def rebuild_index(stream: Stream) -> int:
    """Write the stream's ``index.h5`` from the shards there are.

    Returns:
        The number of videos in sealed shards.
    """
    return len(catalog.rebuild(stream.folder, stream.spec.hash, trust_index=False))


def _read_spec(folder: Path) -> StreamSpec:
    path = folder / SPEC
    try:
        table = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    table.pop("schema", None)
    recorded = table.pop("spec_hash", None)
    spec = StreamSpec.from_table(table)
    if spec.hash != recorded:
        raise UserError(
            f"{path}: altered since it was written (its hash is {spec.hash[:12]}, recorded "
            f"{str(recorded)[:12]}); restore it from a shard's attribute 'spec'"
        )
    return spec
