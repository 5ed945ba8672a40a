"""Frames and flow at several scales."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from tad_distill.extract.tvl1 import pyramid
from tad_distill.extract.tvl1.settings import VARIANTS, Settings


@pytest.mark.parametrize(
    ("side", "sides"), [(224, [224, 179, 143, 114, 91]), (96, [96, 77, 62, 50, 40])]
)
def test_levels_have_opencvs_sizes(side: int, sides: list[int]) -> None:
    assert pyramid.level_sizes(side, side, Settings()) == [(n, n) for n in sides]


def test_a_level_below_16_pixels_is_left_out() -> None:
    assert pyramid.level_sizes(20, 100, Settings()) == [(20, 100), (16, 80)]
    assert pyramid.level_sizes(1, 1, Settings()) == [(1, 1)]


def test_frames_shrink_as_opencv_shrinks_them() -> None:
    frames = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (2, 37, 45))).float()
    level = pyramid.build(frames, Settings())[1]
    for mine, frame in zip(level, frames, strict=True):
        expected = cv2.resize(frame.numpy(), None, fx=0.8, fy=0.8)
        np.testing.assert_allclose(mine, expected, atol=1e-3)


def test_flow_grows_as_opencv_grows_it() -> None:
    flow = torch.from_numpy(np.random.default_rng(0).normal(0, 3, (2, 1, 16, 20))).float()
    finer = pyramid.refine(flow, (20, 25), Settings())
    for mine, part in zip(finer[:, 0], flow[:, 0], strict=True):
        expected = cv2.resize(part.numpy(), (25, 20)) / 0.8
        np.testing.assert_allclose(mine, expected, atol=1e-5)


def test_corners_lie_on_each_other_in_the_cuda_variant() -> None:
    ramp = torch.arange(40.0).expand(1, 40, 40)
    level = pyramid.build(ramp, replace(VARIANTS["opencv-cuda"], num_scales=2))[1]
    torch.testing.assert_close(level[0, 0], torch.arange(32) * 1.25)
