"""Building blocks over time, ``(B, T, D)`` in and out: convolutions, pooling, residuals.

They compute what ActionFormer's libs/modeling/blocks.py computes at 61ea7eb, padding behaviour
included: the output of a normalisation is not masked again, so a padded step holds the bias of
the normalisation and a convolution shows it to the last real step.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tad_distill.distill import winograd


class Conv(nn.Module):
    """A convolution over time as matrix products, with zero padding.

    Attributes:
        weight: ``(kernel, dim_out, dim)``: one matrix for each step of the kernel.
    """

    def __init__(self, dim: int, dim_out: int, *, kernel: int, bias: bool, stride: int = 1) -> None:
        """Start with torch's default weights and a zero bias; ``kernel`` is odd.

        Args:
            dim: Channels that are read.
            dim_out: Channels that are made.
            kernel: Steps that an output sees.
            bias: Whether something is added.
            stride: One output every so many steps; divides the length.
        """
        super().__init__()
        assert kernel % 2 == 1
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(kernel, dim_out, dim))
        self.bias = nn.Parameter(torch.zeros(dim_out)) if bias else None
        bound = 1 / math.sqrt(dim * kernel)  # the default of torch's convolutions
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, feats: Tensor) -> Tensor:
        """``(B, T, dim)`` to ``(B, T / stride, dim_out)``."""
        if self.stride > 1:
            return self._strided(feats)
        if winograd.pays(feats, self.weight):
            convolved = winograd.convolve(feats, self.weight)
            return convolved if self.bias is None else convolved + self.bias
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

    def _strided(self, feats: Tensor) -> Tensor:
        side, num_steps = len(self.weight) // 2, feats.shape[1]
        assert num_steps % self.stride == 0
        padded = F.pad(feats, (0, 0, side, side))
        total = torch.zeros(()) if self.bias is None else self.bias
        for i, matrix in enumerate(self.weight):
            total = total + F.linear(padded[:, i : i + num_steps : self.stride], matrix)
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
