"""What stands between a pyramid and the towers that read it: libs/modeling/necks.py at 61ea7eb."""

from torch import Tensor, nn

from tad_distill.distill.layers import DepthwiseConv


class Norms(nn.Module):
    """The neck of the official configurations: each level is normalised."""

    def __init__(self, width: int, num_levels: int) -> None:
        """Make a norm per level."""
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(num_levels))

    def forward(self, levels: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Levels of ``(B, T_l, width)`` and their masks to the same."""
        return [(norm(f), m) for norm, (f, m) in zip(self.norms, levels, strict=True)]


class FeaturePyramid(nn.Module):
    """A neck in which coarse levels are added to fine ones (FPN, Lin et al., CVPR 2017)."""

    def __init__(self, width: int, num_levels: int) -> None:
        """Make a lateral map, a depthwise convolution and a norm per level."""
        super().__init__()
        self.laterals = nn.ModuleList(
            nn.Linear(width, width, bias=False) for _ in range(num_levels)
        )
        self.convs = nn.ModuleList(DepthwiseConv(width, stride=1) for _ in range(num_levels))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(num_levels))

    def forward(self, levels: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Levels of ``(B, T_l, width)``, each half the one before, and their masks to the same."""
        joined = [
            lateral(feats) * mask.unsqueeze(-1)
            for lateral, (feats, mask) in zip(self.laterals, levels, strict=True)
        ]
        for fine in range(len(joined) - 2, -1, -1):
            joined[fine] = joined[fine] + joined[fine + 1].repeat_interleave(2, dim=1)
        return [
            (norm(conv(feats) * mask.unsqueeze(-1)), mask)
            for conv, norm, feats, (_, mask) in zip(
                self.convs, self.norms, joined, levels, strict=True
            )
        ]
