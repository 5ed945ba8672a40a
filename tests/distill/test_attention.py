"""Banded attention against a plain loop, in one product and in blocks."""

import math

import pytest
import torch

from tad_distill.distill import attention


def attended_by_loop(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    window: int,
    bias: torch.Tensor | None = None,
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
                    likes = key[b, h, near] @ query[b, h, t] / math.sqrt(dim)
                    if bias is not None:
                        likes = likes + bias[h, [u - t + window // 2 for u in near]]
                    out[b, h, t] = likes.softmax(0) @ value[b, h, near]
    return out


@pytest.mark.parametrize("window", [-1, 1, 2, 3, 8, 19, 1000])
@pytest.mark.parametrize("dense_below", [0, 256])
@pytest.mark.parametrize("biased", [False, True])
def test_attention_equals_a_loop_at_any_window_and_length(
    window: int, dense_below: int, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "DENSE_BELOW", dense_below)
    torch.manual_seed(0)
    num_steps = 45  # no multiple of the blocks
    query, key, value = torch.randn(3, 2, 2, num_steps, 4).unbind()
    mask = torch.arange(num_steps) < torch.tensor([[num_steps], [21]])
    bias = torch.randn(2, 2 * (window // 2) + 1) if biased and window > 1 else None
    found = attention.attend(query, key, value, mask, window, bias)
    expected = attended_by_loop(query, key, value, mask, window, bias)
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
        monkeypatch.setattr(attention, "DENSE_BELOW", dense_below)
        leaf = tensors.clone().requires_grad_()
        query, key, value = leaf.unbind()
        out = attention.attend(query, key, value, mask.unsqueeze(0), 19)
        (out[:, :, :290] ** 2).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [-1, 5])
def test_a_padded_step_sees_itself_where_nothing_is_real(window: int) -> None:
    tensors = torch.randn(3, 1, 2, 12, 4, requires_grad=True)
    query, key, value = tensors.unbind()
    out = attention.attend(query, key, value, torch.zeros(1, 12, dtype=torch.bool), window)
    torch.testing.assert_close(out, value)  # so that no softmax is empty, on any device
    out.sum().backward()
    assert tensors.grad is not None and tensors.grad.isfinite().all()


def test_relative_positions_are_learned_only_with_a_window() -> None:
    local, full = (
        attention.Attention(8, num_heads=2, window=window, stride=1, relative=True)
        for window in (5, -1)
    )
    assert local.rel_pe is not None and local.rel_pe.shape == (2, 5)
    assert full.rel_pe is None
