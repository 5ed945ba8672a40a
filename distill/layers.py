"""Building blocks over time, ``(B, T, D)`` in and out: convolution, banded attention, pyramid.

They compute what ActionFormer's libs/modeling/blocks.py computes at 61ea7eb, padding behaviour
included: the output of a normalisation is not masked again, so a padded step holds the bias of
the normalisation and a convolution shows it to the last real step.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Attention in blocks of this many queries; shorter inputs take one dense product. Measured on one
# core: window 19, width 64 and 512.
BLOCK = 32
DENSE_BELOW = 256


class Conv(nn.Module):
    """A convolution over time as one matrix product; stride 1, zero padding, same length.

    Attributes:
        weight: ``(kernel, dim_out, dim)``: one matrix for each step of the kernel.
    """

    def __init__(self, dim: int, dim_out: int, *, kernel: int, bias: bool) -> None:
        """Start with torch's default weights and a zero bias; ``kernel`` is odd."""
        super().__init__()
        assert kernel % 2 == 1
        self.weight = nn.Parameter(torch.empty(kernel, dim_out, dim))
        self.bias = nn.Parameter(torch.zeros(dim_out)) if bias else None
        bound = 1 / math.sqrt(dim * kernel)  # the default of torch's convolutions
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, feats: Tensor) -> Tensor:
        """``(B, T, dim)`` to ``(B, T, dim_out)``."""
        # The product for all steps of the kernel, then the shift: faster than the shift first,
        # most of all where the output is narrow.
        kernel, dim_out, _ = self.weight.shape
        parts = F.linear(feats, self.weight.flatten(0, 1)).split(dim_out, -1)
        total = parts[kernel // 2] if self.bias is None else parts[kernel // 2] + self.bias
        for i, part in enumerate(parts):
            shift = kernel // 2 - i
            if 0 < abs(shift) < feats.shape[1]:
                total = total + F.pad(part, (0, 0, shift, -shift))
        return total


class DepthwiseConv(nn.Module):
    """Each channel's own convolution over three steps, without bias; zero padding.

    Attributes:
        weight: ``(3, dim)``.
    """

    def __init__(self, dim: int, *, stride: int) -> None:
        """Start with torch's default weights; one output every ``stride`` steps."""
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(3, dim))
        nn.init.uniform_(self.weight, -1 / math.sqrt(3), 1 / math.sqrt(3))

    def forward(self, feats: Tensor) -> Tensor:
        """``(B, T, dim)`` to ``(B, T / stride, dim)``."""
        before, here, after = _neighbours(feats, self.stride, 0.0)
        first, second, third = self.weight
        return torch.addcmul(torch.addcmul(here * second, before, first), after, third)


def pool(feats: Tensor, stride: int) -> Tensor:
    """Largest of each step and its two neighbours, every ``stride`` steps; as is for stride 1."""
    if stride == 1:
        return feats
    before, here, after = _neighbours(feats, stride, -math.inf)
    return torch.maximum(torch.maximum(before, here), after)


