"""Temporal gradient of the luminance, one channel: motion without colour."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tad_distill.extract.modalities import Modality, ModalityConfig, statistics
from tad_distill.extract.modalities.tg import First, gradients

# Luma of red, green and blue, Rec. ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, kw_only=True)
class Config(ModalityConfig):
    """Settings of the luminance gradient.

    Attributes:
        first: The gradient of a video's first frame: ``zero``, or ``repeat`` the second frame's.
        gain: Factor on the gradients.
    """

    first: First = "zero"
    gain: float = 1.0

    def build(self, normalisation: str) -> "LuminanceGradient":
        """Make the modality for a backbone that expects this ``normalisation``."""
        return LuminanceGradient(normalisation, self.first, self.gain)


class LuminanceGradient(Modality):
    """Difference of the luminance of each frame and the one before, over the standard deviation."""

    channels = 1
    frames_before = 1

    def __init__(self, normalisation: str, first: First, gain: float) -> None:
        """Take the mean of the three channels' standard deviations, as TSN does for flow."""
        self._first = first
        self._scale = gain / float(statistics(normalisation)[1].mean())
        self._luma = torch.tensor(LUMA)

    def to(self, device: torch.device) -> None:
        """Compute on this device."""
        super().to(device)
        self._luma = self._luma.to(device)

    def show(self, frames: Tensor, has_history: bool) -> Tensor:
        """``(T [+ 1], H, W, 3)`` uint8 to ``(T, 1, H, W)``."""
        luma = frames.float() @ self._luma
        return gradients(luma.unsqueeze(1), has_history, self._first).mul_(self._scale)
