"""What made the features of a stream: two streams may be mixed only if this is equal."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tad_distill.console import UserError, jsonable

# HDF5 keeps an attribute in the checksummed object header only below 64 KiB.
MAX_SPEC_BYTES = 60_000

# File systems allow 255 bytes in a name; a video's name may use them all.
MAX_NAME_BYTES = 255
FLOAT16_MAX = 65504.0

# What does not change the numbers of a stream.
RECORDED = ("software", "origin")


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """What made the features of one stream.

    Attributes:
        stream: The name, as in ``tsm18:rgb``, ``tsm18:rgb@layer3``, ``i3d:flow``.
        backbone: The network.
        modality: What it looked at.
        weights: Where its parameters come from: ``sha256``, ``layout``, pretraining notes.
        fps: Frames per second that the videos were decoded at; ``None``: each at its own rate.
        clip_frames: Frames that one feature saw, at that rate.
        stride_frames: Frames between the centres of neighbouring features.
        offset_frames: The centre of feature 0, in frames from the start of the video; half a
            clip unless the clips are padded.
        shape: Of one step: ``(D,)`` pooled, ``(C, H, W)`` maps.
        dtype: As stored.
        details: Whatever else changes the numbers: frame size, crop, motion variant.
        software: Versions; recorded, but not part of :attr:`hash`.
        origin: How to make more features of the kind: the extraction's settings and the file of
            the weights; recorded, but not part of :attr:`hash`.
    """

    stream: str
    backbone: str
    modality: str
    weights: dict[str, Any] = field(default_factory=dict)
    fps: float | None = None
    clip_frames: float
    stride_frames: float
    offset_frames: float
    shape: tuple[int, ...]
    dtype: Literal["float16", "float32"] = "float16"
    details: dict[str, Any] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Bring numbers to one type, so that 30 and 30.0 are the same setting."""
        if not re.fullmatch(r"\w[\w.@+:-]{0,99}", self.stream, re.ASCII):
            raise UserError(
                f"stream {self.stream!r}: expected a name like tsm18:rgb "
                "(letters, digits and . @ + : - _, up to 100)"
            )
        numbers = {
            "fps": self.fps,
            "clip_frames": self.clip_frames,
            "stride_frames": self.stride_frames,
            "offset_frames": self.offset_frames,
        }
        for name, value in numbers.items():
            if value is None:
                continue
            if not math.isfinite(value) or (value <= 0 and name != "offset_frames"):
                raise UserError(f"stream {self.stream}: {name} must be positive, got {value}")
            object.__setattr__(self, name, float(value))
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        if not self.shape or min(self.shape) < 1:
            raise UserError(f"stream {self.stream}: impossible shape {self.shape}")
        if self.dtype not in ("float16", "float32"):
            raise UserError(f"stream {self.stream}: dtype {self.dtype!r}: float16 or float32")
        for name in ("weights", "details", *RECORDED):
            plain = json.loads(_canonical(getattr(self, name)))
            object.__setattr__(self, name, plain)
        if len(self.json()) > MAX_SPEC_BYTES:
            raise UserError(f"stream {self.stream}: more than {MAX_SPEC_BYTES} bytes of settings")

    @property
    def hash(self) -> str:
        """SHA-256 over everything but what is only recorded, 64 hexadecimal digits."""
        table = {key: value for key, value in asdict(self).items() if key not in RECORDED}
        return hashlib.sha256(_canonical(table).encode()).hexdigest()

    @property
    def width(self) -> int:
        """Numbers in one step."""
        return math.prod(self.shape)

    @property
    def folder(self) -> str:
        """The name of the stream's folder in a store."""
        return self.stream.replace(":", ".")

    def json(self) -> str:
        """The spec as JSON, ASCII only."""
        return _canonical(asdict(self))

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> "StreamSpec":
        """Build a spec from what :meth:`json` wrote.

        Raises:
            UserError: A key is missing or unknown: another version of this program wrote it.
        """
        names = {f.name for f in fields(cls)}
        if odd := sorted(names ^ table.keys()):
            raise UserError(
                f"stream {table.get('stream')}: missing or unknown in its settings: "
                f"{', '.join(odd)}; it was made by another version of tad-distill"
            )
        return cls(**table)

    def differences(self, other: "StreamSpec") -> list[str]:
        """What differs from ``other`` and matters: ``key: OURS here, THEIRS there``."""
        ours, theirs = _flat(asdict(self)), _flat(asdict(other))
        return [
            f"{key}: {ours.get(key, 'nothing')} here, {theirs.get(key, 'nothing')} there"
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key) != theirs.get(key) and key.partition(".")[0] not in RECORDED
        ]


