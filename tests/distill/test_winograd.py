"""Convolutions with fewer multiplications equal torch's, and so do their gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tad_distill.distill import winograd
from tad_distill.distill.layers import Conv

# Videos, steps, channels in and out; lengths around multiples of a tile's four steps.
SHAPES = [
    (1, 67, 12, 9),
    (1, 64, 8, 8),
    (3, 63, 6, 16),
    (3, 64, 6, 5),
    (2, 65, 7, 7),
    (2, 66, 9, 4),
]


def torch_convolution(feats: Tensor, weight: Tensor) -> Tensor:
    turned = F.conv1d(feats.transpose(1, 2), weight.movedim(0, 2), padding=1)
    return turned.transpose(1, 2)


@pytest.mark.parametrize("shape", [*SHAPES, (2, 1, 4, 4), (1, 2, 4, 4), (2, 3, 4, 4), (2, 5, 4, 4)])
def test_outputs_and_gradients_are_those_of_torch(shape: tuple[int, int, int, int]) -> None:
    num_videos, num_steps, dim, dim_out = shape
    torch.manual_seed(0)
    feats = torch.randn(num_videos, num_steps, dim, requires_grad=True)
    weight = torch.randn(3, dim_out, dim, requires_grad=True)
    given = torch.randn(num_videos, num_steps, dim_out)
    ours, exact = winograd.convolve(feats, weight), torch_convolution(feats, weight)
    torch.testing.assert_close(ours, exact, atol=1e-4, rtol=1e-5)
    found = torch.autograd.grad(ours, (feats, weight), given)
    expected = torch.autograd.grad(exact, (feats, weight), given)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-5)


def test_videos_of_a_batch_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    feats, weight = torch.randn(3, 64, 8), torch.randn(3, 8, 8)
    together = winograd.convolve(feats, weight)
    for video, alone in zip(feats, together, strict=True):
        single = winograd.convolve(video.unsqueeze(0), weight)[0]
        torch.testing.assert_close(single, alone, atol=1e-5, rtol=0)
    feats[1] = 1e6  # what leaks, however little, shows
    torch.testing.assert_close(winograd.convolve(feats, weight)[[0, 2]], together[[0, 2]])


def test_large_sums_are_nearly_as_exact_as_the_plain_product() -> None:
    torch.manual_seed(0)
    conv, feats = Conv(512, 128, kernel=3, bias=False), torch.randn(1, 300, 512)
    assert winograd.pays(feats, conv.weight)
    with torch.no_grad():
        ours = winograd.convolve(feats, conv.weight)
        exact = torch_convolution(feats.double(), conv.weight.double())
    assert (ours - exact).abs().max() < 1e-5 * exact.abs().mean()


@pytest.mark.parametrize(
    ("kernel", "dim", "num_steps", "dtype"),
    [(3, 64, 400, torch.float32), (5, 128, 400, torch.float32), (3, 128, 200, torch.float32)]
    + [(3, 128, 400, torch.float64)],
)
def test_other_convolutions_are_left_alone(
    kernel: int, dim: int, num_steps: int, dtype: torch.dtype
) -> None:
    feats, weight = torch.zeros(1, num_steps, dim, dtype=dtype), torch.zeros(kernel, 128, dim)
    assert not winograd.pays(feats, weight.to(dtype))


def test_half_precision_takes_the_plain_product() -> None:
    conv, feats = Conv(128, 128, kernel=3, bias=False), torch.randn(1, 400, 128)
    assert winograd.pays(feats, conv.weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert not winograd.pays(feats, conv.weight)
        assert conv(feats).dtype == torch.bfloat16
    assert conv(feats).dtype == torch.float32


def test_a_convolution_adds_its_bias() -> None:
    torch.manual_seed(0)
    conv, feats = Conv(128, 130, kernel=3, bias=True), torch.randn(2, 200, 128)
    assert conv.bias is not None and winograd.pays(feats, conv.weight)
    torch.nn.init.normal_(conv.bias)
    expected = torch_convolution(feats, conv.weight) + conv.bias
    torch.testing.assert_close(conv(feats), expected, atol=1e-4, rtol=1e-5)
