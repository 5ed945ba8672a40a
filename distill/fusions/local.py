"""Local attentive fusion (paper section 3.4, Eq. 6).

Each branch in turn is the target and is enhanced by the other, its reference::

    q        = W_q psi(f_tgt)               target pooled over time: what is the video about
    k(t)     = W_k f_ref(t)                 the reference at step t only
    a(t)     = sigmoid(q * k(t))            * is the Hadamard product: one gate per channel
    f_tgt(t) <- a(t) * f_tgt(t)             or (1 + a(t)) * f_tgt(t) with ``residual``

and the two enhanced branches are concatenated. Attention across steps would blend neighbours
and so blur the boundaries that a detector needs; these gates never look at another step of the
reference.

The paper leaves open the pooling psi, whether the gates have a residual path, and how the
projections look. Here psi is a setting, the gates act directly on the target (as in the closest
published relative, the cross-modal consensus module of CO2-Net, ACM MM 2021) unless
``residual`` is set, and W_q and W_k are linear with a bias, one pair for each direction.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tad_distill.distill.fusions import Fusion, FusionConfig


@dataclass(frozen=True, kw_only=True)
class Config(FusionConfig):
    """Settings of the local attentive fusion.

    Attributes:
        pool: psi, how the target is pooled over time. ``max`` finds short actions in long videos.
        residual: Whether a gate of 0 leaves the target as it is (true) or closes it (false).
    """

    pool: Literal["max", "mean"] = "max"
    residual: bool = False

    def build(self, dim: int) -> "Local":
        """Make the fusion of two branches of width ``dim``."""
        return Local(self, dim)


class Local(Fusion):
    """Channel gates from the pooled target and the reference's own step; then concatenation."""

    def __init__(self, config: Config, dim: int) -> None:
        """Fuse two branches of width ``dim``."""
        super().__init__()
        self.dim_out = 2 * dim
        self.appearance_gate = Gate(config, dim)
        self.motion_gate = Gate(config, dim)

    def forward(self, appearance: Tensor, motion: Tensor, mask: Tensor) -> Tensor:
        """Fuse two branches; see :class:`Fusion`."""
        fused = torch.cat(
            [
                self.appearance_gate(appearance, motion, mask),
                self.motion_gate(motion, appearance, mask),
            ],
            dim=-1,
        )
        return fused.masked_fill(~mask.unsqueeze(-1), 0.0)


class Gate(nn.Module):
    """One direction of the fusion: a target enhanced by its reference."""

    def __init__(self, config: Config, dim: int) -> None:
        """Gate a target of width ``dim`` by a reference as wide."""
        super().__init__()
        self.pool = config.pool
        self.residual = config.residual
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)

    def forward(self, target: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
        """Enhance a target.

        Args:
            target: ``(B, T, D)`` features that are enhanced.
            reference: ``(B, T, D)`` features that say where.
            mask: ``(B, T)`` bool, true where real.

        Returns:
            ``(B, T, D)``; what stands where nothing is real has no meaning.
        """
        query = self.query(pool(target, mask, self.pool)).unsqueeze(1)
        gates = torch.sigmoid(query * self.key(reference))
        return target * (1 + gates if self.residual else gates)


def pool(feats: Tensor, mask: Tensor, how: Literal["max", "mean"]) -> Tensor:
    """Pool features over the real time steps.

    Args:
        feats: ``(B, T, D)`` features.
        mask: ``(B, T)`` bool, true where real.
        how: Largest or average value of each channel.

    Returns:
        ``(B, D)``; zero for a video without any real step.
    """
    real = mask.unsqueeze(-1)
    if how == "mean":
        return feats.masked_fill(~real, 0.0).sum(1) / real.sum(1).clamp(min=1)
    if feats.shape[1] == 0:
        return feats.sum(1)
    largest = feats.masked_fill(~real, float("-inf")).amax(1)
    return largest.masked_fill(~mask.any(1, keepdim=True), 0.0)
