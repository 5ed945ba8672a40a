"""SlowFast-50: a slow pathway that reads few frames, a narrow fast one that reads them all.

Feichtenhofer, Fan, Malik, He: SlowFast Networks, ICCV 2019. Two kinds of checkpoints exist, and
their networks are not the same:

PySlowFast (at 287ec00) and PyTorchVideo
    Lateral convolutions are followed by batch normalisation and ReLU. The slow frames of a clip of
    T frames are ``linspace(0, T - 1, T / alpha)``, cut to whole numbers. Input as ``kinetics``.
mmaction2 (at 4d6c934), used by E2E-TAD
    Lateral convolutions alone. The slow frames are every alpha-th. Input as ``imagenet``.

The weights decide which one it is, see :meth:`SlowFast.adapt_to`; random weights get the second.

In a run that is a piece of a longer video the first kind's rule would give other slow frames for
other pieces, and drifts by alpha - 1 frames from start to end. There every alpha-th frame is taken,
as far from the first as the frames of the trained clips are on average.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tad_distill.extract.backbones import Backbone, Normalisation
from tad_distill.extract.resnet3d import (
    DEPTHS,
    FAST_KERNELS,
    FAST_WIDTH,
    LAYERS,
    SLOW_KERNELS,
    SLOW_WIDTH,
    Stem,
    blocks,
)

# Frames per feature, r_T, as in E2E-TAD.
STRIDE_FRAMES = 4
CLIP_FRAMES = 32


class Lateral(nn.Module):
    """From the fast pathway to the slow one: every alpha-th frame, twice the channels."""

    def __init__(self, width: int, kernel: int, alpha: int) -> None:
        """Read ``width`` channels; without normalisation, see :meth:`normalise`."""
        super().__init__()
        self.conv = nn.Conv3d(
            width,
            2 * width,
            (kernel, 1, 1),
            stride=(alpha, 1, 1),
            padding=(kernel // 2, 0, 0),
            bias=False,
        )
        self.bn: nn.BatchNorm3d | None = None

    def normalise(self, on: bool) -> None:
        """Follow the convolution by batch normalisation and ReLU, or leave it alone."""
        self.bn = nn.BatchNorm3d(self.conv.out_channels) if on else None

    def forward(self, fast: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to ``(B, 2 C, T / alpha, H, W)``."""
        out: Tensor = self.conv(fast)
        return out if self.bn is None else F.relu(self.bn(out), inplace=True)


