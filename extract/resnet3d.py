"""The residual network of SlowFast's pathways: frames alone at first, three at a time at the end.

Feichtenhofer et al.: SlowFast Networks, ICCV 2019, table 1, at 50 layers.
"""

import torch.nn.functional as F
from torch import Tensor, nn

LAYERS = ("layer1", "layer2", "layer3", "layer4")
DEPTHS = (3, 4, 6, 3)
SLOW_WIDTH, FAST_WIDTH = 64, 8
# Frames that a kernel of a block's first convolution spans, by stage.
SLOW_KERNELS = (1, 1, 3, 3)
FAST_KERNELS = (3, 3, 3, 3)


class Block(nn.Module):
    """A bottleneck: Kx1x1, 1x3x3 and 1x1x1 convolutions and a skip."""

    def __init__(self, dim_in: int, width: int, kernel: int, stride: int) -> None:
        """Build a block that halves height and width when ``stride`` is 2."""
        super().__init__()
        dim = 4 * width
        self.conv1 = nn.Conv3d(
            dim_in, width, (kernel, 1, 1), padding=(kernel // 2, 0, 0), bias=False
        )
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(
            width, width, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1), bias=False
        )
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, dim, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(dim)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or dim_in != dim:
            skip = nn.Conv3d(dim_in, dim, 1, stride=(1, stride, stride), bias=False)
            self.downsample = nn.Sequential(skip, nn.BatchNorm3d(dim))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to ``(B, C', T, H', W')``."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x), inplace=True)


class Stem(nn.Module):
    """A pathway's first convolution, over ``kernel`` frames, and its pooling."""

    def __init__(self, width: int, kernel: int) -> None:
        """Read three channels, give ``width``."""
        super().__init__()
        self.kernel = kernel
        self.bn = nn.BatchNorm3d(width)
        self.read_channels(3)

    def read_channels(self, channels: int) -> None:
        """Get a new convolution for this number of channels."""
        self.conv = nn.Conv3d(
            channels,
            self.bn.num_features,
            (self.kernel, 7, 7),
            stride=(1, 2, 2),
            padding=(self.kernel // 2, 3, 3),
            bias=False,
        )
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to ``(B, width, T, H / 4, W / 4)``."""
        x = F.relu(self.bn(self.conv(x)), inplace=True)
        return F.max_pool3d(x, (1, 3, 3), (1, 2, 2), padding=(0, 1, 1))


def blocks(dim_in: int, width: int, kernel: int, number: int) -> nn.Sequential:
    """The residual blocks of one pathway in a stage.

    Args:
        dim_in: Channels that the first block reads.
        width: Channels that the pathway's stem gives.
        kernel: Frames that the first convolution of a block spans.
        number: Of the stage, from 0.
    """
    width <<= number
    first = Block(dim_in, width, kernel, stride=2 if number else 1)
    rest = [Block(4 * width, width, kernel, stride=1) for _ in range(1, DEPTHS[number])]
    return nn.Sequential(first, *rest)
