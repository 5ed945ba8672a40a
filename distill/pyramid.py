"""ActionFormer's feature pyramid, the towers that read it, and its points.

Numerically libs/modeling/backbones.py, necks.py and blocks.py at 61ea7eb.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tad_distill.distill.attention import Attention
from tad_distill.distill.layers import Conv, Residual, linear, pool


class Backbone(nn.Module):
    """Embedding convolutions, then blocks of which the last ones halve the length."""

    def __init__(
        self, dim: int, width: int, *, num_convs: int, kernel: int, blocks: "Blocks", positions: int
    ) -> None:
        """Make the layers.

        Args:
            dim: D, of the features.
            width: Of the pyramid.
            num_convs: Embedding convolutions.
            kernel: Their width in steps.
            blocks: What follows them.
            positions: Steps of the table of absolute positions; 0 for none.
        """
        super().__init__()
        self.embedding = nn.ModuleList(
            Conv(dim if i == 0 else width, width, kernel=kernel, bias=False)
            for i in range(num_convs)
        )
        self.embedding_norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(num_convs))
        self.positions = Positions(positions, width) if positions else None
        self.stem = nn.ModuleList(blocks.stem)
        self.branch = nn.ModuleList(blocks.branch)

    def forward(
        self, feats: Tensor, mask: Tensor, num_steps: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """One level per resolution.

        Args:
            feats: ``(B, T, D)``.
            mask: ``(B, T)`` bool, true where real.
            num_steps: ``(B,)`` over how many steps absolute positions are spread.

        Returns:
            ``(B, T_l, width)`` and its mask, level by level.
        """
        real = mask.unsqueeze(-1)
        for conv, norm in zip(self.embedding, self.embedding_norm, strict=True):
            feats = F.relu(norm(conv(feats) * real))
        if self.positions is not None:
            feats = feats + self.positions(num_steps, mask.shape[1]) * real
        for block in self.stem:
            feats, mask = block(feats, mask)
        levels = [(feats, mask)]
        for block in self.branch:
            feats, mask = block(feats, mask)
            levels.append((feats, mask))
        return levels


@dataclass(frozen=True)
class Blocks:
    """The blocks of a pyramid: at full length, and those that halve it.

    Each takes ``(B, T, width)`` and its mask, and gives the same at its own resolution.
    """

    stem: list[nn.Module]
    branch: list[nn.Module]


class Positions(nn.Module):
    """Absolute positions: sines and cosines, divided by the root of the width.

    A table of ``max_len`` steps. Videos up to that length take its first rows; for longer ones it
    is stretched linearly, so that they end where the table ends.
    """

    table: Tensor

    def __init__(self, max_len: int, width: int) -> None:
        """Make the table; it follows from its size, so it is in no checkpoint."""
        super().__init__()
        channel = torch.arange(width, dtype=torch.float64)
        rate = 10_000 ** (-2 * (channel // 2) / width)
        angle = torch.arange(max_len, dtype=torch.float64).unsqueeze(1) * rate
        table = torch.where(channel % 2 == 0, angle.sin(), angle.cos()) / math.sqrt(width)
        self.register_buffer("table", table.float(), persistent=False)

    def forward(self, num_steps: Tensor, length: int) -> Tensor:
        """``(B, length, width)`` the rows for videos of ``(B,)`` steps in a batch of ``length``."""
        max_len = len(self.table)
        step = torch.arange(length, device=self.table.device, dtype=torch.float32)
        stretch = (max_len / num_steps.clamp(min=max_len)).unsqueeze(1)
        where = ((step + 0.5) * stretch - 0.5).clamp(0, max_len - 1)
        # Below the full length every step takes its own row, whatever rounding says.
        where = torch.where(stretch == 1, step.clamp(max=max_len - 1), where)
        before = where.floor().long()
        after = (before + 1).clamp(max=max_len - 1)
        return torch.lerp(self.table[before], self.table[after], (where - before).unsqueeze(-1))


class PyramidBlock(nn.Module):
    """A pre-norm transformer block that may halve the length: attention, then two linear layers."""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        window: int,
        stride: int,
        drop_path: float,
        relative: bool = False,
    ) -> None:
        """Make the layers.

        Args:
            dim: Width.
            num_heads: Of the attention.
            window: Of the attention.
            stride: 1, or 2 to halve the length.
            drop_path: See :class:`Residual`.
            relative: Of the attention.
        """
        super().__init__()
        self.stride = stride
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = Attention(
            dim, num_heads=num_heads, window=window, stride=stride, relative=relative
        )
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


class ConvBlock(nn.Module):
    """Two convolutions and a skip that may halve the length, instead of attention."""

    def __init__(self, dim: int, *, stride: int) -> None:
        """Make the layers; ``stride`` is 1, or 2 to halve the length."""
        super().__init__()
        self.stride = stride
        self.conv1 = Conv(dim, 2 * dim, kernel=3, bias=True, stride=stride)
        self.conv2 = Conv(2 * dim, dim, kernel=3, bias=True)
        self.downsample = linear(dim, dim) if stride > 1 else None

    def forward(self, feats: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, T, dim)`` and its mask to ``(B, T / stride, dim)``; see the official ConvBlock."""
        mask = mask[:, :: self.stride]
        real = mask.unsqueeze(-1)
        out = self.conv2(F.relu(self.conv1(feats) * real)) * real
        skip = feats
        if self.downsample is not None:
            skip = self.downsample(feats[:, :: self.stride]) * real
        return F.relu(out + skip), mask


