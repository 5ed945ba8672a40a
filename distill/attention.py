"""Banded attention over time with convolved queries, keys and values, ``(B, T, D)`` in and out.

Computes what ActionFormer's libs/modeling/blocks.py computes at 61ea7eb, without its sliding
chunks and their rule that the length be divisible.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tad_distill.distill.layers import DepthwiseConv, linear

# Attention in blocks of this many queries; shorter inputs take one dense product. Measured on one
# core: window 19, width 64 and 512.
BLOCK = 32
DENSE_BELOW = 256


class Attention(nn.Module):
    """Multi-head attention among the real steps of a band, with convolved queries, keys, values."""

    def __init__(
        self, dim: int, *, num_heads: int, window: int, stride: int, relative: bool = False
    ) -> None:
        """Make the layers.

        Args:
            dim: Width; divisible by ``num_heads``.
            num_heads: H.
            window: A step attends to the ``window // 2`` steps on either side; <= 1: to all.
            stride: Every how many steps there is a query, key and value.
            relative: Whether each head learns what a distance counts; of no effect, as in the
                official code, where a step attends to all.
        """
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.query_conv = DepthwiseConv(dim, stride=stride)
        self.key_conv = DepthwiseConv(dim, stride=stride)
        self.value_conv = DepthwiseConv(dim, stride=stride)
        self.query_norm = nn.LayerNorm(dim)
        self.key_norm = nn.LayerNorm(dim)
        self.value_norm = nn.LayerNorm(dim)
        self.query = linear(dim, dim)
        self.key = linear(dim, dim)
        self.value = linear(dim, dim)
        self.proj = linear(dim, dim)
        self.rel_pe: nn.Parameter | None = None
        if relative and window > 1:
            self.rel_pe = nn.Parameter(torch.empty(num_heads, 2 * (window // 2) + 1))
            nn.init.trunc_normal_(self.rel_pe, std=math.sqrt(2 / dim))

    def forward(self, feats: Tensor, mask: Tensor) -> Tensor:
        """Attend.

        Args:
            feats: ``(B, T, dim)``.
            mask: ``(B, T / stride)`` bool, of the output.

        Returns:
            ``(B, T / stride, dim)``; of no meaning, but finite, where not real.
        """
        # What the convolutions say of padded steps is read by nobody: no mask before attention.
        query = self._split(self.query(self.query_norm(self.query_conv(feats))))
        key = self._split(self.key(self.key_norm(self.key_conv(feats))))
        value = self._split(self.value(self.value_norm(self.value_conv(feats))))
        attended = attend(query, key, value, mask, self.window, self.rel_pe)
        return self.proj(attended.transpose(1, 2).flatten(2))

    def _split(self, feats: Tensor) -> Tensor:
        return feats.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    window: int,
    bias: Tensor | None = None,
) -> Tensor:
    """Scaled dot-product attention of each step to the real steps of a band around it.

    Equal to ActionFormer's sliding chunks, without their rule that the length be divisible.

    Args:
        query: ``(B, H, T, d)``.
        key: ``(B, H, T, d)``.
        value: ``(B, H, T, d)``.
        mask: ``(B, T)`` bool, true where real.
        window: Steps ``|t - u| <= window // 2`` see each other; <= 1: all do.
        bias: ``(H, 2 * (window // 2) + 1)`` added to the scaled product of query t and key u at
            ``u - t + window // 2``; only with a window.

    Returns:
        ``(B, H, T, d)``; of no meaning, but finite, where not real.
    """
    if window > 1 and query.shape[2] > DENSE_BELOW:
        return _attend_in_blocks(query, key, value, mask, window // 2, bias)
    band, own = _dense_band(query.shape[2], window, query.device)
    # A padded step sees itself, so that no row of the softmax is empty.
    visible = ((band & mask.unsqueeze(1)) | own).unsqueeze(1)
    if bias is not None:
        visible = _biased(visible, bias, lead=0)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible)


def _biased(visible: Tensor, bias: Tensor, lead: int) -> Tensor:
    """``(B, H, Q, K)`` what to add: the bias of the distance where visible, else minus infinity.

    Args:
        visible: ``(B, 1, Q, K)`` bool.
        bias: ``(H, 2 s + 1)`` of the distances -s to s.
        lead: How many steps before the first query the first key stands.
    """
    num_queries, num_keys = visible.shape[-2:]
    keys = torch.arange(num_keys, device=bias.device)
    queries = torch.arange(num_queries, device=bias.device).unsqueeze(1)
    column = (keys - queries - lead + bias.shape[1] // 2).clamp(0, bias.shape[1] - 1)
    return torch.where(visible, bias[:, column], -math.inf)


def _attend_in_blocks(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, side: int, bias: Tensor | None
) -> Tensor:
    num_videos, _, num_steps, _ = query.shape
    size = max(BLOCK, 2 * side)
    rest = -num_steps % size
    blocks = F.pad(query, (0, 0, 0, rest)).unflatten(2, (-1, size)).movedim(2, 1).flatten(0, 1)
    reach = size + 2 * side
    band, own = _block_band(size, side, query.device)
    real = F.pad(mask, (side, side + rest)).unfold(1, reach, size).flatten(0, 1)
    visible = ((band & real.unsqueeze(1)) | own).unsqueeze(1)
    if bias is not None:
        visible = _biased(visible, bias, lead=side)

    def around(steps: Tensor) -> Tensor:
        windows = F.pad(steps, (0, 0, side, side + rest)).unfold(2, reach, size)
        return windows.movedim(2, 1).flatten(0, 1).transpose(-1, -2)

    attended = F.scaled_dot_product_attention(blocks, around(key), around(value), attn_mask=visible)
    return attended.unflatten(0, (num_videos, -1)).movedim(1, 2).flatten(2, 3)[:, :, :num_steps]


# Cached tensors are made outside inference mode: training may use them after a validation.
@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _dense_band(num_steps: int, window: int, device: torch.device) -> tuple[Tensor, Tensor]:
    steps = torch.arange(num_steps, device=device)
    distance = (steps.unsqueeze(1) - steps).abs()
    side = window // 2 if window > 1 else num_steps
    return distance <= side, distance == 0


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _block_band(size: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    queries = torch.arange(size, device=device).unsqueeze(1)
    keys = torch.arange(-side, size + side, device=device)
    return (queries - keys).abs() <= side, queries == keys
