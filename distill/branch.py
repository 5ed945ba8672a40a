"""A branch of a detector: its entrance, which reads streams, and its projection phi."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from tad_distill.distill import ragged
from tad_distill.distill.layers import Conv


class Branch(nn.Module):
    """Streams to a branch's features: an entrance and a projection phi."""

    def __init__(self, entrance: "BranchInput", phi: "Projection") -> None:
        """Put the two together."""
        super().__init__()
        self.entrance = entrance
        self.phi = phi

    def forward(self, feats: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """``(B, T, D)`` features of the branch, zero where not real."""
        projected: Tensor = self.phi(self.entrance(feats, mask), mask)
        return projected


class BranchInput(nn.Module):
    """The entrance of a branch: pooled streams, standardised; in training noise and dropout.

    Attributes:
        dim_out: Width of the output, the sum of the streams' widths.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dims: Mapping[str, int], noise: float, dropout: float) -> None:
        """Read streams of these widths, concatenated in this order."""
        super().__init__()
        self.dims = dict(dims)
        self.dim_out = sum(dims.values())
        self.noise = noise
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("mean", torch.zeros(self.dim_out))
        self.register_buffer("std", torch.ones(self.dim_out))

    def forward(self, feats: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """``(B, T, dim_out)`` what the projection reads, zero where not real."""
        entered = self.standardised(feats, mask)
        if self.training and self.noise > 0:
            entered = entered + self.noise * torch.randn_like(entered) * mask.unsqueeze(-1)
        dropped: Tensor = self.dropout(entered)
        return dropped

    def standardised(self, feats: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """``(B, T, dim_out)`` streams of mean 0 and variance 1, zero where not real."""
        joined = torch.cat([feats[stream].to(self.mean.dtype) for stream in self.dims], dim=-1)
        return ((joined - self.mean) / self.std).masked_fill(~mask.unsqueeze(-1), 0.0)

    def set_statistics(self, stream: str, mean: Tensor, std: Tensor) -> None:
        """Take over ``(D,)`` statistics of a stream, if this branch reads it."""
        first = 0
        for name, dim in self.dims.items():
            if name == stream:
                self.mean[first : first + dim] = mean
                self.std[first : first + dim] = torch.where(std > 1e-6, std, 1.0)
            first += dim


class Projection(nn.Module):
    """phi: a stack of 1-D convolutions over time, with layer norm and ReLU between them.

    The last convolution is bare: features are free in sign and size, so that they can match a
    teacher's (Eq. 5). Padding is zeroed after every layer and so never reaches a real step.
    """

    def __init__(self, dim_in: int, dim: int, num_layers: int, kernel_size: int) -> None:
        """Start with torch's default weights; ``kernel_size`` is odd; no layer changes nothing."""
        super().__init__()
        self.dim = dim
        self.kernel_size = kernel_size
        widths = [dim_in, *[dim] * num_layers]
        # A bias before a norm would be taken out again.
        self.convs = nn.ModuleList(
            Conv(widths[i], widths[i + 1], kernel=kernel_size, bias=i == num_layers - 1)
            for i in range(num_layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(num_layers - 1))

    def forward(self, feats: Tensor, mask: Tensor) -> Tensor:
        """``(B, T, dim_in)`` to ``(B, T, dim)``, both zero where not real."""
        if not len(self.convs):
            return feats
        divided = ragged.groups(mask, self.dim)
        parts = [self._project(ragged.take(feats, g), ragged.take(mask, g)) for g in divided]
        return ragged.join(parts, divided, mask.shape[1])

    def _project(self, feats: Tensor, mask: Tensor) -> Tensor:
        num_steps = mask.shape[1]
        # A convolution needs as many steps as its kernel reaches.
        lacking = max(0, self.kernel_size - num_steps)
        feats, mask = pad(feats, (0, 0, 0, lacking)), pad(mask, (0, lacking))
        padding = ~mask.unsqueeze(-1)
        for conv, norm in zip(self.convs, self.norms, strict=False):
            feats = norm(conv(feats)).relu().masked_fill(padding, 0.0)
        projected: Tensor = self.convs[-1](feats).masked_fill(padding, 0.0)
        return projected[:, :num_steps]
