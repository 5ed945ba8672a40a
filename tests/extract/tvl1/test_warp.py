"""Bicubic look-up of a frame and its gradient."""

import numpy as np
import pytest
import torch

from tad_distill.extract.tvl1.warp import Warper, cubic_weights, gradient


def keys(x: float, a: float) -> float:
    """The kernel as Keys (1981) writes it."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


@pytest.mark.parametrize("a", [-0.5, -0.75])
def test_weights_are_keys_kernel(a: float) -> None:
    offsets = torch.linspace(0, 0.999, 17)
    expected = [[keys(float(f) - tap, a) for tap in (-1, 0, 1, 2)] for f in offsets]
    torch.testing.assert_close(cubic_weights(offsets, a), torch.tensor(expected))


def test_gradients_are_central_and_halved_at_the_edge() -> None:
    x = torch.tensor([[[0.0, 1.0, 4.0]]])
    assert gradient(x).tolist() == [[[[0.5, 2.0, 1.5]]], [[[0.0, 0.0, 0.0]]]]


@pytest.mark.parametrize("border", ["zero", "edge"])
@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (9, 7)])
def test_no_flow_changes_nothing(border: str, shape: tuple[int, int]) -> None:
    frames = torch.rand(3, *shape) * 255
    warped = Warper(frames, -0.75, border)(torch.zeros(2, 3, *shape))
    torch.testing.assert_close(warped, torch.cat([frames.unsqueeze(0), gradient(frames)]))


def test_whole_pixels_shift_each_frame_by_its_own_flow() -> None:
    frames = torch.rand(2, 8, 9)
    flow = torch.zeros(2, 2, 8, 9)
    flow[0, 0], flow[1, 1] = 2, -3
    warped = Warper(frames, -0.5, "edge")(flow)[0]
    torch.testing.assert_close(warped[0, :, :7], frames[0, :, 2:])
    torch.testing.assert_close(warped[0, :, 7:], frames[0, :, 8:].expand(8, 2))
    torch.testing.assert_close(warped[1, 3:], frames[1, :5])
    torch.testing.assert_close(warped[1, :3], frames[1, :1].expand(3, 9))


@pytest.mark.parametrize(("border", "expected"), [("zero", 0.0), ("edge", 7.0)])
@pytest.mark.parametrize("far", [-1e9, -2.0, 1e9, float("inf")])
def test_far_outside_lies_what_the_variant_says(border: str, expected: float, far: float) -> None:
    frames = torch.full((1, 4, 5), 7.0)
    flow = torch.full((2, 1, 4, 5), far if abs(far) > 2 else -9.0)
    warped = Warper(frames, -0.75, border)(flow)
    assert np.allclose(warped[0], expected)
