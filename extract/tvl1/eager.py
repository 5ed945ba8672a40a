"""The iterations of TV-L1 in plain torch: many pairs at once, in place, in pieces that fit a cache.

Images lie flat behind each other, between two rows of zeros, so that a neighbour is the same
numbers read from another start. No border needs code of its own: along the last column and the
last row the dual variable stays zero, and those are what the first column and row read before them.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from tad_distill.console import check_stop
from tad_distill.extract.tvl1.median import median_filter
from tad_distill.extract.tvl1.piece import Piece
from tad_distill.extract.tvl1.settings import Settings
from tad_distill.extract.tvl1.stopping import Stopping
from tad_distill.extract.tvl1.warp import Warper

# Pixels at a time on a processor: fewer cost more calls, more leave its caches.
TILE_PX = 60_000
# Said when a signal asks for a stop, for which a chunk of large frames takes too long.
KEPT = "finished work is kept, the flow in the making was dropped"
# Below this OpenCV takes the square of a gradient for zero.
SMALLEST = float(torch.finfo(torch.float32).eps)


def solve(first: Tensor, second: Tensor, flow: Tensor, settings: Settings) -> Tensor:
    """Refine the flow of B pairs at one scale.

    Args:
        first: ``(B, H, W)`` float32, I0.
        second: ``(B, H, W)``, I1.
        flow: ``(2, B, H, W)`` to start from.
        settings: The variant.

    Returns:
        ``(2, B, H, W)``. A pair's flow does not depend on the pairs beside it.
    """
    warper = Warper(second, settings.cubic, settings.border)
    flow = flow.clone()
    dual = flow.new_zeros(2, *flow.shape)
    steps = _dual_steps(first, settings.dual_step)
    for _ in range(settings.num_warps):
        check_stop(KEPT)
        maps = warper(flow)
        offset = maps[0] - maps[1] * flow[0] - maps[2] * flow[1] - first
        _iterate(Pairs(flow, dual, maps[1:], offset, steps, settings), flow, dual, settings)
    return flow


def _iterate(pairs: "Pairs", flow: Tensor, dual: Tensor, settings: Settings) -> None:
    """One warp; leaves its outcome in ``flow`` and ``dual``."""
    active = list(range(flow.shape[1]))
    stopping = Stopping(len(active), flow[0, 0].numel(), settings)
    for _ in range(settings.num_outer):
        pairs.filter(settings.median)
        for _ in range(settings.num_inner):
            change = pairs.primal_step(measure=stopping.wants_change())
            pairs.dual_step()
            if done := stopping.finish(change):
                pairs.leave(done, [active[i] for i in done], flow, dual)
                active = [pair for i, pair in enumerate(active) if i not in done]
                if not active:
                    return
                pairs = pairs.without(done)
    pairs.leave(range(len(active)), active, flow, dual)


class Pairs:
    """The pairs that are still being iterated."""

    def __init__(
        self,
        flow: Tensor,
        dual: Tensor,
        slope: Tensor,
        offset: Tensor,
        steps: Tensor,
        settings: Settings,
    ) -> None:
        """Copy B pairs to where they are worked on.

        Args:
            flow: ``(2, B, H, W)``.
            dual: ``(2, 2, B, H, W)``: along x and y, of both parts of the flow.
            slope: ``(2, B, H, W)`` gradient of the warped I1.
            offset: ``(B, H, W)`` rho where the flow is zero.
            steps: ``(2, B', H, W)`` of :func:`_dual_steps`, B' at least B.
            settings: The variant.
        """
        self._settings, self._steps = settings, steps
        self._shape = flow.shape[1:]
        width, num = flow.shape[-1], offset.numel()
        self._flow = flow.new_zeros(2, num + 2 * width)
        self._dual = flow.new_zeros(2, 2, num + 2 * width)
        self._core = slice(width, width + num)
        self._flow[:, self._core] = flow.flatten(1)
        self._dual[..., self._core] = dual.flatten(2)
        self._slope, self._offset = slope.flatten(1), offset.flatten()
        square = (self._slope**2).sum(0).clamp_(min=SMALLEST)
        # Everything is kept over theta, so that one multiplication adds it to the flow.
        self._inverse = (1 / settings.tightness) / square
        self._pieces = self._cut()

    def primal_step(self, *, measure: bool) -> list[float] | None:
        """Thresholding and divergence; returns the squared change of each pair, if wanted."""
        norms = [piece.primal_step(measure=measure) for piece in self._pieces]
        if not measure:
            return None
        squares = torch.cat(norms, 1).square_()  # type: ignore[arg-type]
        per_pair = squares.unflatten(1, (self._shape[0], -1)).double().sum((0, 2))
        return (per_pair * self._settings.tightness**2).tolist()

    def dual_step(self) -> None:
        """A step along the gradient of the flow, and back to length one at most."""
        for piece in self._pieces:
            piece.dual_step()

    def filter(self, size: int) -> None:
        """Median of the flow."""
        if size > 1:
            maps = self._flow[:, self._core].unflatten(1, self._shape)
            maps.copy_(median_filter(maps.flatten(0, 1), size).unflatten(0, (2, -1)))

    def leave(self, at: Iterable[int], places: list[int], flow: Tensor, dual: Tensor) -> None:
        """Write the state of pairs to their ``places`` in ``flow`` and ``dual``."""
        index = list(at)
        flow[:, places] = self._flow[:, self._core].unflatten(1, self._shape)[:, index]
        dual[:, :, places] = self._dual[..., self._core].unflatten(2, self._shape)[:, :, index]

    def without(self, done: list[int]) -> "Pairs":
        """The others."""
        keep = [i for i in range(self._shape[0]) if i not in done]
        return Pairs(
            self._flow[:, self._core].unflatten(1, self._shape)[:, keep],
            self._dual[..., self._core].unflatten(2, self._shape)[:, :, keep],
            self._slope.unflatten(1, self._shape)[:, keep],
            self._offset.unflatten(0, self._shape)[keep],
            self._steps,
            self._settings,
        )

    def _cut(self) -> list[Piece]:
        num_pairs, height, width = self._shape
        per_pair = height * width
        if self._flow.device.type != "cpu":
            size = num_pairs * per_pair
        elif per_pair <= TILE_PX:
            size = TILE_PX // per_pair * per_pair
        else:
            # As many pieces in every pair, so that their norms can be told apart by position.
            size = max(1, TILE_PX // width) * width
        total, block = num_pairs * per_pair, max(size, per_pair)
        bounds = [
            (start, min(start + size, first + block, total))
            for first in range(0, total, block)
            for start in range(first, min(first + block, total), size)
        ]
        scratch = self._flow.new_empty(9, min(size, total))
        return [self._piece(start, end, scratch[:, : end - start]) for start, end in bounds]

    def _piece(self, start: int, end: int, scratch: Tensor) -> Piece:
        width, per_pair = self._shape[2], self._shape[1] * self._shape[2]
        low, high = start + width, end + width
        return Piece(
            num_pairs=max(1, (end - start) // per_pair),
            settings=self._settings,
            scratch=scratch,
            flow=self._flow[:, low:high],
            flow_right=self._flow[:, low + 1 : high + 1],
            flow_below=self._flow[:, low + width : high + width],
            dual=self._dual[..., low:high],
            dual_left=self._dual[0, :, low - 1 : high - 1],
            dual_above=self._dual[1, :, low - width : high - width],
            slope=self._slope[:, start:end],
            offset=self._offset[start:end],
            inverse=self._inverse[start:end],
            steps=self._steps[:, start:end],
        )


def _dual_steps(frames: Tensor, step: float) -> Tensor:
    """``(2, B * H * W)``: ``step`` along x and y, 0 where no pixel follows."""
    steps = frames.new_full((2, *frames.shape), step)
    steps[0, ..., -1] = 0
    steps[1, :, -1] = 0
    return steps.flatten(1)
