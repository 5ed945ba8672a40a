"""Settings of an extraction; the spec of every stream keeps those that change its numbers."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tad_distill import config as settings
from tad_distill.extract.geometry import Framing
from tad_distill.extract.modalities import ModalityConfig

PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(Framing):
    """How videos become features; the size of the frames is part of it, see ``Framing``.

    Attributes:
        fps: Frames per second that are looked at, nearest frames of the video; None: each video's
            own rate.
        regime: ``window``: runs of frames, a feature per frame or per ``pool_frames``;
            ``snippet``: sliding clips, each encoded alone, one feature per clip.
        window_frames: Length of a run.
        halo_frames: Frames shown before and after a run and cut off again. 0: each run alone;
            None: as many as the backbone reads, so that the runs leave no trace.
        pool_frames: Frames that one feature is the mean over; 1: as the backbone gives them.
        clip_frames: Length of a snippet.
        clip_stride_frames: Frames between the starts of neighbouring snippets.
        dtype: As stored.
        precision: Of the network; half precision needs a GPU.
        batch_frames: Frames that go through the network at once, at least one run or snippet.
            Changes features by rounding alone.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        num_decoders: Videos decoded at the same time, each in a process of its own; 0: all cores
            but one beside a GPU, else a quarter of them.
        decode_timeout_s: A decoder that is silent for so long hangs: its video fails.
        modality: Settings of modalities, by name: ``modality.tg.first=repeat``.
    """

    fps: float | None = None
    regime: Literal["window", "snippet"] = "window"
    window_frames: int = 256
    halo_frames: int | None = None
    pool_frames: int = 1
    clip_frames: int = 16
    clip_stride_frames: int = 4
    dtype: Literal["float16", "float32"] = "float16"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_frames: int = 256
    device: str = "auto"
    num_decoders: int = 0
    decode_timeout_s: float = 120.0
    modality: dict[str, ModalityConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be extracted."""
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ValueError(f"fps: expected above 0 and up to 1000, got {self.fps}")
        positive = ("short_side_px", "window_frames", "pool_frames", "clip_frames")
        for name in (*positive, "clip_stride_frames", "batch_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("crop_px", "num_decoders"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if self.decode_timeout_s <= 0:
            raise ValueError(f"decode_timeout_s: expected above 0, got {self.decode_timeout_s}")
        if self.halo_frames is not None and self.halo_frames < 0:
            raise ValueError(f"halo_frames: expected at least 0, got {self.halo_frames}")
        if min(self.exact_px) < 1:
            raise ValueError(f"exact_px: expected at least 1, got {list(self.exact_px)}")
        sides = {"short_side": self.short_side_px, "exact": min(self.exact_px)}
        if self.crop_px > sides.get(self.resize, self.crop_px):
            raise ValueError(
                f"crop_px: {self.crop_px} is larger than the frame, whose shorter side is "
                f"{sides[self.resize]}"
            )


def load(preset: str | None = None, overrides: Iterable[str] = ()) -> ExtractConfig:
    """Build the settings from a shipped preset and ``key=value`` overrides.

    Raises:
        ConfigError: With the key, what was found and what is allowed.
    """
    table: dict[str, Any] = settings.read(settings.preset(PRESETS, preset)) if preset else {}
    table = json.loads(json.dumps(table))
    for override in overrides:
        settings.assign(table, override)
    # A modality's settings are of the kind that its name says.
    if isinstance(modalities := table.get("modality"), dict):
        for name, values in modalities.items():
            if isinstance(values, dict):
                values.setdefault("kind", name)
    return settings.build(ExtractConfig, table)
