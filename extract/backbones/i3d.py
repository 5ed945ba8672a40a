"""I3D: Inception-v1 inflated to three dimensions.

Carreira, Zisserman: Quo Vadis, Action Recognition?, CVPR 2017. Follows pytorch-i3d at 05783d1,
which reproduces the original's TensorFlow padding and batch normalisation. Its pooling window of
2 x 7 x 7 fits frames of 224 pixels alone; here all of space is averaged, which is the same there,
and time is left to the regime.

With TensorFlow's SAME padding an even length is padded by one more after its end than before its
start, so a step looks further ahead than back: 44 frames before its first frame and 47 after its
last, and its middle lies 1.5 frames after the middle of its 8 frames.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tad_distill.extract.backbones import Backbone

Triple = tuple[int, int, int]

# Widths of the branches: 1x1x1 | 1x1x1, 3x3x3 | 1x1x1, 3x3x3 | pooling, 1x1x1.
WIDTHS = {
    "mixed_3b": (64, 96, 128, 16, 32, 32),
    "mixed_3c": (128, 128, 192, 32, 96, 64),
    "mixed_4b": (192, 96, 208, 16, 48, 64),
    "mixed_4c": (160, 112, 224, 24, 64, 64),
    "mixed_4d": (128, 128, 256, 24, 64, 64),
    "mixed_4e": (112, 144, 288, 32, 64, 64),
    "mixed_4f": (256, 160, 320, 32, 128, 128),
    "mixed_5b": (256, 160, 320, 32, 128, 128),
    "mixed_5c": (384, 192, 384, 48, 128, 128),
}
# A stage bears the name of its last block, whose output is the stage's maps.
BLOCKS = {
    "mixed_3c": ("mixed_3b", "mixed_3c"),
    "mixed_4f": ("mixed_4b", "mixed_4c", "mixed_4d", "mixed_4e", "mixed_4f"),
    "mixed_5c": ("mixed_5b", "mixed_5c"),
}
# Kernel and stride of the pooling that each stage begins with.
POOLING: dict[str, tuple[Triple, Triple]] = {
    "mixed_3c": ((1, 3, 3), (1, 2, 2)),
    "mixed_4f": ((3, 3, 3), (2, 2, 2)),
    "mixed_5c": ((2, 2, 2), (2, 2, 2)),
}
# Frames per step, and the middle of what the first step sees, in frames.
STRIDES = {"mixed_3c": 2, "mixed_4f": 4, "mixed_5c": 8}
CENTRES = {"mixed_3c": 1.5, "mixed_4f": 3.5, "mixed_5c": 5.5}


class Unit(nn.Module):
    """Convolution with SAME padding, batch normalisation, ReLU."""

    def __init__(self, dim_in: int, dim: int, kernel: int, stride: int = 1) -> None:
        """Make a cubic kernel."""
        super().__init__()
        self.conv = nn.Conv3d(dim_in, dim, kernel, stride=stride, bias=False)
        self.bn = nn.BatchNorm3d(dim, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to ``(B, C', T', H', W')``, lengths divided and rounded up."""
        kernel, stride = self.conv.kernel_size, self.conv.stride
        before, after = same_padding(x.shape[2:], kernel, stride)
        if before == after:
            x = F.conv3d(x, self.conv.weight, stride=stride, padding=before)
        else:
            sides = zip(reversed(before), reversed(after), strict=True)
            padded = F.pad(x, [side for pair in sides for side in pair])
            x = F.conv3d(padded, self.conv.weight, stride=stride)
        return F.relu(self.bn(x), inplace=True)


class Mixed(nn.Module):
    """An Inception block: four branches side by side."""

    def __init__(self, dim_in: int, widths: tuple[int, ...]) -> None:
        """Make the branches with these ``widths``, see :data:`WIDTHS`."""
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = Unit(dim_in, b0, 1)
        self.b1a = Unit(dim_in, b1a, 1)
        self.b1b = Unit(b1a, b1b, 3)
        self.b2a = Unit(dim_in, b2a, 1)
        self.b2b = Unit(b2a, b2b, 3)
        self.b3b = Unit(dim_in, b3b, 1)
        self.dim = b0 + b1b + b2b + b3b

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to ``(B, C', T, H, W)``."""
        pooled = max_pool(x, (3, 3, 3), (1, 1, 1))
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)
        return torch.cat(branches, dim=1)


class I3D(Backbone):
    """I3D up to its last Inception block; a feature per 8 frames."""

    dim = 1024
    stride_frames = 8
    halo_frames = 47
    normalisation = "symmetric"
    stages = tuple(BLOCKS)

    def __init__(self) -> None:
        """Build for three channels, with random weights (He initialisation)."""
        super().__init__()
        self.conv_1a = Unit(3, 64, 7, stride=2)
        self.conv_2b = Unit(64, 64, 1)
        self.conv_2c = Unit(64, 192, 3)
        dim = 192
        for stage, blocks in BLOCKS.items():
            modules = nn.ModuleDict()
            for block in blocks:
                mixed = Mixed(dim, WIDTHS[block])
                modules[block], dim = mixed, mixed.dim
            self.add_module(stage, modules)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def stride_of(self, stage: str | None) -> int:
        """Frames per step of the maps of a stage; None: of the features."""
        return STRIDES[stage or self.stages[-1]]

    def centre_of(self, stage: str | None) -> float:
        """The middle of what the first step sees, in frames; SAME padding moves it."""
        return CENTRES[stage or self.stages[-1]]

    def enter(self, frames: Tensor) -> Tensor:
        """Stem: ``(B, T, C, H, W)`` frames to ``(B, T / 2, 192, H / 4, W / 4)`` maps."""
        x = max_pool(self.conv_1a(frames.transpose(1, 2)), (1, 3, 3), (1, 2, 2))
        return self.conv_2c(self.conv_2b(x)).transpose(1, 2)

    def advance(self, maps: Tensor, stage: str) -> Tensor:
        """Run one stage, its pooling first, on the maps ``(B, T', C', H', W')`` before it."""
        x = max_pool(maps.transpose(1, 2), *POOLING[stage])
        for block in self.get_submodule(stage).children():
            x = block(x)
        return x.transpose(1, 2)

    def adapt_channels(self, channels: int) -> None:
        """Let the first convolution read ``channels`` input channels."""
        self.conv_1a.conv = nn.Conv3d(channels, 64, 7, stride=2, bias=False)
        nn.init.kaiming_normal_(self.conv_1a.conv.weight, nonlinearity="relu")


def same_padding(
    sizes: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...]
) -> tuple[list[int], list[int]]:
    """TensorFlow's SAME padding: as many outputs as strides begin inside.

    Returns:
        Zeros before and after, by axis; an odd number leaves the larger part behind.
    """
    axes = zip(sizes, kernel, stride, strict=True)
    total = [max(width - (size % step or step), 0) for size, width, step in axes]
    return [pad // 2 for pad in total], [pad - pad // 2 for pad in total]


def max_pool(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Largest of each window of ``(B, C, T, H, W)``, none of which is negative.

    Then zeros around the edge change nothing, and a window that ends outside can be cut short.
    """
    before, _ = same_padding(x.shape[2:], kernel, stride)
    return F.max_pool3d(x, kernel, stride, padding=before, ceil_mode=True)


VARIANTS = {"i3d": I3D}
