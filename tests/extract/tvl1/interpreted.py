"""Runs TV-L1's kernels in Triton's interpreter; started by test_kernels.py as a program of its own.

Triton decides at its first import whether it interprets, and other tests import it too.
"""

import sys
from typing import Any

import torch

from tad_distill.extract.tvl1 import fused, kernels
from tad_distill.extract.tvl1.settings import VARIANTS, Settings
from tad_distill.extract.tvl1.warp import gradient


def solve(case: dict[str, Any]) -> torch.Tensor:
    """The flow of one case."""
    tile, settings = fused.Tile(**case["tile"]), Settings(**case["settings"])
    return fused.solve(case["first"], case["second"], case["start"], settings, tile)


def median(flow: torch.Tensor, size: int) -> torch.Tensor:
    """Of the second and fourth of four pairs."""
    out = torch.full_like(flow, -1)
    num_px = flow[0, 0].numel()
    block, active = 64, torch.tensor([3, 1], dtype=torch.int32)
    num_blocks = -(-num_px // block)
    grid = (2 * len(active) * num_blocks,)
    kernels.median(size)[grid](
        *(flow, out, active, flow[0].numel(), num_blocks, *flow.shape[-2:]), BLOCK=block
    )
    return out


def warp(
    first: torch.Tensor, second: torch.Tensor, flow: torch.Tensor, variant: str
) -> torch.Tensor:
    """What the iterations read."""
    frames = torch.cat([second.unsqueeze(0), gradient(second)])
    maps = torch.full_like(frames, -1)
    fused.warp(first, frames, flow, maps, VARIANTS[variant])
    return maps


if __name__ == "__main__":
    given = torch.load(sys.argv[1], weights_only=True)
    flows = {name: solve(case) for name, case in given["solve"].items()}
    medians = {size: median(given["flow"], size) for size in (3, 5)}
    maps = {name: warp(**given["warped"], variant=name) for name in ("opencv-cpu", "opencv-cuda")}
    torch.save({"solve": flows, "median": medians, "warped": maps}, sys.argv[2])
