"""The backbones that turn clips into features; one file per architecture.

A file provides ``VARIANTS``, a mapping from the name used in streams (``tsm18``) to a function
without arguments that builds the network. :func:`names` lists all variants of the folder.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from tad_distill.config import members
from tad_distill.console import UsageError

Normalisation = Literal["imagenet", "symmetric", "kinetics", "mmaction"]


class Backbone(nn.Module, ABC):
    """A network that reads a run of frames and gives one feature per ``stride_frames`` frames.

    Attributes:
        dim: Width D of a feature.
        stride_frames: Frames per feature (r_T in the paper).
        halo_frames: Frames on each side of a frame that its feature depends on. A run that is
            encoded with this many extra frames at both ends, and cut afterwards, gives the same
            features as the whole video in one piece.
        normalisation: Which input statistics the weights expect: ``imagenet`` (RGB, [0, 1] minus
            mean, over standard deviation), ``symmetric`` ([-1, 1]), ``kinetics`` (0.45 and 0.225
            on [0, 1] in every channel) or ``mmaction`` (128 and 128 on levels of 0 to 255: its
            networks for flow). Loading weights may change it.
        stages: Names of the inner stages whose maps can be cached, in order; the last one is
            followed by pooling. A motion branch may own a copy of the last stage, which is the
            submodule of that name.
        clips_alone: Whether every run is a clip of its own, as in training, and no piece of a
            longer video; set by whoever cuts the runs.
    """

    dim: int
    stride_frames: int
    halo_frames: int
    normalisation: Normalisation
    stages: tuple[str, ...]
    clips_alone: bool = False

    @property
    def architecture(self) -> str:
        """The file of this folder that defines the network; its variants share it."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def multiple_frames(self) -> int:
        """Runs have a length that is a multiple of this, and begin at a multiple of it."""
        return self.stride_frames

    def stride_of(self, stage: str | None) -> int:
        """Frames per step of the maps of a stage; None: of the features."""
        return self.stride_frames

    def centre_of(self, stage: str | None) -> float:
        """The middle of what the first step sees far from a run's ends, in frames from its start.

        Frame ``i`` lasts from ``i`` to ``i + 1``. Later steps see the same, ``stride_of(stage)``
        frames on.
        """
        return self.stride_of(stage) / 2

    def adapt_to(self, keys: set[str]) -> None:
        """Become the variant of the architecture whose parameters have these names.

        Called before weights are loaded; an architecture without variants stays as it is.
        """

    def describe(self) -> dict[str, Any]:
        """What else decides the features of this variant, for the provenance."""
        return {}

    def forward(self, frames: Tensor) -> Tensor:
        """Encode runs of frames.

        Args:
            frames: ``(B, T, C, H, W)`` float, normalised; T is a multiple of ``multiple_frames``.

        Returns:
            ``(B, T / stride_frames, D)`` features, pooled over space.
        """
        return self.pool(self.maps(frames, self.stages[-1]))

    def maps(self, frames: Tensor, stage: str) -> Tensor:
        """Output ``(B, T', C', H', W')`` of an inner stage for ``(B, T, C, H, W)`` frames."""
        maps = self.enter(frames)
        for name in self.stages[: self.stages.index(stage) + 1]:
            maps = self.advance(maps, name)
        return maps

    @abstractmethod
    def enter(self, frames: Tensor) -> Tensor:
        """What the first stage reads, ``(B, T', C', H', W')``, for ``(B, T, C, H, W)`` frames."""

    @abstractmethod
    def advance(self, maps: Tensor, stage: str) -> Tensor:
        """Run one stage.

        Args:
            maps: ``(B, T', C', H', W')`` output of the stage before it, or of :meth:`enter`.
            stage: One of ``stages``.

        Returns:
            The stage's own ``(B, T'', C'', H'', W'')`` output. An architecture of two pathways
            packs both into one tensor.
        """

    def pool(self, maps: Tensor) -> Tensor:
        """Pool ``(B, T', D, H', W')`` maps of the last stage over space to ``(B, T', D)``."""
        return maps.mean(dim=(-2, -1))

    @abstractmethod
    def adapt_channels(self, channels: int) -> None:
        """Let the first convolution read ``channels`` input channels, before weights are loaded."""


def variants() -> dict[str, Callable[[], Backbone]]:
    """All backbones by the name that streams use."""
    found: dict[str, Callable[[], Backbone]] = {}
    for module in members(__name__):
        found.update(importlib.import_module(f"{__name__}.{module}").VARIANTS)
    return found


def build(name: str) -> Backbone:
    """Build a backbone by its stream name, with random weights.

    Raises:
        UsageError: Unknown name; the message lists the known ones.
    """
    known = variants()
    if name not in known:
        raise UsageError(f"backbone {name!r}: no such backbone (there are {', '.join(known)})")
    return known[name]()


def shift(x: Tensor, num_frames: int, divisor: int = 8) -> Tensor:
    """Temporal shift (Lin et al., ICCV 2019): trade channels with the neighbouring frames.

    Of C channels the first C // divisor take the next frame's values (zero at the last frame), the
    second C // divisor the previous frame's (zero at the first); the rest stay.

    Args:
        x: ``(B * T, C, H, W)``, frames of one run next to each other.
        num_frames: T.
        divisor: The share of channels moved each way.

    Returns:
        A tensor of the same shape.
    """
    runs = x.unflatten(0, (-1, num_frames))
    fold = x.shape[1] // divisor
    out = runs.clone()
    out[:, :-1, :fold] = runs[:, 1:, :fold]
    out[:, -1, :fold] = 0
    out[:, 1:, fold : 2 * fold] = runs[:, :-1, fold : 2 * fold]
    out[:, 0, fold : 2 * fold] = 0
    return out.flatten(0, 1)
