"""Clips spread evenly over videos, always the same ones: what statistics are made of."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tad_distill.console import check_stop, log, progress
from tad_distill.extract.decoder import DecoderProcess, VideoBroken
from tad_distill.extract.decoding import Broken
from tad_distill.extract.encoder import Encoder

# Of a clip, where the extraction does not cut clips itself.
CLIP_FRAMES = 32
NOTHING_WRITTEN = "nothing was written"


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of a video.

    Attributes:
        frames: ``(N, H, W, 3)``, the modality's history included.
        has_history: Whether there is any.
        length: Frames without the history.
    """

    frames: NDArray[np.uint8]
    has_history: bool
    length: int


def chosen(files: Mapping[str, Path], num_clips: int) -> dict[str, Path]:
    """The videos that clips are taken from, in the order of a hash of their names."""
    names = sorted(files, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return {name: files[name] for name in names[:num_clips]}


def sample(
    files: Mapping[str, Path], encoder: Encoder, num_clips: int
) -> tuple[list[Clip], dict[str, str]]:
    """Take clips of the videos in turn, evenly over the length of each.

    Args:
        files: As :func:`chosen`.
        encoder: What the clips are shown to.
        num_clips: How many are wanted; a video that is too short for its share gives fewer, or one
            clip of all that it has.

    Returns:
        The clips; and why, for each video that gives none.

    Raises:
        Interrupted: A signal asked for a stop.
    """
    by_video: list[list[Clip]] = []
    failed: dict[str, str] = {}
    decoder = DecoderProcess(encoder.config.decode_timeout_s)
    try:
        with progress("sample", len(files)) as step:
            for number, (name, path) in enumerate(files.items()):
                check_stop(NOTHING_WRITTEN)
                share = len(range(number, num_clips, len(files)))
                try:
                    by_video.append(_clips_of(decoder, path, encoder, share))
                except VideoBroken as error:
                    failed[name] = error.broken.reason
                    log("failed", video=name, path=path, reason=error.broken.reason)
                step()
    finally:
        decoder.close()
    longest = max(map(len, by_video), default=0)
    turns = [clips[turn] for turn in range(longest) for clips in by_video if turn < len(clips)]
    return turns, failed


def _clips_of(decoder: DecoderProcess, path: Path, encoder: Encoder, num: int) -> list[Clip]:
    config, before = encoder.config, encoder.modality.frames_before
    length = clip_frames(encoder)
    claims = decoder.claims(path)
    rate = config.fps or claims.fps or 0.0
    num_frames = round((claims.duration_s or 0) * rate)
    spare = max(0, num_frames - length)
    # As evenly as there is room for; behind each other where the file does not say how long it is.
    starts = [int((i + 0.5) / num * spare) if num_frames else i * length for i in range(num)]
    wanted = {start: max(0, start - before) for start in starts}
    frames: list[NDArray[np.uint8]] = []
    first, clips = 0, dict[int, Clip]()
    for item in decoder.decode(path, config.fps, config.framing()):
        if isinstance(item, tuple):
            break
        frames.append(item)
        end = first + sum(map(len, frames))
        for start in [s for s in wanted if s + length <= end and s not in clips]:
            joined = np.concatenate(frames)[wanted[start] - first : start + length - first]
            clips[start] = Clip(joined.copy(), start >= before > 0, length)
        left = [wanted[s] for s in wanted if s not in clips]
        if not left:
            decoder.close()
            break
        while len(frames) > 1 and first + len(frames[0]) <= min(left):
            first += len(frames.pop(0))
    if not clips:
        return [_whole(np.concatenate(frames), encoder)]
    return [clips[start] for start in sorted(clips)]


def _whole(frames: NDArray[np.uint8], encoder: Encoder) -> Clip:
    """A video that is shorter than a clip, cut to whole steps.

    Raises:
        VideoBroken: It has not even one.
    """
    is_snippet = encoder.config.regime == "snippet"
    least = clip_frames(encoder) if is_snippet else encoder.backbone.multiple_frames
    length = len(frames) // least * least
    if not length:
        raise VideoBroken(Broken(f"has {len(frames)} frames, a clip takes at least {least}", ""))
    return Clip(frames[:length], has_history=False, length=length)


def clip_frames(encoder: Encoder) -> int:
    """Length of a clip: as the extraction cuts them, or CLIP_FRAMES, rounded up to whole steps."""
    if encoder.config.regime == "snippet":
        return encoder.config.clip_frames
    multiple = encoder.backbone.multiple_frames
    return -(-CLIP_FRAMES // multiple) * multiple
