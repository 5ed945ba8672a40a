"""Look a frame and its gradient up where the flow leads, by bicubic interpolation."""

import torch
from torch import Tensor
from torch.nn import functional as F

# The kernel reads from 1 before to 2 after; positions are limited to 2 outside.
PAD_BEFORE, PAD_AFTER = 3, 4
TAPS = 4


def gradient(x: Tensor) -> Tensor:
    """Central differences of ``(B, H, W)`` frames, ``(2, B, H, W)``: along x, along y.

    At the edge the outer neighbour is the edge itself, so half of a one-sided difference.
    """
    wide = F.pad(x.unsqueeze(0), (1, 1, 0, 0), mode="replicate").squeeze(0)
    tall = F.pad(x.unsqueeze(0), (0, 0, 1, 1), mode="replicate").squeeze(0)
    along_x = wide[..., 2:] - wide[..., :-2]
    along_y = tall[..., 2:, :] - tall[..., :-2, :]
    return torch.stack([along_x, along_y]).mul_(0.5)


class Warper:
    """Warps B frames of one scale; made once, used at each warp."""

    def __init__(self, frames: Tensor, cubic: float, border: str) -> None:
        """Lay out what is looked up.

        Args:
            frames: ``(B, H, W)``.
            cubic: The kernel's parameter.
            border: ``zero`` or ``edge``.
        """
        num, self._height, self._width = frames.shape
        self._cubic = cubic
        maps = torch.cat([frames.unsqueeze(0), gradient(frames)])
        pad = (PAD_BEFORE, PAD_AFTER) * 2
        maps = F.pad(maps, pad, mode="constant" if border == "zero" else "replicate")
        # One row of the table: the four neighbours in x of a pixel, each with its three values.
        # So a warp gathers 4 rows per pixel instead of 48 numbers.
        runs = maps.movedim(0, -1).unfold(2, TAPS, 1)  # (B, H', W'', 3, 4)
        self._columns, self._rows = runs.shape[2], runs.shape[1]
        self._table = runs.movedim(-1, -2).reshape(-1, TAPS * 3)
        device = frames.device
        self._x = torch.arange(self._width, dtype=torch.float32, device=device)
        self._y = torch.arange(self._height, dtype=torch.float32, device=device).unsqueeze(-1)
        self._first = torch.arange(num, device=device).reshape(-1, 1, 1)
        self._first *= self._rows * self._columns

    def __call__(self, flow: Tensor) -> Tensor:
        """Warp.

        Args:
            flow: ``(2, B, H, W)``.

        Returns:
            ``(3, B, H, W)``: the frames and their gradients along x and y.
        """
        column, weights_x = self._locate(self._x + flow[0], self._width)
        row, weights_y = self._locate(self._y + flow[1], self._height)
        first = self._first + row * self._columns + column
        down = torch.arange(TAPS, device=flow.device) * self._columns
        taps = F.embedding_bag(
            first.reshape(-1, 1) + down,
            self._table,
            mode="sum",
            per_sample_weights=weights_y.reshape(-1, TAPS),
        )
        taps = taps.unflatten(-1, (TAPS, 3))
        weights = weights_x.reshape(-1, TAPS, 1)
        out = taps[:, 0] * weights[:, 0]
        for tap in range(1, TAPS):
            out.addcmul_(taps[:, tap], weights[:, tap])
        return out.t().reshape(3, *flow.shape[1:])

    def _locate(self, at: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Index of the first tap in the padded map, and the weights ``(..., 4)``."""
        at = at.clamp_(-2.0, size + 1.0)
        whole = at.floor()
        weights = cubic_weights(at - whole, self._cubic)
        return whole.long().add_(PAD_BEFORE - 1), weights


def cubic_weights(offset: Tensor, a: float) -> Tensor:
    """Keys' kernel: weights ``(..., 4)`` of the taps -1, 0, 1, 2 for offsets in [0, 1).

    In this form without cancellation, which would cost two digits.
    """
    near = 1 - offset
    first, last = a * offset * near * near, a * near * offset * offset
    second = ((a + 2) * offset - (a + 3)) * offset * offset + 1
    third = ((a + 2) * near - (a + 3)) * near * near + 1
    return torch.stack([first, second, third, last], -1)
