"""What an extraction would be: how many frames, bytes and hours. Nothing is extracted."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tad_distill import units
from tad_distill.console import UserError, log, result, table
from tad_distill.data.manifest import Listed
from tad_distill.data.store import Store
from tad_distill.extract import survey
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.decoder import DecoderProcess, VideoBroken
from tad_distill.extract.encoder import Encoder
from tad_distill.extract.loop import default_decoders, framed_for
from tad_distill.extract.trunk import share
from tad_distill.extract.video import VideoError

# Frames that a speed is measured over, after as many to warm up.
SAMPLE_FRAMES = 128


@dataclass(frozen=True)
class Speed:
    """What one frame costs, in seconds.

    Attributes:
        decode_s: In one decoder.
        encode_s: Modality and network of all streams.
    """

    decode_s: float
    encode_s: float

    def frame_s(self, num_decoders: int) -> float:
        """With decoders running beside the network."""
        return max(self.decode_s / num_decoders, self.encode_s)


def plan(
    listed: Mapping[str, Listed],
    encoders: Sequence[Encoder],
    store: Path,
    config: ExtractConfig,
    num_units: int,
) -> None:
    """Print what there is to do, by stream and in all.

    Args:
        listed: The videos.
        encoders: The streams.
        store: Where the features will go; what it holds already does not count.
        config: How to extract.
        num_units: Shares that the work is to be done in.

    Raises:
        UserError: No video can be decoded, so that nothing can be measured.
    """
    frames = survey.expected_frames(listed, config.fps)
    made = Store.open(store)
    rows, left = [], set[str]()
    for encoder in encoders:
        stream = made.create_stream(encoder.spec)
        missing = [video for video in listed if video not in stream]
        left |= set(missing)
        num_steps = sum(_num_steps(encoder, frames[video]) for video in missing)
        num_bytes = num_steps * int(np.prod(encoder.spec.shape)) * np.dtype(config.dtype).itemsize
        rows.append([encoder.spec.stream, len(missing), num_steps, f"{num_bytes / 1e6:,.1f}"])
    table(["stream", "videos", "steps", "MB"], rows, title="left to extract")
    silent = sum(not facts.num_frames for facts in listed.values())
    if silent:
        log("unknown_length", videos=silent, of=len(listed))
    if not left:
        result(f"0 of {len(listed)} videos: nothing is left to extract")
        return
    speed = measure([Path(listed[video].path) for video in sorted(left)], encoders, config)
    total = sum(frames[video] for video in left)
    num_decoders = config.num_decoders or default_decoders(config)
    hours = total * speed.frame_s(num_decoders) / 3600
    by_unit = [
        sum(frames[video] for video in names)
        for names in units.balanced({video: frames[video] for video in left}, num_units)
    ]
    result(
        f"{len(left)} of {len(listed)} videos, {total:,.0f} frames: {hours:.2f} hours on this "
        f"machine ({1 / speed.frame_s(num_decoders):,.0f} frames/s; decoding "
        f"{num_decoders / speed.decode_s:,.0f} in {num_decoders} process(es), network "
        f"{1 / speed.encode_s:,.0f})"
    )
    if num_units > 1:
        longest = max(by_unit) * speed.frame_s(num_decoders) / 3600
        result(f"in {num_units} units: the longest {longest:.2f} hours, {max(by_unit):,.0f} frames")


def measure(paths: Sequence[Path], encoders: Sequence[Encoder], config: ExtractConfig) -> Speed:
    """Time the first frames of the first video that decodes, after a warm-up.

    Raises:
        UserError: None does.
    """
    decoder = DecoderProcess(config.decode_timeout_s)
    try:
        for path in paths:
            try:
                return _timed(decoder, path, encoders, config)
            except (VideoBroken, VideoError):
                continue
    finally:
        decoder.close()
    raise UserError(
        f"{paths[0]}: this and the other {len(paths) - 1} videos left cannot be decoded"
    )


def _timed(
    decoder: DecoderProcess, path: Path, encoders: Sequence[Encoder], config: ExtractConfig
) -> Speed:
    chunks, seconds, num_frames = [], 0.0, 0
    start = time.perf_counter()
    framing = framed_for(config, encoders).framing()
    for item in decoder.decode(path, config.fps, framing):
        seconds = time.perf_counter() - start
        if isinstance(item, tuple):
            break
        chunks.append(item)
        num_frames += len(item)
        if num_frames >= SAMPLE_FRAMES:
            decoder.close()
            break
    encode_s = 0.0
    for _ in range(2):  # the first time warms up
        start = time.perf_counter()
        for trunk in share(encoders):
            encoding = trunk.begin()
            for chunk in chunks:
                encoding.push(chunk)
            encoding.finish()
        encode_s = time.perf_counter() - start
    return Speed(seconds / num_frames, encode_s / num_frames)


def _num_steps(encoder: Encoder, num_frames: float) -> int:
    """Steps of a video, as its cutter will make them."""
    spec = encoder.spec
    if encoder.config.regime == "snippet":
        rest = num_frames - spec.clip_frames
        return max(1, int(rest // spec.stride_frames) + 1) if num_frames else 0
    return int(-(-num_frames // spec.stride_frames))