class Attention(nn.Module):
    """Multi-head attention among the real steps of a band, with convolved queries, keys, values."""

    def __init__(self, dim: int, *, num_heads: int, window: int, stride: int) -> None:
        """Make the layers.

        Args:
            dim: Width; divisible by ``num_heads``.
            num_heads: H.
            window: A step attends to the ``window // 2`` steps on either side; <= 1: to all.
            stride: Every how many steps there is a query, key and value.
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
        return self.proj(attend(query, key, value, mask, self.window).transpose(1, 2).flatten(2))

    def _split(self, feats: Tensor) -> Tensor:
        return feats.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, window: int) -> Tensor:
    """Scaled dot-product attention of each step to the real steps of a band around it.

    Equal to ActionFormer's sliding chunks, without their rule that the length be divisible.

    Args:
        query: ``(B, H, T, d)``.
        key: ``(B, H, T, d)``.
        value: ``(B, H, T, d)``.
        mask: ``(B, T)`` bool, true where real.
        window: Steps ``|t - u| <= window // 2`` see each other; <= 1: all do.

    Returns:
        ``(B, H, T, d)``; of no meaning, but finite, where not real.
    """
    if window > 1 and query.shape[2] > DENSE_BELOW:
        return _attend_in_blocks(query, key, value, mask, window // 2)
    band, own = _dense_band(query.shape[2], window, query.device)
    # A padded step sees itself, so that no row of the softmax is empty.
    visible = (band & mask.unsqueeze(1)) | own
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible.unsqueeze(1))


def _attend_in_blocks(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, side: int) -> Tensor:
    num_videos, _, num_steps, _ = query.shape
    size = max(BLOCK, 2 * side)
    rest = -num_steps % size
    blocks = F.pad(query, (0, 0, 0, rest)).unflatten(2, (-1, size)).movedim(2, 1).flatten(0, 1)
    reach = size + 2 * side
    band, own = _block_band(size, side, query.device)
    real = F.pad(mask, (side, side + rest)).unfold(1, reach, size).flatten(0, 1)
    visible = (band & real.unsqueeze(1)) | own

    def around(steps: Tensor) -> Tensor:
        windows = F.pad(steps, (0, 0, side, side + rest)).unfold(2, reach, size)
        return windows.movedim(2, 1).flatten(0, 1).transpose(-1, -2)

    attended = F.scaled_dot_product_attention(
        blocks, around(key), around(value), attn_mask=visible.unsqueeze(1)
    )
    return attended.unflatten(0, (num_videos, -1)).movedim(1, 2).flatten(2, 3)[:, :, :num_steps]


class PyramidBlock(nn.Module):
    """A pre-norm transformer block that may halve the length: attention, then two linear layers."""

    def __init__(
        self, dim: int, *, num_heads: int, window: int, stride: int, drop_path: float
    ) -> None:
        """Make the layers.

        Args:
            dim: Width.
            num_heads: Of the attention.
            window: Of the attention.
            stride: 1, or 2 to halve the length.
            drop_path: See :class:`Residual`.
        """
        super().__init__()
        self.stride = stride
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads=num_heads, window=window, stride=stride)
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(linear(dim, 4 * dim), nn.GELU(), linear(4 * dim, dim))
        self.add_attention = Residual(dim, drop_path)
        self.add_mlp = Residual(dim, drop_path)

    def forward(self, feats: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, T, dim)`` and its mask to ``(B, T / stride, dim)``, zero where not real."""
        mask = mask[:, :: self.stride]
        feats = self.add_attention(
            pool(feats, self.stride), self.attention(self.norm_attention(feats), mask)
        )
        feats = self.add_mlp(feats, self.mlp(self.norm_mlp(feats)))
        return feats * mask.unsqueeze(-1), mask


class Residual(nn.Module):
    """Adds a branch to its input: scaled per channel and, while training, sometimes not at all."""

    def __init__(self, dim: int, drop_path: float) -> None:
        """Make the scale.

        Args:
            dim: Width.
            drop_path: How often the branch is left out for a whole video while training. 0 also
                means that there is no scale, as in the official code; above 0 it starts at 1e-4.
        """
        super().__init__()
        self.drop_path = drop_path
        self.scale = nn.Parameter(torch.full((dim,), 1e-4)) if drop_path > 0 else None

    def forward(self, feats: Tensor, branch: Tensor) -> Tensor:
        """``(B, T, dim)`` twice; in expectation ``feats + scale * branch``."""
        if self.scale is None:
            return feats + branch
        scale: Tensor = self.scale
        if self.training:
            kept = torch.rand(len(feats), 1, 1, device=feats.device) >= self.drop_path
            scale = scale * kept / (1 - self.drop_path)
        return torch.addcmul(feats, branch, scale.to(branch.dtype))


def linear(dim: int, dim_out: int) -> nn.Linear:
    """A linear layer whose bias starts at zero."""
    layer = nn.Linear(dim, dim_out)
    nn.init.zeros_(layer.bias)
    return layer


def _neighbours(feats: Tensor, stride: int, edge: float) -> tuple[Tensor, Tensor, Tensor]:
    num_steps = feats.shape[1]
    assert num_steps % stride == 0
    padded = F.pad(feats, (0, 0, 1, 1), value=edge)
    before, here, after = (padded[:, i : i + num_steps : stride] for i in range(3))
    return before, here, after


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
