"""Frames and flow at several scales: bilinear resizing as OpenCV's two versions do it."""

import torch
from torch import Tensor

from tad_distill.extract.tvl1.settings import Settings

# A level with a shorter side is left out.
MIN_SIDE_PX = 16


def level_sizes(height: int, width: int, settings: Settings) -> list[tuple[int, int]]:
    """Height and width of every scale that is used, the finest first."""
    sizes = [(height, width)]
    while len(sizes) < settings.num_scales:
        # OpenCV rounds halves to the even number, as Python does.
        size = tuple(round(side * settings.scale_step) for side in sizes[-1])
        if min(size) < MIN_SIDE_PX:
            break
        sizes.append((size[0], size[1]))
    return sizes


def build(frames: Tensor, settings: Settings) -> list[Tensor]:
    """Frames at every scale.

    Args:
        frames: ``(T, H, W)`` float32, 0 to 255.
        settings: Number and size of the scales.

    Returns:
        ``(T, h, w)`` for each of :func:`level_sizes`. No smoothing before they are shrunk.
    """
    levels = [frames]
    for size in level_sizes(frames.shape[1], frames.shape[2], settings)[1:]:
        # The step itself, not the ratio of the rounded sizes, as OpenCV given factors does.
        levels.append(resize(levels[-1], size, 1 / settings.scale_step, settings.grid))
    return levels


def refine(flow: Tensor, size: tuple[int, int], settings: Settings) -> Tensor:
    """``(2, B, h, w)`` flow to the next finer scale ``(2, B, *size)``, in its pixels."""
    finer = resize(flow, size, None, settings.grid)
    return finer.mul_(1 / settings.scale_step)


def resize(x: Tensor, size: tuple[int, int], step: float | None, grid: str) -> Tensor:
    """Bilinear, without averaging.

    Args:
        x: ``(..., h, w)``.
        size: Of the result.
        step: Pixels of ``x`` per pixel of the result; None: the ratio of the sizes.
        grid: As :class:`Settings` has it.

    Returns:
        ``(..., *size)``.
    """
    for dim, num in ((-1, size[1]), (-2, size[0])):
        low, high, weight = _taps(x.shape[dim], num, step or x.shape[dim] / num, grid, x)
        weight = weight if dim == -1 else weight.unsqueeze(-1)
        x = torch.lerp(x.index_select(dim, low), x.index_select(dim, high), weight)
    return x


def _taps(
    num_in: int, num_out: int, step: float, grid: str, like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    at = torch.arange(num_out, dtype=torch.float64)
    at = at * step if grid == "corner" else (at + 0.5) * step - 0.5
    at = at.clamp(0, num_in - 1)
    low = at.floor()
    weight = (at - low).to(like)
    low = low.long().to(like.device)
    return low, (low + 1).clamp(max=num_in - 1), weight
