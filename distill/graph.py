"""Graph convolution over the steps of a video: GCNeXt of G-TAD (Xu et al., CVPR 2020, Eq. 2-4).

Numerically gtad_lib/models.py of Frostinassiky/gtad at 6deb5b1, in ``(B, T, D)``. There a window is
always full; here padded steps are zero after every layer and nobody's neighbour, so that how much
padding follows a video changes nothing.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Steps whose distances to all others are held at once.
BLOCK = 1024


class GroupedConv(nn.Conv1d):
    """torch's convolution over time, in groups of channels, on ``(B, T, D)``; same length."""

    def __init__(self, dim: int, dim_out: int, *, kernel: int, groups: int) -> None:
        """Start with torch's default weights; ``kernel`` is odd."""
        super().__init__(dim, dim_out, kernel, padding=kernel // 2, groups=groups)

    def forward(self, feats: Tensor) -> Tensor:
        """``(B, T, dim)`` to ``(B, T, dim_out)``."""
        return super().forward(feats.transpose(1, 2)).transpose(1, 2)


@torch.no_grad()
def nearest(feats: Tensor, mask: Tensor, num_neighbours: int) -> Tensor:
    """The nearest real steps of each step in feature space, itself among them.

    A video of fewer real steps than neighbours repeats its nearest one.

    Args:
        feats: ``(B, T, D)``.
        mask: ``(B, T)`` bool, true where real.
        num_neighbours: k.

    Returns:
        ``(B, T, k)`` int64 steps.
    """
    parts = [_nearest(part, feats, mask, num_neighbours) for part in feats.split(BLOCK, 1)]
    index = torch.cat(parts, 1)
    lacking = num_neighbours - index.shape[-1]
    return torch.cat([index, index[..., :1].expand(-1, -1, lacking)], -1) if lacking else index


def _nearest(steps: Tensor, feats: Tensor, mask: Tensor, num_neighbours: int) -> Tensor:
    # The official order of operations, in full precision: near-ties hang on the last digit.
    with torch.autocast(feats.device.type, enabled=False):
        steps, feats = steps.float(), feats.float()
        products = -2 * (steps @ feats.transpose(1, 2))
        closeness = -feats.square().sum(-1).unsqueeze(1) - products
        closeness -= steps.square().sum(-1).unsqueeze(2)
    closeness.masked_fill_(~mask.unsqueeze(1), -torch.inf)
    value, index = closeness.topk(min(num_neighbours, feats.shape[1]), -1)
    return torch.where(value > -torch.inf, index, index[..., :1])


def gather(feats: Tensor, index: Tensor) -> Tensor:
    """``(B, T, D)`` features at ``(B, T, k)`` steps: ``(B, T, k, D)``."""
    rows = index.flatten(1).unsqueeze(-1).expand(-1, -1, feats.shape[-1])
    return feats.gather(1, rows).unflatten(1, index.shape[1:])


class GraphBlock(nn.Module):
    """A residual block that mixes neighbours in time and neighbours in feature space."""

    def __init__(self, dim: int, *, width: int, groups: int, num_neighbours: int) -> None:
        """Make the layers.

        Args:
            dim: Of the features.
            width: Of both paths inside; divisible by ``groups``.
            groups: Paths that do not mix inside (the cardinality of ResNeXt).
            num_neighbours: Of each step in feature space, itself among them.
        """
        super().__init__()
        self.num_neighbours = num_neighbours
        self.time_in = nn.Linear(dim, width)
        self.time_conv = GroupedConv(width, width, kernel=3, groups=groups)
        self.time_out = nn.Linear(width, dim)
        self.edge_in = nn.Linear(2 * dim, width)
        self.edge_conv = GroupedConv(width, width, kernel=1, groups=groups)
        self.edge_out = nn.Linear(width, dim)

    def forward(self, feats: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mix.

        Args:
            feats: ``(B, T, dim)``, zero where not real.
            mask: ``(B, T)`` bool, true where real.

        Returns:
            ``(B, T, dim)``, zero where not real, and the ``(B, T, k)`` neighbours.
        """
        real = mask.unsqueeze(-1)
        neighbours = nearest(feats, mask, self.num_neighbours)
        time = self.time_conv(F.relu(self.time_in(feats) * real))
        time = self.time_out(F.relu(time))
        mixed = time + feats + self._edges(feats, neighbours)
        return F.relu(mixed * real), neighbours

    def _edges(self, feats: Tensor, neighbours: Tensor) -> Tensor:
        # A linear layer on (neighbour, centre) is one on each: once per step, not once per edge.
        from_neighbour, from_centre = self.edge_in.weight.chunk(2, 1)
        there = gather(F.linear(feats, from_neighbour), neighbours)
        here = F.linear(feats, from_centre, self.edge_in.bias)
        edges = F.relu(there + here.unsqueeze(2)).flatten(1, 2)
        edges = self.edge_out(F.relu(self.edge_conv(edges)))
        strongest: Tensor = edges.unflatten(1, neighbours.shape[1:]).max(2).values
        return strongest


class GraphEncoder(nn.Module):
    """A convolution and two graph blocks."""

    def __init__(
        self,
        dim: int,
        width: int,
        *,
        groups: int,
        blocks: tuple[GraphBlock, GraphBlock],
        context: Literal["none", "last", "all"],
    ) -> None:
        """Put the convolution before the blocks.

        Args:
            dim: Of the features.
            width: Of the blocks.
            groups: Of the convolution; divides both widths.
            blocks: The two blocks.
            context: Whose neighbours make up the context: those of the output, or those that both
                blocks found.
        """
        super().__init__()
        self.context = context
        self.embedding = GroupedConv(dim, width, kernel=3, groups=groups)
        self.stem, self.trunk = blocks

    def forward(self, feats: Tensor, mask: Tensor) -> list[Tensor]:
        """Encode.

        Args:
            feats: ``(B, T, dim)``, zero where not real.
            mask: ``(B, T)`` bool, true where real.

        Returns:
            ``(B, T, width)`` after each block, zero where not real, and the context of the last:
            the mean of each step's neighbours.
        """
        embedded = F.relu(self.embedding(feats) * mask.unsqueeze(-1))
        base, found_first = self.stem(embedded, mask)
        top, found = self.trunk(base, mask)
        if self.context == "none":
            return [base, top]
        if self.context == "all":
            neighbours = torch.cat([found_first, found], -1)
        else:
            neighbours = nearest(top, mask, self.trunk.num_neighbours)
        return [base, top, gather(top, neighbours).mean(2)]
