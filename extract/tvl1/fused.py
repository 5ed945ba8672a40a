"""The iterations of TV-L1 on a GPU, by the kernels of :mod:`.kernels`; needs Triton.

What :mod:`.eager` computes, but for rounding. Flow and dual variable lie in two places, of which a
launch reads one and writes the other, so that a pair found to have been done within a launch can
be given just the iterations that it needed.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tad_distill.console import check_stop
from tad_distill.extract.tvl1 import kernels
from tad_distill.extract.tvl1.eager import KEPT
from tad_distill.extract.tvl1.settings import Settings
from tad_distill.extract.tvl1.stopping import Stopping, ends_within
from tad_distill.extract.tvl1.warp import gradient

# Pixels of a program that does one map after another, and the groups of 32 threads that share them.
BLOCK_PX, BLOCK_WARPS = 256, 4


@dataclass(frozen=True, kw_only=True)
class Tile:
    """What one program works on; sides are powers of two.

    64x64 is the most that a multiprocessor's registers hold: 10 numbers a pixel and what is being
    computed, 8 pixels to each of 512 threads with 128 registers.

    Attributes:
        height: Pixels, the rims included.
        width: Likewise.
        halo: Width of the rims, and the most iterations per launch where there are several tiles.
        num_warps: Groups of 32 threads.
    """

    height: int = 64
    width: int = 64
    halo: int = 5
    num_warps: int = 16

    def num_along(self, size: int, side: int) -> int:
        """Tiles of length ``side`` along ``size`` pixels."""
        if size <= side:
            return 1
        return -(-(size - 2 * self.halo) // (side - 2 * self.halo))


def solve(
    first: Tensor, second: Tensor, flow: Tensor, settings: Settings, tile: Tile = Tile()
) -> Tensor:
    """As :func:`tad_distill.extract.tvl1.eager.solve`, on the device of the frames."""
    first = first.contiguous()
    frames = torch.cat([second.unsqueeze(0), gradient(second)])
    flow = flow.clone(memory_format=torch.contiguous_format)
    dual = flow.new_zeros(2, *flow.shape)
    maps = torch.empty_like(frames)
    pairs = Pairs(flow, dual, settings, tile)
    for _ in range(settings.num_warps):
        check_stop(KEPT)
        warp(first, frames, flow, maps, settings)
        pairs.iterate(maps)
    return flow


def warp(first: Tensor, frames: Tensor, flow: Tensor, maps: Tensor, settings: Settings) -> None:
    """Look up where the flow leads; all arrays are contiguous.

    Args:
        first: ``(B, H, W)``, I0.
        frames: ``(3, B, H, W)``, I1 and its gradient along x and y.
        flow: ``(2, B, H, W)``.
        maps: ``(3, B, H, W)``, filled with rho where the flow is zero, and the gradient of the
            warped I1.
        settings: The variant.
    """
    with torch.cuda.device_of(flow):
        kernels.warp[(-(-first.numel() // BLOCK_PX),)](
            *(first, frames, flow, maps),
            first.numel(),
            *first.shape[1:],
            settings.cubic,
            ZERO_BORDER=settings.border == "zero",
            BLOCK=BLOCK_PX,
            num_warps=BLOCK_WARPS,
            enable_fp_fusion=True,
        )


class Pairs:
    """Flow and dual of B pairs, and the launches that change them."""

    def __init__(self, flow: Tensor, dual: Tensor, settings: Settings, tile: Tile) -> None:
        """Take the arrays in which every warp begins and ends.

        Args:
            flow: ``(2, B, H, W)``, contiguous.
            dual: ``(2, 2, B, H, W)``, contiguous.
            settings: The variant.
            tile: How the images are cut.
        """
        self._settings, self._tile = settings, tile
        self._flow, self._dual = _Turns(flow), _Turns(dual)
        self._height, self._width = flow.shape[-2:]
        self._tiles_x = tile.num_along(self._width, tile.width)
        self._num_tiles = self._tiles_x * tile.num_along(self._height, tile.height)
        # A tile that is the whole image has no rim to go wrong.
        self._most_steps = tile.halo if self._num_tiles > 1 else settings.num_inner

    def iterate(self, maps: Tensor) -> None:
        """One warp.

        Args:
            maps: ``(3, B, H, W)`` of :func:`warp`.
        """
        active = list(range(maps.shape[1]))
        stopping = Stopping(len(active), self._height * self._width, self._settings)
        where = self._index(active)
        for _ in range(self._settings.num_outer):
            self._filter(where)
            left = self._settings.num_inner
            while left:
                num = min(left, self._most_steps)
                left -= num
                changes = self._step(maps, where, num)
                ends = ends_within(stopping, changes, num, len(active))
                for steps in set(ends.values()) - {num}:
                    early = [active[i] for i, end in ends.items() if end == steps]
                    self._step(maps, self._index(early), steps)
                self._flow.swap()
                self._dual.swap()
                if ends:
                    self._settle([active[i] for i in ends])
                    active = [pair for i, pair in enumerate(active) if i not in ends]
                    if not active:
                        return self._begin_at_home()
                    where = self._index(active)
        self._settle(active)
        self._begin_at_home()

    def _step(self, maps: Tensor, active: Tensor, num_steps: int) -> Tensor | None:
        """Iterations of some pairs; returns ``(num_steps, pairs, tiles)`` squared changes."""
        settings, tile, measure = self._settings, self._tile, self._settings.epsilon > 0
        shape = (num_steps, len(active), self._num_tiles) if measure else (1,)
        changes = maps.new_empty(shape)
        with torch.cuda.device_of(maps):
            kernels.iterate[(len(active) * self._num_tiles,)](
                *(self._flow.now, self._dual.now, self._flow.other, self._dual.other),
                *(maps, active, changes),
                maps[0].numel(),
                self._height,
                self._width,
                self._num_tiles,
                self._tiles_x,
                num_steps,
                settings.attachment,
                settings.tightness,
                settings.dual_step,
                MEASURE=measure,
                TILE_H=tile.height,
                TILE_W=tile.width,
                HALO=tile.halo,
                num_warps=tile.num_warps,
                num_stages=1,
                enable_fp_fusion=True,
            )
        return changes * settings.tightness**2 if measure else None

    def _filter(self, active: Tensor) -> None:
        """Median of the flow of some pairs."""
        if self._settings.median == 1:
            return
        flow, num_px = self._flow, self._height * self._width
        num_blocks = -(-num_px // BLOCK_PX)
        kernel: Any = kernels.median(self._settings.median)
        with torch.cuda.device_of(flow.now):
            kernel[(2 * len(active) * num_blocks,)](
                *(flow.now, flow.other, active),
                flow.now[0].numel(),
                num_blocks,
                self._height,
                self._width,
                BLOCK=BLOCK_PX,
                num_warps=BLOCK_WARPS,
                enable_fp_fusion=True,
            )
        flow.swap()

    def _settle(self, pairs: list[int]) -> None:
        """Leave pairs as they are: no launch of this warp changes them any more."""
        for turns in (self._flow, self._dual):
            turns.bring_home(self._index(pairs))

    def _begin_at_home(self) -> None:
        for turns in (self._flow, self._dual):
            turns.now, turns.other = turns.home, turns.away

    def _index(self, pairs: list[int]) -> Tensor:
        return torch.tensor(pairs, dtype=torch.int32, device=self._flow.home.device)


class _Turns:
    """An array in two places that take turns."""

    def __init__(self, home: Tensor) -> None:
        self.home, self.away = home, torch.empty_like(home)
        self.now, self.other = self.home, self.away

    def swap(self) -> None:
        self.now, self.other = self.other, self.now

    def bring_home(self, pairs: Tensor) -> None:
        if self.now is not self.home:
            self.home[..., pairs, :, :] = self.now[..., pairs, :, :]
