"""Attention across all steps, as three of the paper's fusions have it (Table 3).

The paper names self-, cross- and difference attention as alternatives to its local fusion and
gives no formulas. Here they differ in what a branch (the target) attends to and in nothing else::

    f_tgt(t) <- f_tgt(t) + W_o sum_u softmax_u(W_q f_tgt(t) . W_k c(u) / sqrt(d)) W_v c(u)

and the two enhanced branches are concatenated, as they are after the local fusion. The context c
is the target (self), the other branch (cross), or what the other branch has and the target has
not, ``f_ref - f_tgt`` (difference). Without the target's own path a step would be an average of
other steps, so the sum with it is no setting.
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tad_distill.console import UsageError
from tad_distill.distill.attention import attend
from tad_distill.distill.fusions import Fusion, FusionConfig


@dataclass(frozen=True, kw_only=True)
class AttentiveConfig(FusionConfig):
    """Settings that the three have in common.

    Attributes:
        num_heads: Attention heads; a divisor of the branches' width.
    """

    num_heads: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if self.num_heads < 1:
            raise ValueError(f"num_heads: expected at least 1, got {self.num_heads}")


class Attentive(Fusion):
    """Both branches in turn attend to a context, and are then concatenated."""

    def __init__(self, config: AttentiveConfig, dim: int) -> None:
        """Fuse two branches of width ``dim``.

        Raises:
            UsageError: The heads do not divide the width.
        """
        super().__init__()
        if dim % config.num_heads:
            raise UsageError(
                f"fusion.num_heads: {config.num_heads} does not divide model.dim, which is {dim}"
            )
        self.dim_out = 2 * dim
        self.appearance_attention = ContextAttention(dim, config.num_heads)
        self.motion_attention = ContextAttention(dim, config.num_heads)

    @abstractmethod
    def context(self, target: Tensor, reference: Tensor) -> Tensor:
        """``(B, T, D)`` what a target attends to."""

    def forward(self, appearance: Tensor, motion: Tensor, mask: Tensor) -> Tensor:
        """Fuse two branches; see :class:`Fusion`."""
        fused = torch.cat(
            [
                self.appearance_attention(appearance, self.context(appearance, motion), mask),
                self.motion_attention(motion, self.context(motion, appearance), mask),
            ],
            dim=-1,
        )
        return fused.masked_fill(~mask.unsqueeze(-1), 0.0)


class ContextAttention(nn.Module):
    """A target plus what it finds at any real step of its context."""

    def __init__(self, dim: int, num_heads: int) -> None:
        """Make the four linear maps."""
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, target: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Enhance a target.

        Args:
            target: ``(B, T, D)`` features that ask.
            context: ``(B, T, D)`` features that are asked.
            mask: ``(B, T)`` bool, true where real.

        Returns:
            ``(B, T, D)``; what stands where nothing is real has no meaning.
        """
        if target.shape[1] == 0:
            return target
        query, key, value = (
            layer(feats).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer, feats in ((self.query, target), (self.key, context), (self.value, context))
        )
        found = attend(query, key, value, mask, window=0).transpose(1, 2).flatten(2)
        enhanced: Tensor = target + self.proj(found)
        return enhanced
