"""Video files made for a test, and a backbone that tells which frames it was shown."""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from tad_distill.extract import weights
from tad_distill.extract.backbones import Backbone


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """``(path, frames, fps=10, codec="mp4v") -> path``: encodes BGR frames."""
    return _write


@pytest.fixture(scope="session")
def set_gaps() -> Callable[[Path, Sequence[int]], None]:
    """``(path, gaps)``: rewrites the times of an MP4, in frames at its written rate."""
    return _set_gaps


@pytest.fixture(scope="session")
def set_rotation() -> Callable[[Path, int], None]:
    """``(path, degrees)``: asks players of an MP4 to turn its pictures clockwise."""
    return _set_rotation


class Light(Backbone):
    """A feature is the frame's mean brightness, 0 to 1: it tells which frames were seen."""

    normalisation = "symmetric"
    stages = ("all",)
    dim, stride_frames, halo_frames = 1, 1, 0

    def enter(self, frames: Tensor) -> Tensor:
        return frames

    def advance(self, maps: Tensor, stage: str) -> Tensor:
        return maps.mean((2, 3, 4), keepdim=True) / 2 + 0.5

    def adapt_channels(self, channels: int) -> None:
        pass


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> type[Backbone]:
    """A backbone named ``light`` whose features tell which frames were seen."""
    real = weights.build
    monkeypatch.setattr(weights, "build", lambda name: Light() if name == "light" else real(name))
    return Light


@pytest.fixture
def videos(tmp_path: Path) -> list[Path]:
    """Videos of 50, 40 and 1 frames, 10 a second, that brighten by 5 levels a frame."""
    return [
        _write(tmp_path / f"{name}.mp4", _ramp(num_frames))
        for name, num_frames in (("long", 50), ("middle", 40), ("single", 1))
    ]


def _write(
    path: Path, frames: Sequence[NDArray[np.uint8]], fps: float = 10, codec: str = "mp4v"
) -> Path:
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def _set_gaps(path: Path, gaps: Sequence[int]) -> None:
    # The box that grows stands behind the frames, so no offset changes.
    data = path.read_bytes()
    timescale, _ = struct.unpack(">II", _payload(data, "mdhd")[12:20])
    old = _payload(data, "stts")
    _, frame_ticks = struct.unpack(">II", old[8:16])
    entries = b"".join(struct.pack(">II", 1, gap * frame_ticks) for gap in gaps)
    data = _replace(data, "stts", old[:4] + struct.pack(">I", len(gaps)) + entries)
    ticks = sum(gaps) * frame_ticks
    media = bytearray(_payload(data, "mdhd"))
    media[16:20] = struct.pack(">I", ticks)
    data = _replace(data, "mdhd", bytes(media))
    movie_scale = struct.unpack(">I", _payload(data, "mvhd")[12:16])[0]
    length = struct.pack(">I", ticks * movie_scale // timescale)
    for box, at in (("mvhd", 16), ("tkhd", 20), ("elst", 8)):
        if box.encode() in data:
            changed = bytearray(_payload(data, box))
            changed[at : at + 4] = length
            data = _replace(data, box, bytes(changed))
    path.write_bytes(data)


def _set_rotation(path: Path, degrees: int) -> None:
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    one = 1 << 16
    matrix = (cosine * one, sine * one, 0, -sine * one, cosine * one, 0, 0, 0, 1 << 30)
    data = path.read_bytes()
    header = bytearray(_payload(data, "tkhd"))
    header[40:76] = struct.pack(">9i", *matrix)
    path.write_bytes(_replace(data, "tkhd", bytes(header)))


def _chain(data: bytes, name: str) -> list[int]:
    """Starts of the boxes that lead to the first box of a name, outermost first."""
    parents = {"moov", "trak", "mdia", "minf", "stbl", "edts"}

    def search(start: int, end: int) -> list[int] | None:
        while start + 8 <= end:
            size, kind = struct.unpack(">I4s", data[start : start + 8])
            box = kind.decode("latin-1")
            if box == name:
                return [start]
            if box in parents and (rest := search(start + 8, start + size)):
                return [start, *rest]
            start += size
        return None

    found = search(0, len(data))
    assert found, name
    return found


def _payload(data: bytes, name: str) -> bytes:
    start = _chain(data, name)[-1]
    return data[start + 8 : start + struct.unpack(">I", data[start : start + 4])[0]]


def _replace(data: bytes, name: str, payload: bytes) -> bytes:
    chain = _chain(data, name)
    grown = len(payload) - len(_payload(data, name))
    changed = bytearray(data)
    for start in chain:
        size = struct.unpack(">I", data[start : start + 4])[0]
        changed[start : start + 4] = struct.pack(">I", size + grown)
    start = chain[-1]
    changed[start + 8 : start + 8 + len(_payload(data, name))] = payload
    return bytes(changed)


def _ramp(num_frames: int) -> list[NDArray[np.uint8]]:
    return [np.full((48, 64, 3), 5 * i, np.uint8) for i in range(num_frames)]
