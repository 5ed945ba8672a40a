"""TadTR's transformer (Liu et al., TIP 2022): an encoder of steps and a decoder of queries.

Numerically models/transformer.py of xlliu7/TadTR at 983ae14: normalisation after each sublayer,
and queries that attend to each other first.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tad_distill.distill.deformable import DeformableAttention


@dataclass(frozen=True, kw_only=True)
class LayerSizes:
    """The sizes of an encoder or decoder layer.

    Attributes:
        dim: Width.
        num_heads: Of the attention.
        num_points: Reads per head of the deformable attention.
        dim_hidden: Width between the two linear layers.
        dropout: Share of each sublayer's output that training drops.
    """

    dim: int
    num_heads: int
    num_points: int
    dim_hidden: int
    dropout: float


class EncoderLayer(nn.Module):
    """Deformable attention among the steps, then two linear layers."""

    def __init__(self, sizes: LayerSizes) -> None:
        """Make the layers."""
        super().__init__()
        self.attention = DeformableAttention(
            sizes.dim, num_heads=sizes.num_heads, num_points=sizes.num_points
        )
        self.norm_attention = nn.LayerNorm(sizes.dim)
        self.mlp = FeedForward(sizes)
        self.dropout = sizes.dropout

    def forward(self, feats: Tensor, mask: Tensor, places: Tensor) -> Tensor:
        """Let each step read around itself.

        Args:
            feats: ``(B, T, dim)``.
            mask: ``(B, T)`` bool, true where real.
            places: ``(B, T, dim)`` the position encoding.

        Returns:
            ``(B, T, dim)``; of no meaning, but finite, where not real.
        """
        times = torch.arange(feats.shape[1], device=feats.device).unsqueeze(0)
        read = self.attention(feats + places, feats, mask, times, None)
        feats = self.norm_attention(feats + drop(read, self.dropout, self.training))
        encoded: Tensor = self.mlp(feats)
        return encoded


class DecoderLayer(nn.Module):
    """Attention among the queries, deformable attention to the steps, two linear layers."""

    def __init__(self, sizes: LayerSizes) -> None:
        """Make the layers."""
        super().__init__()
        self.among = QueryAttention(sizes)
        self.norm_among = nn.LayerNorm(sizes.dim)
        self.attention = DeformableAttention(
            sizes.dim, num_heads=sizes.num_heads, num_points=sizes.num_points
        )
        self.norm_attention = nn.LayerNorm(sizes.dim)
        self.mlp = FeedForward(sizes)
        self.dropout = sizes.dropout

    def forward(
        self,
        content: Tensor,
        places: Tensor,
        memory: Tensor,
        mask: Tensor,
        times: Tensor,
        reach: Tensor | None,
    ) -> Tensor:
        """Let the queries read.

        Args:
            content: ``(B, N, dim)`` what the queries know so far.
            places: ``(N, dim)`` what is added to queries and keys.
            memory: ``(B, T, dim)`` the encoded steps.
            mask: ``(B, T)`` bool, true where real.
            times: ``(B, N)`` around when the queries read, in steps.
            reach: ``(B, N)`` steps per unit of their offsets; by default 1.

        Returns:
            ``(B, N, dim)``.
        """
        said = self.among(content + places, content)
        content = self.norm_among(content + drop(said, self.dropout, self.training))
        read = self.attention(content + places, memory, mask, times, reach)
        content = self.norm_attention(content + drop(read, self.dropout, self.training))
        decoded: Tensor = self.mlp(content)
        return decoded


class QueryAttention(nn.Module):
    """Multi-head attention of the queries to one another.

    Attributes:
        into: ``(3 dim, dim)`` query, key and value, as in ``nn.MultiheadAttention``.
    """

    def __init__(self, sizes: LayerSizes) -> None:
        """Start with Xavier's weights, query, key and value as one matrix."""
        super().__init__()
        dim = sizes.dim
        self.num_heads = sizes.num_heads
        self.dropout = sizes.dropout
        self.into = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.into.weight)
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.into.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, asking: Tensor, content: Tensor) -> Tensor:
        """``(B, N, dim)`` queries and keys, and ``(B, N, dim)`` values, to ``(B, N, dim)``."""
        dim = content.shape[-1]
        weights = self.into.weight.split((2 * dim, dim))
        biases = self.into.bias.split((2 * dim, dim))
        query, key = F.linear(asking, weights[0], biases[0]).chunk(2, -1)
        value = F.linear(content, weights[1], biases[1])
        scores = self._split(query) @ self._split(key).transpose(-1, -2)
        scores = (scores * (self.num_heads / dim) ** 0.5).softmax(-1)
        mixed = drop(scores, self.dropout, self.training) @ self._split(value)
        attended: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return attended

    def _split(self, feats: Tensor) -> Tensor:
        return feats.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between, added to their input and normalised."""

    def __init__(self, sizes: LayerSizes) -> None:
        """Start with Xavier's weights and torch's default biases."""
        super().__init__()
        self.first = nn.Linear(sizes.dim, sizes.dim_hidden)
        self.second = nn.Linear(sizes.dim_hidden, sizes.dim)
        self.norm = nn.LayerNorm(sizes.dim)
        self.dropout = sizes.dropout
        nn.init.xavier_uniform_(self.first.weight)
        nn.init.xavier_uniform_(self.second.weight)

    def forward(self, feats: Tensor) -> Tensor:
        """``(B, N, dim)`` to ``(B, N, dim)``."""
        # Flat, as the product of a matrix is no view of anything and may be overwritten.
        hidden = relu_drop(self.first(feats.flatten(0, 1)), self.dropout, self.training)
        moved = drop(self.second(hidden), self.dropout, self.training)
        mapped: Tensor = self.norm(feats + moved.unflatten(0, feats.shape[:2]))
        return mapped


class StackedLinear(nn.Module):
    """Linear layers with a ReLU between them."""

    def __init__(self, *widths: int) -> None:
        """``widths[0]`` is read, ``widths[-1]`` is made; torch's default weights."""
        super().__init__()
        layers = [nn.Linear(*pair) for pair in zip(widths[:-1], widths[1:], strict=True)]
        self.inner, self.last = nn.ModuleList(layers[:-1]), layers[-1]

    def forward(self, feats: Tensor) -> Tensor:
        """``(..., widths[0])`` to ``(..., widths[-1])``."""
        for layer in self.inner:
            feats = layer(feats).relu()
        mapped: Tensor = self.last(feats)
        return mapped


