"""Layers against torch's own operators and a plain loop."""

import math

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


def attended_by_loop(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, window: int
) -> torch.Tensor:
    num_videos, num_heads, num_steps, dim = query.shape
    out = torch.zeros_like(query)
    for b in range(num_videos):
        for h in range(num_heads):
            for t in range(num_steps):
                near = [
                    u
                    for u in range(num_steps)
                    if mask[b, u] and (window <= 1 or abs(t - u) <= window // 2)
                ]
                if mask[b, t]:
                    weights = (key[b, h, near] @ query[b, h, t] / math.sqrt(dim)).softmax(0)
                    out[b, h, t] = weights @ value[b, h, near]
    return out


@pytest.mark.parametrize("window", [-1, 1, 2, 3, 8, 19, 1000])
@pytest.mark.parametrize("dense_below", [0, 256])
def test_attention_equals_a_loop_at_any_window_and_length(
    window: int, dense_below: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "DENSE_BELOW", dense_below)
    torch.manual_seed(0)
    num_steps = 45  # no multiple of the blocks
    query, key, value = torch.randn(3, 2, 2, num_steps, 4).unbind()
    mask = torch.arange(num_steps) < torch.tensor([[num_steps], [21]])
    found = layers.attend(query, key, value, mask, window)
    expected = attended_by_loop(query, key, value, mask, window)
    real = mask[:, None, :, None]
    torch.testing.assert_close(found * real, expected, atol=1e-5, rtol=1e-5)
    assert found.isfinite().all()


def test_attention_in_blocks_has_the_gradients_of_the_dense_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    tensors = torch.randn(3, 1, 2, 300, 4)
    mask = torch.arange(300) < 290
    gradients = []
    for dense_below in (0, 1000):
        monkeypatch.setattr(layers, "DENSE_BELOW", dense_below)
        leaf = tensors.clone().requires_grad_()
        query, key, value = leaf.unbind()
        out = layers.attend(query, key, value, mask.unsqueeze(0), 19)
        (out[:, :, :290] ** 2).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [-1, 5])
def test_a_padded_step_sees_itself_where_nothing_is_real(window: int) -> None:
    tensors = torch.randn(3, 1, 2, 12, 4, requires_grad=True)
    query, key, value = tensors.unbind()
    out = layers.attend(query, key, value, torch.zeros(1, 12, dtype=torch.bool), window)
    torch.testing.assert_close(out, value)  # so that no softmax is empty, on any device
    out.sum().backward()
    assert tensors.grad is not None and tensors.grad.isfinite().all()


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


def test_a_block_is_zero_where_not_real_and_halves_the_mask() -> None:
    torch.manual_seed(0)
    block = layers.PyramidBlock(8, num_heads=2, window=3, stride=2, drop_path=0.1).eval()
    mask = torch.arange(12) < torch.tensor([[12], [5]])
    feats, halved = block(torch.randn(2, 12, 8), mask)
    assert halved.tolist() == [[True] * 6, [True] * 3 + [False] * 3]
    assert feats.shape == (2, 6, 8) and not feats[~halved].any() and feats[halved].all()
