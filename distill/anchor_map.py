"""The map of G-TAD: what is said of every anchor of a video, and of every step as a boundary."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tad_distill.distill.align1d import AnchorAlign
from tad_distill.distill.anchors import lengths
from tad_distill.distill.graph import GraphBlock


class AnchorMap(nn.Module):
    """Aligns every anchor, then convolves over starts and durations."""

    def __init__(
        self, align: AnchorAlign, *, align_dim: int, dim: int, kernel: int, dim_out: int
    ) -> None:
        """Put layers behind ``align``.

        Args:
            align: Makes vectors of ``align_dim`` for all anchors.
            align_dim: Its width.
            dim: Width of the convolutions.
            kernel: Of the convolutions, in steps of duration and start; odd.
            dim_out: Channels that come out.
        """
        super().__init__()
        self.align = align
        self.reduce = nn.Linear(align_dim, dim)
        self.convs = nn.ModuleList(
            nn.Conv2d(dim, dim, kernel, padding=kernel // 2) for _ in range(2)
        )
        self.out = nn.Linear(dim, dim_out)

    def forward(self, feats: Tensor, context: Tensor | None, mask: Tensor) -> Tensor:
        """Say something of every anchor.

        Args:
            feats: ``(B, T, width)``.
            context: ``(B, T, width)``, if ``align`` has bins for it.
            mask: ``(B, T)`` bool, true where real.

        Returns:
            ``(B, D, T, dim_out)``; of no meaning, but finite, for starts that are not real.
        """
        num_steps, ends = mask.shape[1], lengths(mask).tolist()
        tables = self.align.tables(feats, context)
        videos = []
        # Where a video ends decides what its anchors read: one video at a time.
        for video, length in enumerate(ends):
            own = [(table[video, :length], bins) for table, bins in tables]
            parts = [self._reduced(own, block) for block in self.align.blocks(length)]
            videos.append(F.pad(torch.cat(parts), (0, 0, 0, num_steps - length)))
        cells = torch.stack(videos).movedim(-1, 1)  # channels last in memory
        real = mask[:, None, None]
        for conv in self.convs:
            cells = conv(cells)
            cells = F.relu(cells if min(ends) == num_steps else cells * real)
        said: Tensor = self.out(cells.movedim(1, -1))
        return said

    def _reduced(self, tables: list[tuple[Tensor, int]], block: tuple[int, int]) -> Tensor:
        """``(durations, L, dim)``. The wide vectors are not kept but made again for gradients."""

        def reduced() -> Tensor:
            return F.relu(self.reduce(self.align.align(tables, block).relu_()))

        found: Tensor = checkpoint(reduced, use_reentrant=False, preserve_rng_state=False)
        return found


class Boundary(nn.Module):
    """Whether an action starts (or ends) at a step."""

    def __init__(self, dim: int, block: GraphBlock) -> None:
        """Put one linear layer behind ``block``, which gives features of width ``dim``."""
        super().__init__()
        self.block = block
        self.out = nn.Linear(dim, 1)

    def forward(self, feats: Tensor, mask: Tensor) -> Tensor:
        """``(B, T, dim)`` and its mask to ``(B, T)`` before the sigmoid."""
        mixed, _ = self.block(feats, mask)
        said: Tensor = self.out(mixed).squeeze(-1)
        return said
