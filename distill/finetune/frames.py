"""Decoded frames on disk: every video is decoded once, and any window of it can be read.

A file is named after the bytes of the video and how it was decoded, so a folder of them can serve
several runs and never a wrong one.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from tad_distill import console
from tad_distill.console import UserError
from tad_distill.data import durable
from tad_distill.data.store import Stream
from tad_distill.extract import sources
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.decoder import VideoBroken
from tad_distill.extract.loop import default_decoders
from tad_distill.extract.prefetch import Feed, feeds

NAMED = 5  # A message names this many videos and counts the rest.

Frames = NDArray[np.uint8]


class FrameCache:
    """The frames of some videos, at the rate and size of an extraction.

    Attributes:
        folder: Where they are.
    """

    def __init__(self, folder: Path, config: ExtractConfig) -> None:
        """Nothing is decoded yet; see :meth:`fill`."""
        self.folder = folder
        self._config = config
        self._arrays: dict[str, Frames] = {}

    def fill(self, files: Mapping[str, Path], stream: Stream) -> None:
        """Decode what is not there.

        Args:
            files: The videos.
            stream: Features of the same videos; tells how long each is, and of which file.

        Raises:
            UserError: A file is not the one that the features were made of, or cannot be decoded,
                or the disk is too small.
            Interrupted: A signal asked for a stop; decoded videos are kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        durable.sweep(self.folder)
        steps = {video: stream.entry(video).num_steps for video in files}
        num_frames = math.ceil(sum(steps.values()) * stream.spec.stride_frames)
        console.log(
            "frames",
            folder=self.folder,
            videos=len(files),
            frames=num_frames,
            gigabytes=num_frames * self._frame_bytes / 1e9 or "unknown",
        )
        with (
            console.progress("decode", num_frames) as tick,
            feeds(files.items(), self._config, self._is_wanted, self._num_decoders) as ahead,
        ):
            for feed in ahead:
                console.check_stop("decoded videos are kept")
                self._arrays[feed.name] = self._take(feed, stream)
                tick(steps[feed.name] * stream.spec.stride_frames)

    def num_frames(self, video: str) -> int:
        """How many frames a video has."""
        return len(self._arrays[video])

    def read(self, video: str, start: int, stop: int) -> Frames:
        """``(stop - start, H, W, 3)`` RGB frames."""
        return np.array(self._arrays[video][start:stop])

    def delete(self) -> None:
        """Remove the files of these videos, and the folder if nothing else is in it."""
        for array in self._arrays.values():
            assert isinstance(array, np.memmap) and array.filename is not None
            Path(array.filename).unlink(missing_ok=True)
        self._arrays = {}
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    @property
    def _num_decoders(self) -> int:
        return self._config.num_decoders or default_decoders(self._config)

    @property
    def _frame_bytes(self) -> int:
        """Of one frame; 0 where each video has its own size."""
        config = self._config
        if config.crop_px:
            return 3 * config.crop_px**2
        return 3 * math.prod(config.exact_px) if config.resize == "exact" else 0

    def _path(self, source_hash: str) -> Path:
        how = {"source": source_hash, "fps": self._config.fps, **asdict(self._config.framing())}
        key = hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()[:32]
        return self.folder / f"{key}.npy"

    def _is_wanted(self, video: str, source_hash: str) -> bool:
        return not self._path(source_hash).exists()

    def _take(self, feed: Feed, stream: Stream) -> Frames:
        expected = stream.entry(feed.name).source_hash
        path = self._path(feed.wait_for_hash())
        if feed.source_hash and feed.source_hash != expected:
            raise UserError(
                f"{feed.path}: is not the file that the features of {feed.name} in stream "
                f"{stream.spec.stream} were made of (sha256 {feed.source_hash[:12]} here, "
                f"{expected[:12]} there); name the folder with those videos"
            )
        try:
            if feed.source_hash and path.exists():
                for _ in feed.chunks():
                    pass  # of a file that another run has finished meanwhile
            else:
                num_frames = stream.entry(feed.name).num_steps * stream.spec.stride_frames
                _write(path, feed.chunks(), round(num_frames) * self._frame_bytes)
        except VideoBroken as error:
            raise UserError(f"{feed.path}: {error.broken.reason}") from error
        array: Frames = np.load(path, mmap_mode="r")
        return array


def find(named: Iterable[Path], videos: Iterable[str]) -> dict[str, Path]:
    """The file of each video.

    Raises:
        UserError: A video has none; the message counts them.
        UsageError: A file or folder does not exist.
    """
    files = sources.by_name(sources.find(named))
    wanted = list(videos)
    if lacking := [video for video in wanted if video not in files]:
        more = f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
        raise UserError(
            f"--videos: {len(lacking)} of {len(wanted)} videos are not there: "
            f"{', '.join(lacking[:NAMED])}{more}; their frames are needed, features are not enough"
        )
    return {video: files[video] for video in wanted}


def _write(path: Path, chunks: Iterable[Frames], num_bytes: int) -> None:
    """Write frames as they come; memory does not grow with their number."""
    shape: tuple[int, ...] = ()
    num_frames = 0
    with durable.replacing(path, num_bytes) as temp:
        with temp.open("wb") as file:
            for chunk in chunks:
                if not shape:
                    shape = chunk.shape[1:]
                    _write_header(file, (0, *shape))
                file.write(np.ascontiguousarray(chunk).data)
                num_frames += len(chunk)
            file.seek(0)
            _write_header(file, (num_frames, *shape))


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """NumPy leaves room in its header for the first axis to grow."""
    facts = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, facts)
