"""TSM: a ResNet whose residual branches trade channels with the neighbouring frames.

Lin, Gan, Han: TSM, ICCV 2019. Follows the ``blockres`` placement of temporal-shift-module at
1f6a834 (every published checkpoint): the shift stands before the first convolution of every
residual branch, the skip path sees no shift. The trunk is torchvision's ResNet v1.5, and so are
the names of the parameters.
"""

from torch import Tensor, nn

from tad_distill.extract.backbones import Backbone, shift

LAYERS = ("layer1", "layer2", "layer3", "layer4")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip (ResNet-18)."""

    expansion = 1

    def __init__(self, dim_in: int, width: int, stride: int) -> None:
        """Build a block that halves height and width when ``stride`` is 2."""
        super().__init__()
        self.conv1 = _conv(dim_in, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _downsample(dim_in, width, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, num_frames: int | None) -> Tensor:
        """``(B * T, C, H, W)`` to ``(B * T, C', H', W')``, in runs of ``num_frames`` if shifted."""
        out = self.relu(self.bn1(self.conv1(_shifted(x, num_frames))))
        return self.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a skip, the stride on the 3x3 (ResNet-50 v1.5)."""

    expansion = 4

    def __init__(self, dim_in: int, width: int, stride: int) -> None:
        """Build a block that halves height and width when ``stride`` is 2."""
        super().__init__()
        dim = width * self.expansion
        self.conv1 = _conv(dim_in, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, dim, 1)
        self.bn3 = nn.BatchNorm2d(dim)
        self.downsample = _downsample(dim_in, dim, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, num_frames: int | None) -> Tensor:
        """``(B * T, C, H, W)`` to ``(B * T, C', H', W')``, in runs of ``num_frames`` if shifted."""
        out = self.relu(self.bn1(self.conv1(_shifted(x, num_frames))))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class TSM(Backbone):
    """ResNet with temporal shift; one feature per frame.

    Every shifted block looks one frame to each side, so a feature depends on as many frames on
    each side as there are blocks: 8 in TSM-18, 16 in TSM-50.

    Attributes:
        shifted: Whether there is a shift; the same network without is TSN.
    """

    stride_frames = 1
    normalisation = "imagenet"
    stages = LAYERS
    shifted = True

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, ...]) -> None:
        """Build with random weights (He initialisation, as torchvision).

        Args:
            block: The kind of residual block.
            depths: Blocks in each of the four stages.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        dim = 64
        for stage, (layer, depth) in enumerate(zip(LAYERS, depths, strict=True)):
            width = 64 << stage
            blocks = nn.ModuleList()
            for number in range(depth):
                blocks.append(block(dim, width, stride=2 if stage and not number else 1))
                dim = width * block.expansion
            self.add_module(layer, blocks)
        self.dim = dim
        self.halo_frames = sum(depths) if self.shifted else 0
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def enter(self, frames: Tensor) -> Tensor:
        """Stem: ``(B, T, C, H, W)`` frames to ``(B, T, 64, H / 4, W / 4)`` maps."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(frames.flatten(0, 1)))))
        return x.unflatten(0, frames.shape[:2])

    def advance(self, maps: Tensor, stage: str) -> Tensor:
        """Run one stage on the maps ``(B, T, C', H', W')`` of the one before it."""
        x, num_frames = maps.flatten(0, 1), maps.shape[1]
        for block in self.get_submodule(stage).children():
            x = block(x, num_frames if self.shifted else None)
        return x.unflatten(0, maps.shape[:2])

    def adapt_channels(self, channels: int) -> None:
        """Let the first convolution read ``channels`` input channels."""
        self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")


def tsm18() -> TSM:
    """TSM-ResNet-18, D = 512. No public Kinetics-400 checkpoint exists."""
    return TSM(BasicBlock, (2, 2, 2, 2))


def tsm50() -> TSM:
    """TSM-ResNet-50, D = 2048."""
    return TSM(Bottleneck, (3, 4, 6, 3))


VARIANTS = {"tsm18": tsm18, "tsm50": tsm50}


def _shifted(x: Tensor, num_frames: int | None) -> Tensor:
    return x if num_frames is None else shift(x, num_frames)


def _conv(dim_in: int, dim: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(dim_in, dim, kernel, stride=stride, padding=kernel // 2, bias=False)


def _downsample(dim_in: int, dim: int, stride: int) -> nn.Module:
    if stride == 1 and dim_in == dim:
        return nn.Identity()
    return nn.Sequential(_conv(dim_in, dim, 1, stride), nn.BatchNorm2d(dim))
