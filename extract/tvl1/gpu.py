"""The way to TV-L1's Triton kernels: whether a GPU can use them is tried before it does.

Triton comes with torch for CUDA, but not with every build of it, and compiles for the GPU at hand.
So at its first use each device solves two small pairs both ways; where that fails, or the flows
differ, :mod:`.eager` serves instead, and one line of the log says why.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from tad_distill.console import Interrupted, log
from tad_distill.extract.tvl1 import eager
from tad_distill.extract.tvl1.settings import VARIANTS, Settings

Solve = Callable[[Tensor, Tensor, Tensor, Settings], Tensor]

# Two rows and columns of tiles, for their rims are what is most easily wrong.
CHECK_SIZE = (75, 81)
# The median and two launches to each; and iterations without one. An epsilon that a pair which
# stands still falls below at once, and the other never.
CHECKS = tuple(
    replace(VARIANTS[name], num_warps=2, num_outer=outer, num_inner=8, epsilon=1e-6, stop="every")
    for name, outer in (("opencv-cpu", 2), ("opencv-cuda", 1))
)
# Rounding made 2e-5 pixel of difference here, pixels an iteration late make more than 1e-2. What a
# network would see is larger still, and a limit near rounding could cost a GPU its kernels.
TOLERANCE_PX = 1e-3

_lock = threading.Lock()


def missing(device: torch.device) -> str | None:
    """Why the kernels cannot be used there, None where they can; the first call tries them."""
    if device.type != "cuda":
        return f"there is no compiled code for {device.type} devices"
    if device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    with _lock:
        return _tried(device)


def solve(first: Tensor, second: Tensor, flow: Tensor, settings: Settings) -> Tensor:
    """As :func:`tad_distill.extract.tvl1.eager.solve`, where nothing is :func:`missing`."""
    return _kernels()(first, second, flow, settings)


def _kernels() -> Solve:
    from tad_distill.extract.tvl1 import fused  # which imports Triton

    return fused.solve


@cache
def _tried(device: torch.device) -> str | None:
    start, reason = time.perf_counter(), None
    try:
        error = _difference_px(device)
        if not error <= TOLERANCE_PX:
            reason = f"the kernels' flow differs from torch's by {error:.2g} pixels"
    except ImportError as missed:
        reason = f"Triton cannot be imported: {missed}"
    except Interrupted:
        raise
    # Compilers, drivers and Triton's own versions fail in ways that have no type in common.
    except Exception as failure:
        reason = f"{type(failure).__name__}: {' '.join(str(failure).split())[:300]}"
    if reason is None:
        seconds = time.perf_counter() - start
        log("tvl1", code="compiled", by="triton", device=device, seconds=seconds)
    else:
        log("tvl1", code="torch", device=device, reason=reason)
    return reason


def _difference_px(device: torch.device) -> float:
    """Largest difference between both ways, not a number where there is one in the flow."""
    frames = _frames(device)
    start = frames.new_zeros(2, 2, *CHECK_SIZE)
    errors = [
        (solve(frames[:-1], frames[1:], start, settings) - theirs).abs().max()
        for settings in CHECKS
        for theirs in [eager.solve(frames[:-1], frames[1:], start, settings)]
    ]
    return torch.stack(errors).max().item()


def _frames(device: torch.device) -> Tensor:
    """A texture that moves and then stands still, ``(3, *CHECK_SIZE)``."""
    y = torch.arange(CHECK_SIZE[0], dtype=torch.float64).unsqueeze(-1)
    x = torch.arange(CHECK_SIZE[1], dtype=torch.float64)
    frames = []
    for dx, dy in ((0.0, 0.0), (1.3, -0.7), (1.3, -0.7)):
        waves = torch.sin(0.40 * (x - dx) + 0.21 * (y - dy) + 0.5) * 45
        waves += torch.sin(0.23 * (x - dx) - 0.47 * (y - dy)) * 40
        waves += torch.sin(0.09 * (x - dx) + 0.71 * (y - dy) + 1.1) * 35
        frames.append(127.5 + waves)
    return torch.stack(frames).float().to(device)