class Tower(nn.Module):
    """Two normalised convolutions and one with a bias: the classifier or the regressor."""

    def __init__(self, width: int, dim_out: int, *, kernel: int) -> None:
        """Make three convolutions of ``kernel`` steps, from ``width`` to ``dim_out`` channels."""
        super().__init__()
        self.convs = nn.ModuleList(Conv(width, width, kernel=kernel, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.out = Conv(width, dim_out, kernel=kernel, bias=True)

    def forward(self, feats: Tensor, mask: Tensor, inside: Tensor) -> Tensor:
        """Run over all levels at once.

        Args:
            feats: ``(B, S, width)`` levels with zeros between them, see :class:`Layout`.
            mask: ``(B, S)`` bool, true where real.
            inside: ``(S, 1)`` bool, false between levels.

        Returns:
            ``(B, S, dim_out)``, zero where not real.
        """
        real = mask.unsqueeze(-1)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            feats = F.relu(norm(conv(feats) * real)) * inside
        return self.out(feats) * real


@dataclass(frozen=True)
class Layout:
    """Levels laid end to end, with a gap of zeros after each, so that convolutions see edges.

    Attributes:
        pieces: Lengths of level, gap, level, gap, ...; their sum is S.
        level: ``(N,)`` to which level each of the levels' N steps belongs.
        inside: ``(S, 1)`` bool, false in the gaps.
    """

    pieces: tuple[int, ...]
    level: Tensor
    inside: Tensor

    def levels(self, values: Tensor) -> list[Tensor]:
        """``(B, S, ...)`` without the gaps, level by level."""
        return list(values.split(self.pieces, 1)[::2])


# Cached tensors are made outside inference mode: training may use them after a validation.
@lru_cache(maxsize=64)
@torch.inference_mode(False)
def layout(lengths: tuple[int, ...], gap: int, device: torch.device) -> Layout:
    """Where levels of these lengths stand."""
    inside = torch.cat([torch.arange(length + gap) < length for length in lengths])
    level = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    pieces = tuple(piece for length in lengths for piece in (length, gap))
    return Layout(pieces, level.to(device), inside.unsqueeze(1).to(device))


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def points(
    lengths: tuple[int, ...], ranges: tuple[tuple[float, float], ...], device: torch.device
) -> Tensor:
    """``(N, 4)`` time, lower and upper range, stride; level l has a point every 2^l steps."""
    levels = []
    for level, (length, (low, high)) in enumerate(zip(lengths, ranges, strict=True)):
        stride = 2.0**level
        rest = torch.tensor([low, high, stride]).expand(length, 3)
        levels.append(torch.cat([torch.arange(length).unsqueeze(1) * stride, rest], 1))
    return torch.cat(levels).to(device)
