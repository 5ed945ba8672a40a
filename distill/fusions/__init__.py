"""How the appearance and motion branches enhance each other (paper section 3.4); one file each."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class FusionConfig(ABC):
    """The family's base; each file's ``Config`` extends it and adds :meth:`build`."""

    @abstractmethod
    def build(self, dim: int) -> "Fusion":
        """Make the fusion of two branches of width ``dim``."""


class Fusion(nn.Module, ABC):
    """Turns the two branches' features into the joint head's input.

    Attributes:
        dim_out: Width of the output.
    """

    dim_out: int

    @abstractmethod
    def forward(self, appearance: Tensor, motion: Tensor, mask: Tensor) -> Tensor:
        """Fuse two branches.

        Args:
            appearance: ``(B, T, D)`` features of the appearance branch.
            motion: ``(B, T, D)`` features of the motion branch.
            mask: ``(B, T)`` bool, true where real.

        Returns:
            ``(B, T, dim_out)``, zero where not real. Step t may depend on other steps of a branch
            only as the fusion's own definition says.
        """
