"""Colour, as the backbone was trained to see it."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tad_distill.extract.modalities import Modality, ModalityConfig, statistics


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

    def __call__(self, frames: NDArray[np.uint8], has_history: bool) -> Tensor:
        """``(T, H, W, 3)`` uint8 to ``(T, 3, H, W)``."""
        x = torch.from_numpy(frames).movedim(-1, -3).float()
        return x.sub_(self._mean).div_(self._std)
