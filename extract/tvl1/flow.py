"""From frames to flow: the pyramid, and its scales from coarse to fine, in batches of pairs."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from tad_distill.console import UserError
from tad_distill.extract.tvl1 import eager, gpu, native, pyramid
from tad_distill.extract.tvl1.settings import Settings

# Pixels of pairs that torch iterates together.
BATCH_PX = {"cpu": eager.TILE_PX}
BATCH_PX_GPU = 1 << 24

Compile = Literal["auto", "never", "always"]


@torch.inference_mode()
def flow(frames: Tensor, settings: Settings, compile: Compile = "auto") -> Tensor:
    """Flow from each frame to the next.

    Args:
        frames: ``(T, H, W)`` grey values from 0 to 255, of any type.
        settings: The variant.
        compile: Whether to use code that is compiled at first use, on a processor by a C++
            compiler, on a CUDA device by Triton: ``auto`` where that works, ``never``, or
            ``always``, which fails where it does not. The numbers differ by rounding alone, which
            the algorithm may amplify as it does any.

    Returns:
        ``(T - 1, 2, H, W)`` float32 on the same device, in pixels: along x, along y. A pair's flow
        does not depend on the other frames.

    Raises:
        UserError: ``always``, and it cannot be compiled.
    """
    solve = _solver(frames.device, compile)
    levels = pyramid.build(frames.float(), settings)
    coarsest = levels[-1]
    found = coarsest.new_zeros(2, max(0, len(frames) - 1), *coarsest.shape[1:])
    for level in reversed(levels):
        if level is not coarsest:
            found = pyramid.refine(found, (level.shape[1], level.shape[2]), settings)
        found = solve(level[:-1], level[1:], found, settings)
    return found.transpose(0, 1)


def uses_compiled(device: torch.device, compile: Compile) -> bool:
    """Whether :func:`flow` uses compiled code there; compiles it if need be.

    Raises:
        UserError: ``always``, and it cannot be compiled.
    """
    if compile == "never":
        return False
    if device.type != "cpu":
        missing = gpu.missing(device)
    elif native.is_available():
        missing = None
    else:
        missing = "no working C++ compiler was found; install g++ or set CXX"
    if missing and compile == "always":
        raise UserError(f"compile=always: {missing}")
    return not missing


def _solver(device: torch.device, compile: Compile) -> gpu.Solve:
    compiled = uses_compiled(device, compile)
    if compiled and device.type == "cpu":
        return native.solve
    return partial(_solve_in_batches, gpu.solve if compiled else eager.solve)


def _solve_in_batches(
    solve: gpu.Solve, first: Tensor, second: Tensor, start: Tensor, settings: Settings
) -> Tensor:
    if not len(first):
        return start
    num_px = BATCH_PX.get(first.device.type, BATCH_PX_GPU)
    size = max(1, num_px // first[0].numel())
    batches = zip(first.split(size), second.split(size), start.split(size, 1), strict=True)
    return torch.cat([solve(*batch, settings) for batch in batches], 1)
