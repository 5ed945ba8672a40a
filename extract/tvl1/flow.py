"""From frames to flow: the pyramid, and its scales from coarse to fine, in batches of pairs."""

from typing import Literal

import torch
from torch import Tensor

from tad_distill.console import UserError
from tad_distill.extract.tvl1 import eager, native, pyramid
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
        compile: On a processor, whether to use code that a C++ compiler makes at first use:
            ``auto`` where there is one, ``never``, or ``always``, which fails without. The numbers
            differ by rounding alone, which the algorithm may amplify as it does any.

    Returns:
        ``(T - 1, 2, H, W)`` float32 on the same device, in pixels: along x, along y. A pair's flow
        does not depend on the other frames.

    Raises:
        UserError: ``always``, and there is no compiler.
    """
    compiled = uses_compiled(frames.device, compile)
    levels = pyramid.build(frames.float(), settings)
    coarsest = levels[-1]
    found = coarsest.new_zeros(2, max(0, len(frames) - 1), *coarsest.shape[1:])
    for level in reversed(levels):
        if level is not coarsest:
            found = pyramid.refine(found, (level.shape[1], level.shape[2]), settings)
        solve = native.solve if compiled else _solve_in_batches
        found = solve(level[:-1], level[1:], found, settings)
    return found.transpose(0, 1)


def uses_compiled(device: torch.device, compile: Compile) -> bool:
    """Whether :func:`flow` uses compiled code there; compiles it if need be.

    Raises:
        UserError: ``always``, and there is no compiler.
    """
    if device.type != "cpu" or compile == "never":
        return False
    if not (available := native.is_available()) and compile == "always":
        raise UserError("compile=always: no working C++ compiler was found; install g++ or set CXX")
    return available


def _solve_in_batches(first: Tensor, second: Tensor, start: Tensor, settings: Settings) -> Tensor:
    if not len(first):
        return start
    num_px = BATCH_PX.get(first.device.type, BATCH_PX_GPU)
    size = max(1, num_px // first[0].numel())
    batches = zip(first.split(size), second.split(size), start.split(size, 1), strict=True)
    return torch.cat([eager.solve(*batch, settings) for batch in batches], 1)
