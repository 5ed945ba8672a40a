"""What a backbone is shown of the frames: colour, temporal gradient, flow; one file per modality.

A modality's name is its file's name, and the second half of a stream's name: ``tsm18:tg``.
"""

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tad_distill.config import members
from tad_distill.console import UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
KINETICS_MEAN = 0.45
KINETICS_STD = 0.225


@dataclass(frozen=True, kw_only=True)
class ModalityConfig(ABC):
    """The family's base; each file's ``Config`` extends it and adds :meth:`build`.

    Attributes:
        NEUTRAL: Settings that do not change the numbers, so that features made with different ones
            are of one kind.
    """

    NEUTRAL: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def build(self, normalisation: str) -> "Modality":
        """Make the modality for a backbone that expects this ``normalisation``."""


class Modality(ABC):
    """Turns decoded frames into the input of a backbone.

    Attributes:
        channels: Channels C of the output.
        frames_before: How many frames before the first output frame are read as well.
        device: Where it computes, and its output is.
    """

    channels: int
    frames_before: int
    device = torch.device("cpu")

    def to(self, device: torch.device) -> None:
        """Compute on this device."""
        self.device = device

    def __call__(self, frames: NDArray[np.uint8] | Tensor, has_history: bool) -> Tensor:
        """Make the network's input.

        Args:
            frames: ``(N, H, W, 3)`` uint8 RGB, consecutive. With history, the first
                ``frames_before`` of them come before the first output frame.
            has_history: False at the start of a video, where no earlier frame exists; the modality
                then says itself what stands for the missing ones.

        Returns:
            ``(T, C, H, W)`` float32, normalised; T = N - frames_before with history, else N.
        """
        given = torch.from_numpy(frames) if isinstance(frames, np.ndarray) else frames
        return self.show(given.to(self.device), has_history)

    @abstractmethod
    def show(self, frames: Tensor, has_history: bool) -> Tensor:
        """As :meth:`__call__`, of frames on :attr:`device`."""


def default(name: str) -> ModalityConfig:
    """The configuration of a modality that nobody has configured.

    Raises:
        UsageError: Unknown name; the message lists the known ones.
    """
    known = members(__name__)
    if name not in known:
        raise UsageError(f"modality {name!r}: no such modality (there are {', '.join(known)})")
    config: ModalityConfig = importlib.import_module(f"{__name__}.{name}").Config()
    return config


def statistics(normalisation: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the three channels, on the scale of uint8 frames.

    Args:
        normalisation: As :class:`tad_distill.extract.backbones.Backbone` states it.
    """
    if normalisation == "imagenet":
        return torch.tensor(IMAGENET_MEAN) * 255, torch.tensor(IMAGENET_STD) * 255
    if normalisation == "kinetics":
        return torch.full((3,), KINETICS_MEAN * 255), torch.full((3,), KINETICS_STD * 255)
    assert normalisation == "symmetric", normalisation
    return torch.full((3,), 127.5), torch.full((3,), 127.5)


def rows(frames: Tensor) -> Tensor:
    """``(N, H, W, 3)`` uint8 frames to ``(N, H, W * 3)`` float32 rows.

    Arithmetic on long rows takes a quarter of the time, on a processor, that it takes on an
    innermost axis of three channels. Repeat a channel's statistics W times for it.
    """
    return frames.flatten(-2).float()


def channels_first(rows: Tensor) -> Tensor:
    """``(N, H, W * 3)`` rows to ``(N, 3, H, W)``, channels last in memory as networks like it."""
    return rows.unflatten(-1, (-1, 3)).movedim(-1, -3)
