"""Cross attention: a branch attends to the other branch (paper Table 3; see ``attentive``)."""

from dataclasses import dataclass

from torch import Tensor

from tad_distill.distill.attentive import Attentive, AttentiveConfig


@dataclass(frozen=True, kw_only=True)
class Config(AttentiveConfig):
    """Settings of the cross attention."""

    def build(self, dim: int) -> "CrossAttention":
        """Make the fusion of two branches of width ``dim``."""
        return CrossAttention(self, dim)


class CrossAttention(Attentive):
    """The context is ``reference``."""

    def context(self, target: Tensor, reference: Tensor) -> Tensor:
        """``(B, T, D)`` what a target attends to; see :class:`Attentive`."""
        return reference
