"""Flow of real frames, against OpenCV's and against the truth."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tad_distill.extract.tvl1 import native
from tad_distill.extract.tvl1.flow import flow
from tad_distill.extract.tvl1.settings import VARIANTS

Flow = NDArray[np.float32]


def found(first: NDArray[np.uint8], second: NDArray[np.uint8], variant: str = "opencv-cpu") -> Flow:
    frames = torch.from_numpy(np.stack([first, second]))
    return flow(frames, VARIANTS[variant])[0].movedim(0, -1).numpy()


def errors(one: Flow, other: Flow) -> NDArray[np.float32]:
    return np.linalg.norm(one - other, axis=-1)


# Two implementations that round differently, or one whose input is moved by one rounding, stop at
# different iterations; the reference sheet's bound for that is 0.05 pixel on average.
@pytest.mark.parametrize("size", [96, 224])
def test_flow_is_opencvs_but_for_what_rounding_does(shared: Path, size: int) -> None:
    if size == 224 and not native.is_available():
        pytest.skip("needs a C++ compiler to be quick")
    golden = np.load(shared / f"golden/tvl1/tvl1_{size}x{size}.npz")
    for pair in range(6):
        expected = golden[f"flow_{pair}"].astype(np.float32)
        error = errors(found(golden[f"prev_{pair}"], golden[f"next_{pair}"]), expected)
        assert error.mean() < 0.05
        assert np.median(error) < 0.02
        assert np.percentile(error, 95) < 0.12


@pytest.mark.parametrize("size", [96, 224])
def test_fast_flow_is_near_opencvs(shared: Path, size: int) -> None:
    golden = np.load(shared / f"golden/tvl1/tvl1_{size}x{size}.npz")
    means = []
    for pair in range(6):
        mine = found(golden[f"prev_{pair}"], golden[f"next_{pair}"], "fast")
        means.append(errors(mine, golden[f"flow_{pair}"].astype(np.float32)).mean())
    assert np.mean(means) < 0.15


def _read_flo(path: Path) -> Flow:
    with path.open("rb") as file:
        assert file.read(4) == b"PIEH"
        width, height = np.fromfile(file, np.int32, 2)
        return np.fromfile(file, np.float32).reshape(height, width, 2)


def _grey(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    return image.astype(np.uint8)


def _truth(path: Path) -> Flow:
    return np.load(path)["flow"].astype(np.float32) if path.suffix == ".npz" else _read_flo(path)


# End-point errors in pixels of DualTVL1OpticalFlow, opencv-contrib-python 5.0.0, defaults.
PAIRS = {
    "middlebury_rubberwhale": (("frame1.png", "frame2.png", "flow_gt.flo"), 0.15625),
    "sintel": (("frame_0001.png", "frame_0002.png", "frame_0001_flow.npz"), 0.37175),
    "tiny_mmflow": (("00001_img1.ppm", "00001_img2.ppm", "00001_flow.flo"), 0.54376),
}


# The motion of the last, 50 pixels wide, is too large for a rough flow.
@pytest.mark.parametrize(
    ("variant", "factor", "name"),
    [
        *(("opencv-cpu", 1.005, name) for name in PAIRS),
        *(("opencv-cuda", 1.04, name) for name in PAIRS),
        *(("fast", 1.3, name) for name in list(PAIRS)[:2]),
    ],
)
def test_flow_is_as_near_to_the_truth_as_opencvs(
    shared: Path, variant: str, factor: float, name: str
) -> None:
    if name != "tiny_mmflow" and not native.is_available():
        pytest.skip("needs a C++ compiler to be quick")
    files, opencv = PAIRS[name]
    folder = shared / "real/flow" / name
    first, second = (_grey(folder / file) for file in files[:2])
    truth = _truth(folder / files[2])
    known = np.isfinite(truth).all(-1) & (np.abs(truth).max(-1) < 1e4)
    assert errors(found(first, second, variant), truth)[known].mean() < factor * opencv
