"""Colour, as the backbone was trained to see it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tad_distill.extract.modalities import (
    Modality,
    ModalityConfig,
    channels_first,
    rows,
    statistics,
)


@dataclass(frozen=True, kw_only=True)
class Config(ModalityConfig):
    """Colour has no settings."""

    def build(self, normalisation: str) -> "RGB":
        """Make the modality for a backbone that expects this ``normalisation``."""
        return RGB(normalisation)


class RGB(Modality):
    """Frames minus the mean, over the standard deviation."""

    channels = 3
    frames_before = 0

    def __init__(self, normalisation: str) -> None:
        """Take the statistics that the backbone's weights expect."""
        self._mean, self._std = statistics(normalisation)

    def to(self, device: torch.device) -> None:
        """Compute on this device."""
        super().to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)

    def show(self, frames: Tensor, has_history: bool) -> Tensor:
        """``(T, H, W, 3)`` uint8 to ``(T, 3, H, W)``."""
        width = frames.shape[2]
        x = rows(frames).sub_(self._mean.repeat(width)).div_(self._std.repeat(width))
        return channels_first(x)
