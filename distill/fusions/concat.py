"""Concatenation: the branches stand side by side and do not touch (paper Table 3, "concat")."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tad_distill.distill.fusions import Fusion, FusionConfig


@dataclass(frozen=True, kw_only=True)
class Config(FusionConfig):
    """Concatenation has no settings."""

    def build(self, dim: int) -> "Concat":
        """Make the fusion of two branches of width ``dim``."""
        return Concat(dim)


class Concat(Fusion):
    """``[f_app(t) ; f_mot(t)]`` at every step t."""

    def __init__(self, dim: int) -> None:
        """Fuse two branches of width ``dim``."""
        super().__init__()
        self.dim_out = 2 * dim

    def forward(self, appearance: Tensor, motion: Tensor, mask: Tensor) -> Tensor:
        """Fuse two branches; see :class:`Fusion`."""
        fused = torch.cat([appearance, motion], dim=-1)
        return fused.masked_fill(~mask.unsqueeze(-1), 0.0)
