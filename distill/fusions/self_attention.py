"""Self attention: a branch attends to its own steps (paper Table 3; see ``attentive``)."""

from dataclasses import dataclass

from torch import Tensor

from tad_distill.distill.attentive import Attentive, AttentiveConfig


@dataclass(frozen=True, kw_only=True)
class Config(AttentiveConfig):
    """Settings of the self attention."""

    def build(self, dim: int) -> "SelfAttention":
        """Make the fusion of two branches of width ``dim``."""
        return SelfAttention(self, dim)


class SelfAttention(Attentive):
    """The context is ``target``."""

    def context(self, target: Tensor, reference: Tensor) -> Tensor:
        """``(B, T, D)`` what a target attends to; see :class:`Attentive`."""
        return target
