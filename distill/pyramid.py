"""ActionFormer's feature pyramid, the towers that read it, and its points."""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tad_distill.distill.layers import Conv, PyramidBlock


class Backbone(nn.Module):
    """Embedding convolutions, then transformer blocks of which the last ones halve the length."""

    def __init__(
        self,
        dim: int,
        width: int,
        *,
        arch: tuple[int, int, int],
        embd_kernel: int,
        num_heads: int,
        windows: tuple[int, ...],
        drop_path: float,
    ) -> None:
        """Make the layers.

        Args:
            dim: D, of the features.
            width: Of the pyramid.
            arch: Embedding convolutions, blocks at full length, blocks that halve the length.
            embd_kernel: Of the embedding convolutions.
            num_heads: Of the attention.
            windows: Attention window of each of the ``arch[2] + 1`` levels.
            drop_path: See :class:`PyramidBlock`.
        """
        super().__init__()
        num_convs, num_stem, num_branch = arch
        self.embedding = nn.ModuleList(
            Conv(dim if i == 0 else width, width, kernel=embd_kernel, bias=False)
            for i in range(num_convs)
        )
        self.embedding_norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(num_convs))

        def block(level: int, stride: int) -> PyramidBlock:
            return PyramidBlock(
                width,
                num_heads=num_heads,
                window=windows[level],
                stride=stride,
                drop_path=drop_path,
            )

        self.stem = nn.ModuleList(block(0, 1) for _ in range(num_stem))
        self.branch = nn.ModuleList(block(1 + i, 2) for i in range(num_branch))

    def forward(self, feats: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """``(B, T, D)`` and its mask to one ``(B, T_l, width)`` and mask per level."""
        real = mask.unsqueeze(-1)
        for conv, norm in zip(self.embedding, self.embedding_norm, strict=True):
            feats = F.relu(norm(conv(feats) * real))
        for block in self.stem:
            feats, mask = block(feats, mask)
        levels = [(feats, mask)]
        for block in self.branch:
            feats, mask = block(feats, mask)
            levels.append((feats, mask))
        return levels


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

    def closed(self, values: Tensor) -> Tensor:
        """``(B, S, ...)`` without the gaps, ``(B, N, ...)``."""
        return torch.cat(values.split(self.pieces, 1)[::2], 1)


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
