"""Small feature stores for the tests of this folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tad_distill.data.store import Store, Stream, StreamSpec

Feats = NDArray[np.floating]


@pytest.fixture(scope="session")
def spec_of() -> Callable[..., StreamSpec]:
    """A spec that differs from the usual one in what is given."""

    def make(**changes: Any) -> StreamSpec:
        settings: dict[str, Any] = {
            "stream": "i3d:rgb",
            "backbone": "i3d",
            "modality": "rgb",
            "weights": {"sha256": "0" * 64},
            "clip_frames": 16,
            "stride_frames": 4,
            "offset_frames": 8,
            "shape": (32,),
            "details": {"size": 224},
        }
        return StreamSpec(**(settings | changes))

    return make


@pytest.fixture(scope="session")
def feats_by_video() -> dict[str, Feats]:
    """24 videos of 1 to 60 steps, with names that users have."""
    rng = np.random.default_rng(0)
    names = [f"video_test_{i:07d}" for i in range(20)]
    names += ["日本 の ビデオ", "čaj.v1 (2)", ".hidden", "A" * 255]
    return {n: rng.standard_normal((rng.integers(1, 61), 32)).astype("<f2") for n in names}


@pytest.fixture
def filled(
    spec_of: Callable[..., StreamSpec],
) -> Callable[[Path, Mapping[str, Feats]], Stream]:
    """Make a store with one sealed unit and return its stream."""

    def make(path: Path, feats_by_video: Mapping[str, Feats]) -> Stream:
        stream = Store.create(path).create_stream(spec_of())
        writer = stream.writer("0")
        for video, feats in feats_by_video.items():
            writer.commit(video, feats, fps=25.0, duration_s=9.5, source_hash=f"hash of {video}")
        writer.seal()
        return Store.open(path).stream("i3d:rgb")

    return make
