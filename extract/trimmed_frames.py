"""The decoded frames of trimmed clips: every video is read once, in order, and kept as uint8."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from tad_distill import console
from tad_distill.console import UserError
from tad_distill.data.durable import temporary
from tad_distill.data.timeline import Timeline
from tad_distill.extract.trimmed import ClipList, TrimmedClip, by_video
from tad_distill.extract.video import Decoder

Frames = NDArray[np.uint8]

# The stop of a clip that ends with its video.
TO_THE_END = 1 << 62

# Times in a list are rounded: this far before a frame's time still means the frame.
ROUNDING_FRAMES = 1e-2


@dataclass(frozen=True)
class Spilled:
    """Where a clip's frames lie in the file."""

    offset: int
    shape: tuple[int, ...]


class TrimmedFrames(AbstractContextManager["TrimmedFrames"]):
    """``(N, H, W, 3)`` uint8 RGB frames by clip: in memory up to a limit, the rest in one file.

    Leaving the context deletes the file. So does the operating system when the process dies, as
    the file has lost its name by then.
    """

    def __init__(self, num_clips: int, beside: Path, memory_bytes: float) -> None:
        """Make room for ``num_clips`` clips; the file, if one is needed, lies beside a path."""
        self._kept: list[Frames | Spilled | None] = [None] * num_clips
        self._beside, self._left = beside, memory_bytes
        self._file: BinaryIO | None = None
        self.num_frames = 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Delete the file."""
        if self._file:
            self._file.close()

    def put(self, clip: int, frames: Frames) -> None:
        """Keep a clip's frames."""
        self.num_frames += len(frames)
        if frames.nbytes <= self._left:
            self._left -= frames.nbytes
            self._kept[clip] = frames
            return
        self._left = 0
        if self._file is None:
            name = temporary(self._beside)
            self._file = name.open("w+b")
            name.unlink()
        self._kept[clip] = Spilled(self._file.tell(), frames.shape)
        self._file.write(frames.tobytes())

    def __getitem__(self, clip: int) -> Frames:
        """A clip's frames; read-only where they lie in the file."""
        kept = self._kept[clip]
        assert kept is not None, f"clip {clip} was never put"
        if isinstance(kept, np.ndarray):
            return kept
        assert self._file is not None
        self._file.flush()
        return np.memmap(self._file, np.uint8, "r", kept.offset, kept.shape)

    @property
    def spilled_bytes(self) -> int:
        """Size of the file."""
        return self._file.tell() if self._file else 0


def decode(clips: ClipList, into: TrimmedFrames, fps: float | None, size: int | None) -> None:
    """Decode all clips.

    Args:
        clips: The list; ``into[i]`` will be the frames of ``clips.clips[i]``.
        into: Where the frames go.
        fps: Rate; None: each video's own.
        size: Side of the square that is kept of each frame, see :func:`middle_square`; None: the
            frames stay as they are.

    Raises:
        UserError: A clip ends after its video, holds no frame, or differs in size.
        VideoError: A video does not decode.
    """
    shape: tuple[int, ...] | None = None
    with console.progress("decode clips", len(clips.clips)) as step:
        for video, numbers in by_video(clips.clips):
            console.check_stop("the clips will be decoded again")
            for number, frames in _cut(clips, video, numbers, fps, size):
                shape = shape or frames.shape[1:]
                if frames.shape[1:] != shape:
                    raise UserError(
                        f"{video}: frames are {frames.shape[1]} x {frames.shape[2]}, those of "
                        f"other videos {shape[0]} x {shape[1]}; set size to make them equal"
                    )
                into.put(number, frames)
                step()
    console.log(
        "clips_decoded",
        num_clips=len(clips.clips),
        num_frames=into.num_frames,
        size="x".join(map(str, (shape or ())[:2])),
        on_disk_bytes=into.spilled_bytes,
    )


def middle_square(frame: Frames, size: int) -> Frames:
    """The middle square of an ``(H, W, 3)`` frame, resized to ``size`` pixels a side."""
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = frame[top : top + side, left : left + side]
    if side == size:
        return square
    method = cv2.INTER_AREA if size < side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (size, size), interpolation=method), dtype=np.uint8)


def _cut(
    clips: ClipList, video: Path, numbers: list[int], fps: float | None, size: int | None
) -> Iterator[tuple[int, Frames]]:
    """Decode one video and give out the frames of each of its clips, by the clip's number."""
    decoder = Decoder(video, fps=fps, fit=lambda f: f if size is None else middle_square(f, size))
    rate = fps or decoder.facts.fps
    if rate is None:
        raise UserError(f"{video}: does not tell its frame rate; set fps")
    spans = {number: _span(clips.clips[number], rate) for number in numbers}
    parts: dict[int, list[Frames]] = {
        number: [] for number in sorted(numbers, key=spans.__getitem__)
    }
    position = 0
    for chunk in decoder:
        end = position + len(chunk)
        for number in list(parts):
            first, stop = spans[number]
            if first >= end:
                break  # in order of their starts: the others begin later still
            parts[number].append(chunk[max(first - position, 0) : min(stop, end) - position].copy())
            if stop <= end:
                yield number, np.concatenate(parts.pop(number))
        position = end
    for warning in decoder.decoded.warnings:
        console.warn(f"{video}: {warning}")
    for number, frames in parts.items():
        if not frames or position + 1 < spans[number][1] < TO_THE_END:
            clip = clips.clips[number]
            raise UserError(
                f"{clips.path}:{clip.line}: the clip from {clip.start_s:g} s ends after its video "
                f"{video.name}, which is {position / rate:.6g} s long"
            )
        yield number, np.concatenate(frames)


def _span(clip: TrimmedClip, fps: float) -> tuple[int, int]:
    """First frame and the one after the last: all whose time is in ``[start_s, end_s)``."""
    timeline = Timeline(fps=fps, stride_frames=1, offset_frames=0)

    def first_from(seconds: float) -> int:
        return math.ceil(timeline.to_grid(seconds) - ROUNDING_FRAMES)

    first = first_from(clip.start_s)
    stop = TO_THE_END if clip.end_s is None else max(first_from(clip.end_s), first + 1)
    return first, stop