def drop(feats: Tensor, share: float, training: bool) -> Tensor:
    """Dropout; on the CPU from 16 random bits per number, in a seventh of torch's time.

    Args:
        feats: Any shape.
        share: How much is set to zero in training; a multiple of 1 / 65536 on the CPU.
        training: Whether anything is done.

    Returns:
        The same shape; in expectation ``feats``.
    """
    if not training or share == 0:
        return feats
    if _leave_to_torch(feats):
        return F.dropout(feats, share)
    return feats * _keep(feats, share)


def relu_drop(feats: Tensor, share: float, training: bool) -> Tensor:
    """``drop(feats.relu())``, in the memory of ``feats``: to fetch more takes longer than this."""
    if not training or share == 0:
        return F.relu(feats, inplace=True)
    if _leave_to_torch(feats):
        return F.dropout(F.relu(feats, inplace=True), share)
    dropped: Tensor = _ReluDrop.apply(feats, share)
    return dropped


class _ReluDrop(torch.autograd.Function):
    """What is above zero after both is what the gradient passes: nothing else is remembered."""

    @staticmethod
    def forward(ctx: Any, feats: Tensor, share: float) -> Tensor:
        feats.relu_().mul_(_keep(feats, share))
        ctx.scale = 1 / (1 - share)
        ctx.mark_dirty(feats)
        ctx.save_for_backward(feats)
        return feats

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        [gradient], [feats] = gradients, ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient, feats, 0).mul_(ctx.scale), None


def _leave_to_torch(feats: Tensor) -> bool:
    """Whether torch has a better dropout: on a GPU, and where it may compile its own."""
    return feats.device.type != "cpu" or torch.compiler.is_compiling()


def _keep(like: Tensor, share: float) -> Tensor:
    """What a dropout on the CPU multiplies with."""
    count = like.numel()
    drawn = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    drawn = drawn.view(torch.int16)[:count].view(like.shape)
    # Straight into numbers: to multiply with a bool takes four times as long.
    kept = torch.ge(drawn, round(share * 65536) - 32768, out=torch.empty_like(like))
    return kept.mul_(1 / (1 - share))


def encode_places(mask: Tensor, dim: int) -> Tensor:
    """The sine encoding of how far into the video a step is.

    Args:
        mask: ``(B, T)`` bool, true where real.
        dim: Of the encoding, even.

    Returns:
        ``(B, T, dim)``: the sine, then the cosine of ``2 pi n / n_last`` at ever lower frequencies,
        n counting the real steps from 1.
    """
    counted = mask.cumsum(1, dtype=torch.float32)
    angle = counted / (counted[:, -1:] + 1e-6) * 2 * math.pi
    pair = torch.arange(0, dim, 2, dtype=torch.float32, device=mask.device)
    angles = angle.unsqueeze(-1) / 10000 ** (pair / dim)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(2)


def group_norm(feats: Tensor, counts: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Group normalisation over the counted steps.

    Args:
        feats: ``(B, T, D)``.
        counts: ``(B, T)`` bool: the steps that mean and variance are taken over. Where there are
            none, the features are of no meaning, but finite.
        norm: Its settings and weights.

    Returns:
        ``(B, T, D)``.
    """
    groups = feats.float().unflatten(-1, (norm.num_groups, -1))
    counted = counts[:, :, None, None]
    number = counted.sum(1, keepdim=True).clamp(min=1) * groups.shape[-1]
    centred = groups - (groups * counted).sum((1, 3), keepdim=True) / number
    variance = (centred * counted).square().sum((1, 3), keepdim=True) / number
    normed = (centred * (variance + norm.eps).rsqrt()).flatten(2)
    return normed * norm.weight + norm.bias
