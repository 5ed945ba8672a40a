"""Sum: the branches are added, step by step (paper Table 3, "sum")."""

from dataclasses import dataclass

from torch import Tensor

from tad_distill.distill.fusions import Fusion, FusionConfig


@dataclass(frozen=True, kw_only=True)
class Config(FusionConfig):
    """A sum has no settings."""

    def build(self, dim: int) -> "Sum":
        """Make the fusion of two branches of width ``dim``."""
        return Sum(dim)


class Sum(Fusion):
    """``f_app(t) + f_mot(t)`` at every step t: half as wide as what the others give."""

    def __init__(self, dim: int) -> None:
        """Fuse two branches of width ``dim``."""
        super().__init__()
        self.dim_out = dim

    def forward(self, appearance: Tensor, motion: Tensor, mask: Tensor) -> Tensor:
        """Fuse two branches; see :class:`Fusion`."""
        return (appearance + motion).masked_fill(~mask.unsqueeze(-1), 0.0)
