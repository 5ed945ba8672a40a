"""Fixtures that several test folders use."""

import json
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


@pytest.fixture(scope="session")
def signal_world(tmp_path_factory: pytest.TempPathFactory, add_stream: AddStream) -> Path:
    """A folder with ``store`` and ``annotations.json``: 3 labels that each stream shows plainly.

    24 training, 4 validation and 8 test videos of 56 to 72 steps at 4 per second; streams
    ``made:rgb`` (12 channels), ``made:tg`` (10) and, for the training videos only, ``made:flow``.
    """
    import numpy as np

    folder = tmp_path_factory.mktemp("world")
    random = np.random.default_rng(0)
    widths = {"made:rgb": 12, "made:tg": 10, "made:flow": 10}
    codes = {name: random.normal(size=(3, width)) for name, width in widths.items()}
    feats: dict[str, dict[str, NDArray[Any]]] = {name: {} for name in widths}
    database = {}
    for number in range(36):
        video, length = f"v{number:02d}", int(random.integers(56, 73))
        subset = "training" if number < 24 else "validation" if number < 28 else "test"
        annotations, at = [], int(random.integers(2, 6))
        made = {name: 0.5 * random.normal(size=(length, width)) for name, width in widths.items()}
        while at < length - 6:
            end = min(at + int(random.integers(4, 12)), length)
            label = int(random.integers(3))
            for name, array in made.items():
                array[at:end] += codes[name][label]
            segment = [at / 4, end / 4]
            annotations.append({"label": ["fall", "jump", "run"][label], "segment": segment})
            at = end + int(random.integers(4, 10))
        for name, array in made.items():
            if subset == "training" or name != "made:flow":
                feats[name][video] = array
        facts = {"subset": subset, "duration": length / 4, "annotations": annotations}
        database[video] = facts
    for name in widths:
        settings = {"clip_frames": 2, "stride_frames": 2, "offset_frames": 1, "dtype": "float16"}
        add_stream(folder / "store", name, feats[name], fps=8.0, **settings)
    (folder / "annotations.json").write_text(json.dumps({"database": database}))
    return folder
