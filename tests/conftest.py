"""Fixtures that several test folders use."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tad_distill.data.store import Stream

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data beside the clone: golden outputs and real videos, which do not travel."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip(f"needs the reference data in {path.name}/ beside the clone")
    return path


AddStream = Callable[..., "Stream"]


@pytest.fixture(scope="session")
def add_stream() -> AddStream:
    """Make a stream in a store from arrays; settings of the spec may be given by keyword."""
    from tad_distill.data.store import Store, StreamSpec

    def add(
        path: Path, name: str, feats: Mapping[str, NDArray[Any]], fps: float = 10.0, **spec: Any
    ) -> "Stream":
        settings = {
            "backbone": "made",
            "modality": name.partition(":")[2] or "any",
            "clip_frames": 1,
            "stride_frames": 1,
            "offset_frames": 0.5,
            "shape": next(iter(feats.values())).shape[1:],
            "dtype": "float32",
        }
        made = StreamSpec(stream=name, **{**settings, **spec})
        stream = Store.create(path).create_stream(made)
        writer = stream.writer("all")
        for video, array in feats.items():
            duration_s = len(array) * made.stride_frames / (made.fps or fps)
            writer.commit(video, array, fps=fps, duration_s=duration_s, source_hash=video)
        writer.seal()
        stream.refresh()
        return stream

    return add
