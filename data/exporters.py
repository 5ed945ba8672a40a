"""Write features as other programs read them."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tad_distill.console import UserError, check_stop, progress, warn
from tad_distill.data import durable
from tad_distill.data.grid import Grid
from tad_distill.data.store import Store


@dataclass
class Exported:
    """What was written, what not, and what the reader must be told about time."""

    settings: dict[str, Any]
    num_done: int = 0
    failed: list[str] = field(default_factory=list)


def export_npy(store: Store, streams: Sequence[str], out: Path) -> Exported:
    """Write ``OUT/VIDEO.npy``, ``(T, C)`` float32, for every video; several streams side by side.

    This is what ActionFormer reads as ``feat_folder`` (libs/datasets/thumos14.py at 61ea7eb) and
    OpenTAD as ``data_path``. Streams of another timing are interpolated to the steps of the
    first.

    Args:
        store: Where from.
        streams: Names; their channels follow in this order.
        out: A folder, made if need be.

    Returns:
        The settings are those of the readers' configuration files.

    Raises:
        UserError: A stream holds maps, or cannot be found.
        WriteError: The disk is full, or any other error of writing.
    """
    opened = {name: store.stream(name) for name in streams}
    if len(opened) != len(streams):
        raise UserError(f"a stream is named twice: {', '.join(streams)}")
    base = opened[streams[0]]
    grid = Grid(opened, base)
    out.mkdir(parents=True, exist_ok=True)
    exported = Exported(_settings(grid))
    videos = sorted(set().union(*(stream.videos for stream in opened.values())))
    with progress("export", total=len(videos)) as step:
        for video in videos:
            check_stop("files already written are whole")
            try:
                if lacking := grid.lacking(video):
                    raise UserError(f"video {video}: not in stream {', '.join(lacking)}")
                feats = grid.read(video)
            except UserError as error:
                warn(str(error))
                exported.failed.append(video)
                continue
            joined = np.concatenate([feats[name] for name in streams], axis=1, dtype=np.float32)
            buffer = io.BytesIO()
            np.save(buffer, joined)
            durable.write_bytes(out / f"{video}.npy", buffer.getvalue())
            exported.num_done += 1
            step()
    return exported


def _settings(grid: Grid) -> dict[str, Any]:
    """What the readers' configuration files call stride, clip and rate.

    Both place feature ``i`` at ``(i * stride + clip / 2) / fps``; so their clip is twice our
    offset.
    """
    spec = grid.base.spec
    width = sum(grid.dims.values())
    fps: float | str = spec.fps or "of each video, from the annotations"
    clip = 2 * spec.offset_frames
    return {
        "actionformer": {
            "file_ext": ".npy",
            "input_dim": width,
            "feat_stride": _plain(spec.stride_frames),
            "num_frames": _plain(clip),
            "default_fps": spec.fps,
        },
        "opentad": {
            "in_channels": width,
            "feature_stride": _plain(spec.stride_frames),
            "sample_stride": 1,
            "offset_frames": _plain(spec.offset_frames),
            "fps": fps,
        },
    }


def _plain(number: float) -> float | int:
    return int(number) if math.isclose(number, round(number)) else number
