"""Temporal gradient: ``G_t = V_t - V_(t-1)`` (Lee et al., CVPR 2023, section 3.3).

The differences are taken before normalising, so the mean cancels and only the standard deviation
remains; a still scene is exactly zero. What stands for the first gradient the paper does not say.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tad_distill.extract.modalities import (
    Modality,
    ModalityConfig,
    channels_first,
    rows,
    statistics,
)

First = Literal["zero", "repeat"]


@dataclass(frozen=True, kw_only=True)
class Config(ModalityConfig):
    """Settings of the temporal gradient.

    Attributes:
        first: The gradient of a video's first frame: ``zero``, or ``repeat`` the second frame's.
        gain: Factor on the gradients. They are small (motion blurs what moves), so networks with
            fixed batch statistics may want more; 0.5 is what TSN's RGBDiff uses.
    """

    first: First = "zero"
    gain: float = 1.0

    def build(self, normalisation: str) -> "TemporalGradient":
        """Make the modality for a backbone that expects this ``normalisation``."""
        return TemporalGradient(normalisation, self.first, self.gain)


class TemporalGradient(Modality):
    """Difference of each frame and the one before, over the standard deviation."""

    channels = 3
    frames_before = 1

    def __init__(self, normalisation: str, first: First, gain: float) -> None:
        """Take the statistics that the backbone's weights expect."""
        self._first = first
        self._scale = gain / statistics(normalisation)[1]

    def to(self, device: torch.device) -> None:
        """Compute on this device."""
        super().to(device)
        self._scale = self._scale.to(device)

    def show(self, frames: Tensor, has_history: bool) -> Tensor:
        """``(T [+ 1], H, W, 3)`` uint8 to ``(T, 3, H, W)``."""
        changes = gradients(rows(frames), has_history, self._first)
        return channels_first(changes.mul_(self._scale.repeat(frames.shape[2])))


def gradients(x: Tensor, has_history: bool, first: First) -> Tensor:
    """Difference of each frame and the one before.

    Args:
        x: ``(N, ...)`` frames.
        has_history: Whether frame 0 comes before the first output frame.
        first: What stands for the first gradient where there is no history.

    Returns:
        ``(N - 1, ...)`` with history, else ``(N, ...)``.
    """
    steps = x[1:] - x[:-1]
    if has_history:
        return steps
    start = steps[:1] if first == "repeat" and len(steps) else torch.zeros_like(x[:1])
    return torch.cat([start, steps])