def check_name(video: str) -> None:
    """Refuse what cannot be the name of a video.

    Raises:
        UserError: Empty, over 255 bytes as UTF-8, not UTF-8, or with a slash or NUL inside.
    """
    try:
        num_bytes = len(video.encode())
    except UnicodeEncodeError as error:
        raise UserError(f"video {video!r}: its name is not valid UTF-8; rename it") from error
    if not 0 < num_bytes <= MAX_NAME_BYTES:
        raise UserError(
            f"video {video!r}: its name has {num_bytes} bytes as UTF-8, "
            f"1 to {MAX_NAME_BYTES} are possible; rename it"
        )
    if "/" in video or "\0" in video:
        raise UserError(f"video {video!r}: a name may not contain / or NUL")


def to_rows(video: str, feats: NDArray[Any], spec: StreamSpec) -> tuple[NDArray[Any], float]:
    """Check features and cast them to what is stored.

    Args:
        video: For the error line.
        feats: ``(T, *shape)``.
        spec: Of the stream.

    Returns:
        ``(T, D)`` rows in the stored dtype, and the largest magnitude.
    """
    feats = np.asarray(feats)
    expected = "(" + ", ".join(["T", *map(str, spec.shape)]) + ")"
    if feats.shape[1:] != spec.shape or feats.ndim == 0:
        raise UserError(f"video {video}: features are {feats.shape}, {spec.stream} has {expected}")
    if not len(feats):
        raise UserError(f"video {video}: no features (0 steps); is it shorter than a clip?")
    if not np.issubdtype(feats.dtype, np.number) or np.iscomplexobj(feats):
        raise UserError(f"video {video}: features are {feats.dtype}, expected numbers")
    max_abs = _largest(feats)
    if not np.isfinite(max_abs):
        finite = np.isfinite(feats).reshape(len(feats), -1)
        raise UserError(
            f"video {video}: {finite.size - int(finite.sum())} of {finite.size} features are not "
            f"finite, first in step {int(np.argmin(finite.all(1)))}"
        )
    limit = FLOAT16_MAX if spec.dtype == "float16" else float(np.finfo(np.float32).max)
    if max_abs > limit:
        raise UserError(
            f"video {video}: a feature has magnitude {max_abs:g}, {spec.dtype} holds up to "
            f"{limit:g}; store {spec.stream} as another dtype or scale it"
        )
    kind = np.dtype(spec.dtype).newbyteorder("<")
    return feats.reshape(len(feats), -1).astype(kind, copy=False), max_abs


def _largest(feats: NDArray[Any]) -> float:
    """The largest magnitude; NaN or infinity if there is one."""
    if feats.dtype == np.float16:
        # The bits of the magnitude are in the order of the magnitudes, NaN last; comparing them
        # is some twenty times as fast as comparing float16.
        bits = (np.ascontiguousarray(feats).view(np.uint16) & 0x7FFF).max()
        return float(bits.view(np.float16))
    return max(float(feats.max()), -float(feats.min()))


def _canonical(table: Mapping[str, Any]) -> str:
    return json.dumps(table, sort_keys=True, default=jsonable, allow_nan=False)


def _flat(table: Mapping[str, Any], at: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{at}{key}.")
        else:
            flat[f"{at}{key}"] = json.dumps(value)
    return flat