class Pathways(nn.Module):
    """The same part of both pathways, and the lateral connection behind it."""

    def __init__(self, slow: nn.Module, fast: nn.Module, lateral: Lateral | None) -> None:
        """Join the parts; the last stage has no lateral connection."""
        super().__init__()
        self.slow, self.fast, self.lateral = slow, fast, lateral

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C, T / alpha, H, W)`` and ``(B, C', T, H, W)`` to the next part's inputs."""
        slow, fast = self.slow(slow), self.fast(fast)
        if self.lateral is not None:
            slow = torch.cat([slow, self.lateral(fast)], dim=1)
        return slow, fast


class SlowFast(Backbone):
    """SlowFast-50; a feature per 4 frames: 2048 numbers of the slow pathway, then 256 of the fast.

    Maps hold one step per ``alpha`` frames: the slow pathway's channels, then those of each of the
    alpha frames of the fast one; see :func:`pack`.
    """

    dim = 4 * (SLOW_WIDTH + FAST_WIDTH) * 8
    stride_frames = STRIDE_FRAMES
    normalisation: Normalisation = "imagenet"
    stages = LAYERS

    def __init__(self, alpha: int, kernel: int) -> None:
        """Build mmaction2's kind, with random weights (He initialisation).

        Args:
            alpha: Frames per frame of the slow pathway, a multiple of 4.
            kernel: Frames that a lateral convolution spans.
        """
        super().__init__()
        self.alpha = alpha
        stem = Lateral(FAST_WIDTH, kernel, alpha)
        self.stem = Pathways(Stem(SLOW_WIDTH, 1), Stem(FAST_WIDTH, 5), stem)
        slow_dim, fast_dim = SLOW_WIDTH, FAST_WIDTH
        for number, layer in enumerate(LAYERS):
            slow = blocks(slow_dim + 2 * fast_dim, SLOW_WIDTH, SLOW_KERNELS[number], number)
            fast = blocks(fast_dim, FAST_WIDTH, FAST_KERNELS[number], number)
            slow_dim, fast_dim = (4 * width << number for width in (SLOW_WIDTH, FAST_WIDTH))
            lateral = Lateral(fast_dim, kernel, alpha) if layer != LAYERS[-1] else None
            self.add_module(layer, Pathways(slow, fast, lateral))
        # A slow step sees furthest through the lateral connection of layer2, whose fast pathway has
        # a stem and 7 blocks: 9 blocks of slow steps lie behind it. A feature reads the next step.
        lateral_reach = kernel // 2 + 2 + sum(DEPTHS[:2])
        self.halo_frames = lateral_reach + sum(DEPTHS[2:]) * alpha + 1
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def multiple_frames(self) -> int:
        """Runs begin with a frame of the slow pathway."""
        return self.alpha

    @property
    def normalised_laterals(self) -> bool:
        """Whether it is PySlowFast's kind."""
        return any(isinstance(m, Lateral) and m.bn is not None for m in self.modules())

    def stride_of(self, stage: str | None) -> int:
        """Frames per step: ``alpha`` for maps, 4 for features."""
        return self.alpha if stage else self.stride_frames

    def adapt_to(self, keys: set[str]) -> None:
        """Normalise the lateral connections, and the input, as the weights' source does."""
        on = any(key.endswith("lateral.bn.weight") for key in keys)
        for module in self.modules():
            if isinstance(module, Lateral):
                module.normalise(on)
        self.normalisation = "kinetics" if on else "imagenet"
        self.train(self.training)

    def describe(self) -> dict[str, Any]:
        """The kind of network, and how its pathways are brought together."""
        kind = "convolution, normalisation, ReLU" if self.normalised_laterals else "convolution"
        every = f"every {self.alpha}th from frame {self.slow_frames(2 * self.alpha)[0]} on"
        if self.normalised_laterals and self.clips_alone:
            every = "linspace over the clip, as PySlowFast"
        aligned = "means over the clip" if self.clips_alone else "linear, by the middles of steps"
        return {"laterals": kind, "slow_frames": every, "pathways_aligned": aligned}

    def slow_frames(self, num_frames: int) -> Tensor:
        """Indices of the frames that the slow pathway reads of a run."""
        if not self.normalised_laterals:
            return torch.arange(0, num_frames, self.alpha)
        if self.clips_alone:
            return _spread(num_frames, self.alpha)
        trained = _spread(CLIP_FRAMES, self.alpha)
        late = trained - torch.arange(0, CLIP_FRAMES, self.alpha)
        return torch.arange(0, num_frames, self.alpha) + int(late.float().mean().round())

    def enter(self, frames: Tensor) -> Tensor:
        """Stems: ``(B, T, C, H, W)`` frames to ``(B, T / alpha, 80 + 8 alpha, H / 4, W / 4)``."""
        num_frames = frames.shape[1]
        assert num_frames % self.alpha == 0, (num_frames, self.alpha)
        x = frames.transpose(1, 2)
        return pack(*self.stem(x[:, :, self.slow_frames(num_frames).to(x.device)], x))

    def advance(self, maps: Tensor, stage: str) -> Tensor:
        """Run one stage on the packed maps ``(B, T / alpha, C', H', W')`` of the one before it."""
        part = self.get_submodule(stage)
        number = LAYERS.index(stage)
        fast_dim = FAST_WIDTH if not number else 4 * FAST_WIDTH << (number - 1)
        return pack(*part(*unpack(maps, fast_dim, self.alpha)))

    def pool(self, maps: Tensor) -> Tensor:
        """Average over space, bring both pathways to one step per 4 frames, slow one first.

        E2E-TAD resamples both as if each slow step stood in the middle of its alpha frames. What a
        step sees is centred on the first of them, so its slow features come (alpha - 1) / 2 frames
        early; here they are interpolated to where the fast ones are. In clips that stand alone the
        mean over the clip is that of each pathway, as the classifier pools.

        Args:
            maps: ``(B, T / alpha, 2048 + 256 alpha, H', W')``, packed.

        Returns:
            ``(B, T / 4, 2304)``.
        """
        means = maps.mean(dim=(-2, -1))
        fast_dim = 4 * FAST_WIDTH * 8
        slow = means[..., : -fast_dim * self.alpha]
        fast = means[..., -fast_dim * self.alpha :].unflatten(-1, (-1, STRIDE_FRAMES, fast_dim))
        fast = fast.flatten(1, 2)
        per_slow = self.alpha // STRIDE_FRAMES
        if self.clips_alone:
            return torch.cat([slow.repeat_interleave(per_slow, 1), fast.mean(2)], dim=-1)
        step = torch.arange(fast.shape[1], device=maps.device)
        middle = (STRIDE_FRAMES * step + (STRIDE_FRAMES - 1) / 2) / self.alpha
        before = middle.long()
        after = (before + 1).clamp(max=slow.shape[1] - 1)
        share = (middle - before).to(slow.dtype).unsqueeze(-1)
        aligned = torch.lerp(slow[:, before], slow[:, after], share)
        return torch.cat([aligned, fast[:, :, 1:3].mean(2)], dim=-1)

    def adapt_channels(self, channels: int) -> None:
        """Let both first convolutions read ``channels`` input channels."""
        for part in (self.stem.slow, self.stem.fast):
            assert isinstance(part, Stem)
            part.read_channels(channels)


def pack(slow: Tensor, fast: Tensor) -> Tensor:
    """Put both pathways into one tensor, one step per slow step; nothing is lost.

    Args:
        slow: ``(B, C, T / alpha, H, W)``.
        fast: ``(B, C', T, H, W)``.

    Returns:
        ``(B, T / alpha, C + alpha C', H, W)``: the slow step's channels, then those of each of the
        alpha fast steps from the same frame on, in order.
    """
    alpha = fast.shape[2] // slow.shape[2]
    frames = fast.transpose(1, 2).unflatten(1, (-1, alpha)).flatten(2, 3)
    return torch.cat([slow.transpose(1, 2), frames], dim=2)


def unpack(maps: Tensor, fast_dim: int, alpha: int) -> tuple[Tensor, Tensor]:
    """Take :func:`pack` back.

    Args:
        maps: ``(B, T / alpha, C + alpha C', H, W)``.
        fast_dim: C'.
        alpha: Fast steps per slow step.

    Returns:
        ``(B, C, T / alpha, H, W)`` and ``(B, C', T, H, W)``.
    """
    slow, fast = maps.tensor_split([maps.shape[2] - alpha * fast_dim], dim=2)
    fast = fast.unflatten(2, (alpha, fast_dim)).flatten(1, 2)
    return slow.transpose(1, 2), fast.transpose(1, 2)


def slowfast50_4x16() -> SlowFast:
    """SlowFast-50 with alpha = 8: 4 slow frames in a clip of 32."""
    return SlowFast(alpha=8, kernel=5)


def slowfast50_8x8() -> SlowFast:
    """SlowFast-50 with alpha = 4: 8 slow frames in a clip of 32."""
    return SlowFast(alpha=4, kernel=7)


VARIANTS = {"slowfast50_4x16": slowfast50_4x16, "slowfast50_8x8": slowfast50_8x8}


def _spread(num_frames: int, alpha: int) -> Tensor:
    """PySlowFast's slow frames of a clip."""
    return torch.linspace(0, num_frames - 1, num_frames // alpha).long()
