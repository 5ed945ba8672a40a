"""Difference attention: a branch attends to what only the other has (see ``attentive``)."""

from dataclasses import dataclass

from torch import Tensor

from tad_distill.distill.attentive import Attentive, AttentiveConfig


@dataclass(frozen=True, kw_only=True)
class Config(AttentiveConfig):
    """Settings of the difference attention."""

    def build(self, dim: int) -> "DifferenceAttention":
        """Make the fusion of two branches of width ``dim``."""
        return DifferenceAttention(self, dim)


class DifferenceAttention(Attentive):
    """The context is ``reference - target``."""

    def context(self, target: Tensor, reference: Tensor) -> Tensor:
        """``(B, T, D)`` what a target attends to; see :class:`Attentive`."""
        return reference - target
