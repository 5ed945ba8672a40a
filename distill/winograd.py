"""Convolutions of three steps with half of the multiplications: minimal filtering, F(4, 3).

Winograd, "Arithmetic complexity of computations" (1980); Lavin and Gray, CVPR 2016. Six products of
matrices make four outputs that otherwise need twelve. A tile is six steps, four of them its own;
steps and weights are multiplied as polynomials, by their values at 0, 1, -1, 1/2, -2 and infinity.
These points lose least of those tried: on sums of 1,536 terms the largest error in float32 is 3.4
times that of the plain product, 6e-6 of a mean output.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

OWN, TILE = 4, 6  # steps
# Smaller products gain nothing. A training step of a convolution takes of the plain time, measured
# on one core: 0.84 at 64 channels, 0.82 at 128, 0.55 to 0.6 at 512; 1.04 at 512 with 96 steps.
LEAST_DIM, LEAST_STEPS = 128, 256


def pays(feats: Tensor, weight: Tensor) -> bool:
    """Whether :func:`convolve` is faster, and as exact as the rest: on the CPU, in float32.

    Args:
        feats: ``(B, T, D)``.
        weight: ``(kernel, D_out, D)``.
    """
    kernel, dim_out, dim = weight.shape
    large = kernel == 3 and min(dim, dim_out) >= LEAST_DIM and feats[..., 0].numel() >= LEAST_STEPS
    exact = feats.dtype == weight.dtype == torch.float32
    return large and exact and feats.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


def convolve(feats: Tensor, weight: Tensor) -> Tensor:
    """``sum_i weight[i] @ feats[t + i - 1]`` with zeros before the first step and after the last.

    Args:
        feats: ``(B, T, D)``.
        weight: ``(3, D_out, D)``.

    Returns:
        ``(B, T, D_out)``.
    """
    convolved: Tensor = _Convolution.apply(feats, weight)
    return convolved


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, feats: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(feats, weight)
        _, of_weight, _ = _transforms()
        return _filter(feats, _weighted(of_weight, weight).transpose(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        feats, weight = ctx.saved_tensors
        of_tile, of_weight, of_output = _transforms()
        grad_feats = grad_weight = None
        if ctx.needs_input_grad[0]:
            # The gradient is filtered with the weights in reverse order.
            grad_feats = _filter(grad, _weighted(of_weight.flip(1), weight))
        if ctx.needs_input_grad[1]:
            seen = _each(of_tile, _tiles(feats))
            given = _each(of_output.T, _own_steps(grad))
            by_point = torch.bmm(given.movedim(0, 2), seen.transpose(0, 1))
            grad_weight = _weighted(of_weight.T, by_point)
        return grad_feats, grad_weight


def _filter(feats: Tensor, weights: Tensor) -> Tensor:
    """``(B, T, D)`` filtered with ``(6, D, D_out)`` transformed weights to ``(B, T, D_out)``."""
    of_tile, _, of_output = _transforms()
    num_videos, num_steps, _ = feats.shape
    products = torch.bmm(_each(of_tile, _tiles(feats)).transpose(0, 1), weights)
    filtered = _each(of_output, products.transpose(0, 1))
    return filtered.flatten(0, 1).unflatten(0, (num_videos, -1))[:, :num_steps]


def _num_tiles(num_videos: int, num_steps: int) -> int:
    """Tiles of a video. Where another one follows, the last tile has to end with a zero."""
    return -(-(num_steps + (num_videos > 1)) // OWN)


def _tiles(feats: Tensor) -> Tensor:
    """``(B, T, D)`` as overlapping tiles ``(N, 6, D)``, all videos in a row, a view of one copy."""
    num_videos, num_steps, dim = feats.shape
    num_rows = OWN * _num_tiles(num_videos, num_steps)
    rows = feats.new_zeros(num_videos * num_rows + TILE - OWN, dim)
    # A step before the first one and one after the last are zero.
    if num_videos == 1:
        rows[1 : 1 + num_steps] = feats[0]
    else:
        rows[:-2].unflatten(0, (num_videos, num_rows))[:, 1 : 1 + num_steps] = feats
    return rows.as_strided((num_videos * num_rows // OWN, TILE, dim), (OWN * dim, dim, 1))


def _own_steps(grad: Tensor) -> Tensor:
    """``(B, T, D)`` as the tiles' own steps ``(N, 4, D)``, zeros where a tile has none."""
    num_videos, num_steps, dim = grad.shape
    num_rows = OWN * _num_tiles(num_videos, num_steps)
    if num_rows != num_steps or not grad.is_contiguous():
        rows = grad.new_zeros(num_videos, num_rows, dim)
        rows[:, :num_steps] = grad
        grad = rows
    return grad.view(-1, OWN, dim)


def _each(matrix: Tensor, steps: Tensor) -> Tensor:
    """``(I, J)`` times each of ``(N, J, D)``."""
    return torch.bmm(matrix.expand(len(steps), -1, -1), steps)


def _weighted(matrix: Tensor, weights: Tensor) -> Tensor:
    """``(I, J)`` times ``(J, D_out, D)`` matrices: as many sums of them."""
    return (matrix @ weights.flatten(1)).unflatten(1, weights.shape[1:])


@lru_cache(maxsize=1)
@torch.inference_mode(False)
def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """``(6, 6)`` of a tile, ``(6, 3)`` of the weights, ``(4, 6)`` of the products."""
    points = torch.tensor([0.0, 1.0, -1.0, 0.5, -2.0], dtype=torch.float64)
    num_points = len(points)
    powers = points.unsqueeze(1) ** torch.arange(OWN)
    last = torch.zeros(1, OWN, dtype=torch.float64)
    last[0, -1] = 1.0  # the point at infinity sees the highest power alone
    of_output = torch.cat([powers, last]).T
    others = [torch.cat([points[:i], points[i + 1 :]]) for i in range(num_points)]
    scale = torch.stack([(points[i] - others[i]).prod() for i in range(num_points)])
    of_weight = torch.zeros(TILE, 3, dtype=torch.float64)
    of_weight[:num_points] = powers[:, :3] / scale.unsqueeze(1)
    of_weight[-1, -1] = 1.0
    of_tile = torch.zeros(TILE, TILE, dtype=torch.float64)
    for i in range(num_points):
        of_tile[i, :num_points] = _polynomial(others[i])
    of_tile[-1] = _polynomial(points)
    return of_tile.float(), of_weight.float(), of_output.float().contiguous()


def _polynomial(roots: Tensor) -> Tensor:
    """Coefficients of the polynomial with these roots, the constant one first."""
    coefficients = torch.ones(1, dtype=roots.dtype)
    for root in roots:
        shifted = torch.nn.functional.pad(coefficients, (1, 0))
        coefficients = shifted - root * torch.nn.functional.pad(coefficients, (0, 1))
    return coefficients
