"""One iteration of TV-L1 on a stretch of pixels, each call a pass over what fits a cache."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tad_distill.extract.tvl1.settings import Settings


@dataclass(kw_only=True, slots=True)
class Piece:
    """Views of N pixels in a row, of whole pairs or a part of one.

    Attributes:
        num_pairs: Pairs that it holds, 1 where a part.
        settings: The variant.
        scratch: ``(9, N)``, shared by all pieces.
        flow: ``(2, N)``.
        flow_right: The same, one pixel on.
        flow_below: The same, one row on.
        dual: ``(2, 2, N)``: along x and y, of both parts of the flow.
        dual_left: ``(2, N)``, along x, one pixel back.
        dual_above: ``(2, N)``, along y, one row back.
        slope: ``(2, N)``, gradient of the warped I1.
        offset: ``(N,)``, rho where the flow is zero.
        inverse: ``(N,)``, one over the square of the slope and theta.
        steps: ``(2, N)``, tau over theta; 0 where no pixel follows.
    """

    num_pairs: int
    settings: Settings
    scratch: Tensor
    flow: Tensor
    flow_right: Tensor
    flow_below: Tensor
    dual: Tensor
    dual_left: Tensor
    dual_above: Tensor
    slope: Tensor
    offset: Tensor
    inverse: Tensor
    steps: Tensor

    def primal_step(self, *, measure: bool) -> Tensor | None:
        """Threshold (Zach et al., proposition 3), then add the divergence (their equation 14).

        Returns:
            ``(2, num_pairs)`` norms of what was added to the flow, over theta; None if not to be
            measured.
        """
        drift, change = self.scratch[0], self.scratch[1:3]
        torch.addcmul(self.offset, self.slope[0], self.flow[0], out=drift)
        drift.addcmul_(self.slope[1], self.flow[1]).mul_(self.inverse)
        drift.clamp_(-self.settings.attachment, self.settings.attachment)
        torch.sub(self.dual[0], self.dual_left, out=change)
        change.add_(self.dual[1]).sub_(self.dual_above)
        change.addcmul_(self.slope, drift, value=-1)
        self.flow.add_(change, alpha=self.settings.tightness)
        if not measure:
            return None
        return torch.linalg.vector_norm(change.unflatten(1, (self.num_pairs, -1)), dim=-1)

    def dual_step(self) -> None:
        """Chambolle's step of the dual variable along the flow's gradient (their equation 16)."""
        rise, length = self.scratch[3:7].unflatten(0, (2, 2)), self.scratch[7:9]
        torch.sub(self.flow_right, self.flow, out=rise[0]).mul_(self.steps[0])
        torch.sub(self.flow_below, self.flow, out=rise[1]).mul_(self.steps[1])
        torch.mul(rise[0], rise[0], out=length)
        length.addcmul_(rise[1], rise[1]).sqrt_().add_(1)
        self.dual.add_(rise).div_(length)
