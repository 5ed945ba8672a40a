"""A narrow temporal-shift network for small frames: minutes of training on one processor core.

A first convolution over three frames, half of its filters temporal differences at the start, then
three residual stages with temporal shift (Lin et al., ICCV 2019). Made for the built-in world,
where a network without the three-frame stem learns hardly any motion from a few hundred batches.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tad_distill.extract.backbones import Backbone, shift

STEM_WIDTH = 16
WIDTHS = {"layer1": 32, "layer2": 64, "layer3": 128}


class ThreeFrameStem(nn.Module):
    """A convolution over 3 frames x 5 x 5 pixels, stride 1 in time and 2 in space, no bias.

    Numerically ``nn.Conv3d(C, width, (3, 5, 5), (1, 2, 2), (1, 2, 2), bias=False)``, and its weight
    has that shape; computed in two dimensions with the three frames side by side as channels,
    which takes two thirds of the time on a processor.

    The second half of the filters starts antisymmetric in time: the last frame's taps are the
    first frame's, negated, and the middle frame's are zero, so they see nothing but change.
    """

    def __init__(self, channels: int, width: int) -> None:
        """Make ``width`` filters over ``channels`` input channels."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, channels, 3, 5, 5))
        nn.init.kaiming_normal_(self.weight, mode="fan_in", nonlinearity="relu")
        with torch.no_grad():
            differences = self.weight[width // 2 :]
            differences[:, :, 1] = 0
            differences[:, :, 2] = -differences[:, :, 0]

    def forward(self, frames: Tensor) -> Tensor:
        """``(B, T, C, H, W)`` frames to ``(B * T, width, H / 2, W / 2)`` maps, sizes rounded up."""
        padded = F.pad(frames, (0, 0, 0, 0, 0, 0, 1, 1))
        triples = torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], dim=2).flatten(0, 1)
        weight = self.weight.transpose(1, 2).flatten(1, 2)
        return F.conv2d(
            triples.contiguous(memory_format=torch.channels_last),
            weight.contiguous(memory_format=torch.channels_last),
            stride=2,
            padding=2,
        )


class ShiftBlock(nn.Module):
    """A residual block at half the resolution whose first convolution sees shifted channels."""

    def __init__(self, width_in: int, width_out: int) -> None:
        """Read ``width_in`` channels, give ``width_out``."""
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.down = nn.Conv2d(width_in, width_out, 1, stride=2, bias=False)
        self.down_bn = nn.BatchNorm2d(width_out)
        for conv in (self.conv1, self.conv2, self.down):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``(B * T, C, H, W)`` maps of runs of ``num_frames`` = T frames to the next stage's."""
        out = F.relu(self.bn1(self.conv1(shift(x, num_frames))), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.down_bn(self.down(x)), inplace=True)


class TsmMini(Backbone):
    """Stem of 16 filters, stages of 32, 64 and 128; one feature per frame.

    One frame on each side is seen by the stem, one more by the shift of each of the three stages.
    """

    dim = WIDTHS["layer3"]
    stride_frames = 1
    halo_frames = 1 + len(WIDTHS)
    normalisation = "imagenet"
    stages = tuple(WIDTHS)

    def __init__(self, channels: int = 3) -> None:
        """Make the network for ``channels`` input channels, with random weights."""
        super().__init__()
        self.stem = ThreeFrameStem(channels, STEM_WIDTH)
        self.stem_bn = nn.BatchNorm2d(STEM_WIDTH)
        widths = [STEM_WIDTH, *WIDTHS.values()]
        self.layer1 = ShiftBlock(widths[0], widths[1])
        self.layer2 = ShiftBlock(widths[1], widths[2])
        self.layer3 = ShiftBlock(widths[2], widths[3])

    def enter(self, frames: Tensor) -> Tensor:
        """Stem: ``(B, T, C, H, W)`` frames to ``(B, T, 16, H / 2, W / 2)`` maps."""
        x = F.relu(self.stem_bn(self.stem(frames)), inplace=True)
        return x.unflatten(0, frames.shape[:2])

    def advance(self, maps: Tensor, stage: str) -> Tensor:
        """Run one stage on the maps ``(B, T, C', H', W')`` of the one before it."""
        x = self.get_submodule(stage)(maps.flatten(0, 1), maps.shape[1])
        return x.unflatten(0, maps.shape[:2])

    def adapt_channels(self, channels: int) -> None:
        """Give the stem ``channels`` input channels, freshly initialised."""
        self.stem = ThreeFrameStem(channels, STEM_WIDTH)


VARIANTS = {"tsm_mini": TsmMini}
