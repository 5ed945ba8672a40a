"""What made the features of a stream: two streams may be mixed only if this is equal."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from tad_distill.console import UserError, jsonable

# HDF5 keeps an attribute in the checksummed object header only below 64 KiB.
MAX_SPEC_BYTES = 60_000


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
        for name in ("weights", "details", "software"):
            plain = json.loads(_canonical(getattr(self, name)))
            object.__setattr__(self, name, plain)
        if len(self.json()) > MAX_SPEC_BYTES:
            raise UserError(f"stream {self.stream}: more than {MAX_SPEC_BYTES} bytes of settings")

    @property
    def hash(self) -> str:
        """SHA-256 over everything but ``software``, 64 hexadecimal digits."""
        table = asdict(self)
        del table["software"]
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
        """What differs from ``other``, software aside: ``key: OURS here, THEIRS there``."""
        ours, theirs = _flat(asdict(self)), _flat(asdict(other))
        return [
            f"{key}: {ours.get(key, 'nothing')} here, {theirs.get(key, 'nothing')} there"
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key) != theirs.get(key) and not key.startswith("software.")
        ]


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
