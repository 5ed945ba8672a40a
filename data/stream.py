"""Read the features of one stream, from any process and any thread."""

import os
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tad_distill.console import UserError
from tad_distill.data import catalog, shards
from tad_distill.data.catalog import Catalog, MissingShard
from tad_distill.data.spec import StreamSpec
from tad_distill.data.timeline import Timeline
from tad_distill.data.writer import FAILED, Failure, Writer, read_failure

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


class Stream:
    """The features of many videos, made in one way; safe to send to other processes.

    What is committed is looked up when first asked for; :meth:`refresh` looks again. Handles are
    opened where they are used and belong to one process.
    """

    def __init__(self, folder: Path, spec: StreamSpec) -> None:
        """Use ``Store.stream`` or ``Store.create_stream``."""
        self.folder, self.spec = folder, spec
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._handles: OrderedDict[str, shards.Handle] = OrderedDict()
        self._view: _View | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Folder and spec alone: another process looks for itself."""
        return {"folder": self.folder, "spec": self.spec}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start with nothing open."""
        self.folder, self.spec = state["folder"], state["spec"]
        self._start()

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
    def catalog(self) -> Catalog:
        """Which videos there are and where; see :func:`tad_distill.data.catalog.read`."""
        return self._look().catalog

    def __len__(self) -> int:
        """The number of committed videos."""
        return len(self.catalog)

    def __contains__(self, video: str) -> bool:
        """Whether a video is committed."""
        return self.catalog.find(video) >= 0

    def refresh(self) -> None:
        """Look again for what is committed."""
        self._view = None

    def entry(self, video: str) -> Entry:
        """What is known about a video.

        Raises:
            UserError: It is not in the stream.
        """
        found = self.catalog
        row, columns = self._row(video, found), found.columns
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
        found = self.catalog
        fps = self.spec.fps or float(found.columns["fps"][self._row(video, found)])
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
        view = self._look()
        row = self._row(video, view.catalog)
        columns = view.catalog.columns
        num_steps = int(columns["len"][row])
        stop = num_steps if stop is None else stop
        if not 0 <= start <= stop <= num_steps:
            raise ValueError(f"video {video}: steps {start}:{stop} of {num_steps}")
        name = view.catalog.files[int(columns["file"][row])]
        try:
            handle = self._handle(name)
        except FileNotFoundError as error:
            if not name.startswith(catalog.PARTS):
                raise MissingShard(f"{self.folder / name}: gone since it was seen") from error
            self.refresh()  # it has been packed since
            return self.read(video, start, stop)
        rows = handle.rows(int(columns["off"][row]) + start, stop - start)
        if stop - start == num_steps and not view.checked[row]:
            if shards.crc_of_blocks([shards.bytes_of(rows)]) != columns["crc"][row]:
                raise shards.Damaged(handle.path, f"video {video} does not match its checksum")
            view.checked[row] = True
        return rows.reshape(stop - start, *self.spec.shape)

    def failed(self) -> list[Failure]:
        """The videos whose present source could not be extracted, sorted by name."""
        failures = []
        for unit in catalog.list_units(self.folder, FAILED):
            for path in unit.glob("*.json"):
                with suppress(FileNotFoundError):  # it has succeeded meanwhile
                    failures.append(read_failure(path))
        return sorted(failures, key=lambda failure: (failure.video, failure.unit))

    def writer(self, unit: str) -> Writer:
        """Start or resume writing a unit of work: any name, the same when it is resumed."""
        return Writer(self.folder, self.spec, unit)

    def _look(self) -> "_View":
        view = self._view
        if view is None:
            found = catalog.read(self.folder, self.spec.hash)
            view = self._view = _View(found, np.zeros(len(found), bool))
        return view

    def _row(self, video: str, found: Catalog) -> int:
        row = found.find(video)
        if row < 0:
            raise UserError(
                f"{self.folder.parent}: stream {self.name} has no video {video!r} (it has "
                f"{len(found):,}); list them with tad-distill data info --videos {self.name}"
            )
        return row

    def _handle(self, name: str) -> shards.Handle:
        """The opened file, from those that this process has open."""
        if self._pid != os.getpid():
            self._handles, self._pid = OrderedDict(), os.getpid()
        handle = self._handles.pop(name, None)
        if handle is None:
            handle = shards.Handle(self.folder / name, self.spec.dtype, self.spec.width)
            if len(self._handles) >= MAX_OPEN_SHARDS:
                self._handles.popitem(last=False)
        self._handles[name] = handle
        return handle


@dataclass(frozen=True)
class _View:
    """What a stream holds at one moment, and which videos this process has found whole."""

    catalog: Catalog
    checked: NDArray[np.bool_]


def rebuild_index(stream: Stream) -> int:
    """Write the stream's ``index.h5`` from the shards there are.

    Returns:
        The number of videos in sealed shards.
    """
    return len(catalog.rebuild(stream.folder, stream.spec.hash, trust_index=False))
