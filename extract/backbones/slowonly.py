"""SlowOnly-50: the slow pathway of SlowFast alone (Feichtenhofer et al., ICCV 2019, section 4.4).

One frame in 8 or 16 is read. Follows ResNet3dSlowOnly of mmaction2 at 4d6c934, whose zoo (0.x)
holds the only public checkpoints of the family for optical flow. The 8x8 and 4x16 networks are the
same, trained at different rates, so the name decides which frames are read.
"""

from torch import Tensor, nn

from tad_distill.extract.backbones import Backbone
from tad_distill.extract.resnet3d import (
    DEPTHS,
    LAYERS,
    SLOW_KERNELS,
    SLOW_WIDTH,
    Stem,
    blocks,
)


class SlowOnly(Backbone):
    """ResNet-50 with kernels over three frames in its last two stages.

    A feature per ``stride_frames`` frames, of which the middle one is read, or the later of the
    two middle ones.
    """

    dim = 4 * SLOW_WIDTH * 8
    normalisation = "imagenet"
    stages = LAYERS

    def __init__(self, stride_frames: int) -> None:
        """Build with random weights (He initialisation).

        Args:
            stride_frames: Frames per frame that is read.
        """
        super().__init__()
        self.stride_frames = stride_frames
        # One step per block of the last two stages, to the frame in its middle.
        self.halo_frames = sum(DEPTHS[2:]) * stride_frames - stride_frames // 2 + 1
        self.stem = Stem(SLOW_WIDTH, 1)
        dim = SLOW_WIDTH
        for number, layer in enumerate(LAYERS):
            self.add_module(layer, blocks(dim, SLOW_WIDTH, SLOW_KERNELS[number], number))
            dim = 4 * SLOW_WIDTH << number
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def centre_of(self, stage: str | None) -> float:
        """The middle of the frame that is read."""
        return self.stride_frames // 2 + 0.5

    def enter(self, frames: Tensor) -> Tensor:
        """Stem: ``(B, T, C, H, W)`` frames to ``(B, T / stride_frames, 64, H / 4, W / 4)``."""
        read = frames[:, self.stride_frames // 2 :: self.stride_frames]
        return self.stem(read.transpose(1, 2)).transpose(1, 2)

    def advance(self, maps: Tensor, stage: str) -> Tensor:
        """Run one stage on the maps ``(B, T', C', H', W')`` of the one before it."""
        return self.get_submodule(stage)(maps.transpose(1, 2)).transpose(1, 2)

    def adapt_channels(self, channels: int) -> None:
        """Let the first convolution read ``channels`` input channels."""
        self.stem.read_channels(channels)


def slowonly50_4x16() -> SlowOnly:
    """SlowOnly-50 that reads one frame in 16, D = 2048."""
    return SlowOnly(16)


def slowonly50_8x8() -> SlowOnly:
    """SlowOnly-50 that reads one frame in 8, D = 2048."""
    return SlowOnly(8)


VARIANTS = {"slowonly50_4x16": slowonly50_4x16, "slowonly50_8x8": slowonly50_8x8}
