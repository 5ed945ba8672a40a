"""Decode a video once, in order, into RGB frames at a constant rate, in constant memory.

OpenCV is read sequentially and never asked to seek: its seeks land on wrong frames when the rate
varies (opencv#9053), while ``CAP_PROP_POS_MSEC`` after a read is that frame's own time. Pixels that
are not square are left as they are stored, as every tool of the field does.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

# Damaged files are reported by us, in one line each. FFmpeg's level is read at the first capture.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import numpy as np
from numpy.typing import NDArray

from tad_distill.console import UserError
from tad_distill.extract.clock import MAX_FPS, Clock, NearestTicks

if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

Image = NDArray[np.uint8]

SUFFIXES = frozenset(
    ".3gp .asf .avi .flv .h264 .h265 .hevc .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .vob"
    " .webm .wmv .y4m".split()
)

# More frames missing than this share of what the container claims is worth a warning.
SHORTFALL = 0.02

# Failed reads in a row that are taken for the end of the file: when it claims no frame count, and
# at most (two seconds of reading; a damaged header can claim billions of frames).
TRIES_AT_END = 16
MAX_TRIES_AT_END = 20_000

_TURNS = {
    90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    270: cv2.ROTATE_90_COUNTERCLOCKWISE,
}


class VideoError(UserError):
    """A file that cannot be decoded; the message says why in one line."""


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What a container claims about its video, and the size of the first frame as shown.

    Attributes:
        fps: Frames per second, None where the claim is absent or absurd.
        num_frames: Frames, None where the claim is absent or negative. Not always true.
        duration_s: ``num_frames / fps``, None where one of them is.
        width: Pixels, after rotation.
        height: Pixels, after rotation.
        rotation_deg: Clockwise turn the file asks for: 0, 90, 180 or 270.
        codec: Four letters, ``h264`` for example.
    """

    fps: float | None
    num_frames: int | None
    duration_s: float | None
    width: int
    height: int
    rotation_deg: int
    codec: str


@dataclass(kw_only=True)
class Decoded:
    """What decoding found; complete when the frames have run out.

    Attributes:
        num_claimed: Frames by the container, None where it does not say.
        num_decoded: Frames that decoded.
        num_lost: Places where the decoder failed and frames came again after.
        num_times_repaired: Frames whose time was missing or not after the frame before it.
        num_frames: Frames given out.
        video_fps: Rate of the video itself: as claimed where its frames' times agree.
        duration_s: From the first frame to the end of the last one.
        warnings: One line for everything that makes the frames less than what they should be.
    """

    num_claimed: int | None = None
    num_decoded: int = 0
    num_lost: int = 0
    num_times_repaired: int = 0
    num_frames: int = 0
    video_fps: float = 0.0
    duration_s: float = 0.0
    warnings: list[str] = field(default_factory=list)


def probe(path: Path) -> VideoFacts:
    """What a video file claims, after checking that its first frame decodes.

    Raises:
        VideoError: Not a video, or no frame decodes.
    """
    facts, capture = _open(path)
    try:
        image = next(_frames(capture, facts, Decoded()), None)
    finally:
        capture.release()
    if image is None:
        raise VideoError(_nothing_decodes(path, facts))
    return facts


