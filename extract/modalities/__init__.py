"""What a backbone is shown of the frames: colour, temporal gradient, flow; one file per modality.

A modality's name is its file's name, and the second half of a stream's name: ``tsm18:tg``.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ModalityConfig:
    """The family's base; each file's ``Config`` extends it and adds :meth:`build`."""

    def build(self, normalisation: str) -> "Modality":
        """Make the modality for a backbone that expects this ``normalisation``."""
        raise NotImplementedError


class Modality:
    """Turns decoded frames into the input of a backbone.

    Attributes:
        channels: Channels C of the output.
        frames_before: How many frames before the first output frame are read as well.
    """

    channels: int
    frames_before: int

    def __call__(self, frames: NDArray[np.uint8], has_history: bool) -> Tensor:
        """Make the network's input.

        Args:
            frames: ``(N, H, W, 3)`` uint8 RGB, consecutive. With history, the first
                ``frames_before`` of them come before the first output frame.
            has_history: False at the start of a video, where no earlier frame exists; the modality
                then says itself what stands for the missing ones.

        Returns:
            ``(T, C, H, W)`` float32, normalised; T = N - frames_before with history, else N.
        """
        raise NotImplementedError
