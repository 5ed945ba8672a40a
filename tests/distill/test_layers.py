"""Layers against torch's own operators and a plain loop."""

import pytest
import torch
import torch.nn.functional as F

from tad_distill.distill import layers


def turned(feats: torch.Tensor) -> torch.Tensor:
    return feats.transpose(1, 2)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("num_steps", [1, 7])
def test_conv_equals_torch_conv1d(kernel: int, bias: bool, num_steps: int) -> None:
    torch.manual_seed(0)
    conv = layers.Conv(6, 4, kernel=kernel, bias=bias)
    if conv.bias is not None:
        torch.nn.init.normal_(conv.bias)
    feats = torch.randn(2, num_steps, 6)
    weight = conv.weight.movedim(0, 2)
    expected = turned(F.conv1d(turned(feats), weight, conv.bias, padding=kernel // 2))
    torch.testing.assert_close(conv(feats), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_a_strided_conv_equals_torch_conv1d(kernel: int, bias: bool) -> None:
    torch.manual_seed(0)
    conv = layers.Conv(6, 4, kernel=kernel, bias=bias, stride=2)
    if conv.bias is not None:
        torch.nn.init.normal_(conv.bias)
    feats = torch.randn(2, 8, 6)
    weight = conv.weight.movedim(0, 2)
    expected = turned(F.conv1d(turned(feats), weight, conv.bias, stride=2, padding=kernel // 2))
    torch.testing.assert_close(conv(feats), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_conv_equals_torch_conv1d(stride: int) -> None:
    torch.manual_seed(0)
    conv = layers.DepthwiseConv(5, stride=stride)
    feats = torch.randn(2, 8, 5)
    weight = conv.weight.T.unsqueeze(1)
    expected = F.conv1d(turned(feats), weight, stride=stride, padding=1, groups=5)
    torch.testing.assert_close(conv(feats), turned(expected), atol=1e-6, rtol=1e-5)


def test_new_convolutions_are_spread_as_torch_ones_are() -> None:
    torch.manual_seed(0)
    ours = layers.Conv(64, 64, kernel=3, bias=False).weight
    theirs = torch.nn.Conv1d(64, 64, 3).weight
    assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.03)
    ours = layers.DepthwiseConv(2000, stride=1).weight
    theirs = torch.nn.Conv1d(2000, 2000, 3, groups=2000).weight
    assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.05)


def test_pool_equals_torch_max_pool() -> None:
    feats = torch.randn(2, 8, 5) - 3
    expected = turned(F.max_pool1d(turned(feats), 3, stride=2, padding=1))
    assert torch.equal(layers.pool(feats, 2), expected)
    assert torch.equal(layers.pool(feats, 1), feats)


def test_a_residual_is_dropped_for_whole_videos_and_right_on_average() -> None:
    torch.manual_seed(0)
    residual = layers.Residual(3, 0.25)
    assert residual.scale is not None
    torch.nn.init.constant_(residual.scale, 2.0)
    feats, branch = torch.zeros(4000, 2, 3), torch.ones(4000, 2, 3)
    added = residual.train()(feats, branch)
    kept = added[:, 0, 0] > 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)
    torch.testing.assert_close(added[kept], torch.full_like(added[kept], 2 / 0.75))
    assert not added[~kept].any()
    torch.testing.assert_close(residual.eval()(feats, branch), 2 * branch)


def test_a_residual_without_drop_path_has_no_scale() -> None:
    residual = layers.Residual(3, 0.0)
    assert not list(residual.parameters())
    assert torch.equal(residual(torch.ones(1, 2, 3), torch.ones(1, 2, 3)), torch.full((1, 2, 3), 2))