def claims(path: Path) -> VideoFacts:
    """What a video file claims, without decoding anything.

    Raises:
        VideoError: Not a video.
    """
    facts, capture = _open(path)
    capture.release()
    return facts


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, as ``sha256sum`` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Decoder:
    """The frames of one video, in chunks.

    Attributes:
        facts: What the container claims.
        decoded: What was found; complete once the chunks have run out.
    """

    def __init__(
        self,
        path: Path,
        *,
        fps: float | None = None,
        fit: Callable[[Image], Image] = lambda image: image,
        chunk_frames: int = 64,
    ) -> None:
        """Open a file.

        Args:
            path: The video.
            fps: Rate of the frames given out, by the nearest rule of
                :func:`tad_distill.data.timeline.nearest_frames`. None: every frame once, and in
                place of frames lost to damage the one before them, so that the times stay true.
            fit: Resizes and crops one upright ``(H, W, 3)`` frame, to one size for all frames.
            chunk_frames: Frames per chunk; only the last chunk is shorter.

        Raises:
            VideoError: The file cannot be opened as a video.
        """
        self._path, self._fps, self._fit = path, fps, fit
        self._chunk_frames = chunk_frames
        self.facts, self._capture = _open(path)
        self.decoded = Decoded(num_claimed=self.facts.num_frames)

    def __iter__(self) -> Iterator[Image]:
        """Decode; may be done once.

        Yields:
            ``(N, H, W, 3)`` uint8 RGB, 1 <= N <= chunk_frames.

        Raises:
            VideoError: No frame decodes.
        """
        chunk: list[Image] = []
        try:
            for image, repeats in self._chosen():
                fitted = np.asarray(cv2.cvtColor(self._fit(image), cv2.COLOR_BGR2RGB), np.uint8)
                self.decoded.num_frames += repeats
                for _ in range(repeats):
                    chunk.append(fitted)
                    if len(chunk) == self._chunk_frames:
                        yield np.stack(chunk)
                        chunk = []
        finally:
            self._capture.release()
        if chunk:
            yield np.stack(chunk)

    def _chosen(self) -> Iterator[tuple[Image, int]]:
        """BGR frames and how often each of them is given out, at least once."""
        facts, found = self.facts, self.decoded
        clock = Clock(facts.fps, facts.duration_s)
        ticks = NearestTicks(self._fps) if self._fps else None
        before: Image | None = None
        for image in _frames(self._capture, facts, found):
            raw_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            # Frames are reordered, so behind a damaged place the gap may come a few frames later.
            repeats = clock.advance(raw_s, damaged=found.num_lost > 0)
            if ticks:
                repeats = ticks.push(clock.time_s)
            if before is not None and repeats:
                yield before, repeats
            before = image
        if before is None:
            raise VideoError(_nothing_decodes(self._path, facts))
        repeats = ticks.finish(clock.duration_s) if ticks else 1
        if repeats:
            yield before, repeats
        self._conclude(clock)

    def _conclude(self, clock: Clock) -> None:
        found = self.decoded
        found.num_times_repaired = clock.num_repaired
        found.video_fps = clock.mean_fps
        found.duration_s = clock.duration_s
        claimed, decoded = found.num_claimed, found.num_decoded
        warn = found.warnings.append
        if claimed is not None and decoded < (1 - SHORTFALL) * claimed:
            share = f"{1 - decoded / claimed:.1%}"
            warn(f"{decoded} of the {claimed} frames claimed decode ({share} are missing)")
        if found.num_lost:
            warn(f"damaged at {found.num_lost} place(s); lost frames are filled by those before")
        if clock.num_repaired > SHORTFALL * decoded:
            warn(
                f"{clock.num_repaired} of {decoded} times are missing or not ascending; "
                f"replaced by steps of 1/{clock.nominal_fps:.4g} s"
            )
        if self._fps is None and clock.varies:
            warn("the frame rate varies and the native rate was asked for: times are off; set fps")


def _open(path: Path) -> tuple[VideoFacts, cv2.VideoCapture]:
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise VideoError(f"{path}: the file is empty")
    except OSError as error:
        raise VideoError(f"{path}: cannot be read ({error.strerror})") from error
    # One thread per file is the fastest use of a core and makes damage decode the same every time.
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise VideoError(
            f"{path}: cannot be opened as a video (not a video, cut short or damaged at its start)"
        )
    # OpenCV 4.6 turned the wrong way and 4.11 not at all: the metadata is right, so we turn.
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
    return _facts(capture), capture


def _facts(capture: cv2.VideoCapture) -> VideoFacts:
    fps: float | None = capture.get(cv2.CAP_PROP_FPS)
    if fps is None or not 0 < fps <= MAX_FPS:
        fps = None
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    num_frames = int(count) if 0 < count < 2**40 else None
    rotation = int(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 360
    sides = [int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
    width, height = sides[::-1] if rotation in (90, 270) else sides
    code = int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
    return VideoFacts(
        fps=fps,
        num_frames=num_frames,
        duration_s=num_frames / fps if num_frames and fps else None,
        width=width,
        height=height,
        rotation_deg=rotation if rotation in _TURNS else 0,
        codec=code.to_bytes(4, "little").decode("latin-1").strip("\0 ") or "unknown",
    )


def _frames(capture: cv2.VideoCapture, facts: VideoFacts, found: Decoded) -> Iterator[Image]:
    """Upright BGR frames.

    OpenCV reports a damaged packet exactly as it reports the end of the file, but a further read
    goes on behind the damage. So reading ends only after as many failures in a row as the container
    claims frames that are still to come.
    """
    turn = _TURNS.get(facts.rotation_deg)
    failures = 0
    while True:
        ok, image = capture.read()
        if not ok:
            failures += 1
            left = facts.num_frames - found.num_decoded if facts.num_frames else TRIES_AT_END
            if failures > min(left, MAX_TRIES_AT_END):
                return
            continue
        if failures and found.num_decoded:
            found.num_lost += 1
        failures = 0
        found.num_decoded += 1
        yield np.asarray(image if turn is None else cv2.rotate(image, turn), np.uint8)


def _nothing_decodes(path: Path, facts: VideoFacts) -> str:
    return f"{path}: no frame decodes (codec {facts.codec}); convert it, for example to H.264"
