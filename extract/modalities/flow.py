"""Optical flow: TV-L1, from the frame before to this one, one map per frame.

It is computed on the frames that the other modalities see, resized and cropped, at their rate:
pixels of flow are pixels of those. A network for RGB and one for flow so stay aligned in time and
space, and DeepMind advise it for I3D. What stands for the first frame's flow no paper says.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tad_distill.extract.modalities import Modality, ModalityConfig
from tad_distill.extract.tvl1.flow import Compile, uses_compiled
from tad_distill.extract.tvl1.flow import flow as tvl1
from tad_distill.extract.tvl1.settings import VARIANTS, Settings

First = Literal["zero", "repeat"]
Quantise = Literal["no", "round", "truncate"]
Range = Literal["backbone", "mmaction"]

NUM_LEVELS = 255
# Mean and standard deviation of those, by what a backbone says of colour: 0.226 is the mean of
# ImageNet's standard deviations, as TSN and TSM take it; and as mmaction's flow networks have it.
LEVELS = {
    "imagenet": (127.5, 0.226 * 255),
    "kinetics": (127.5, 0.225 * 255),
    "symmetric": (127.5, 127.5),
    "mmaction": (128.0, 128.0),
}
# Settings of the algorithm that may differ from the variant's.
PARAMETERS = (
    *("attachment", "tightness", "tau", "num_scales", "scale_step", "num_warps"),
    *("num_outer", "num_inner", "epsilon", "check_every", "median"),
)


@dataclass(frozen=True, kw_only=True)
class Config(ModalityConfig):
    """Settings of flow.

    Attributes:
        variant: ``opencv-cuda`` is behind the published flow of two-stream networks; ``opencv-cpu``
            filters by medians; ``fast`` is rougher and takes a sixth of its time.
        attachment: This and the following, where set, replace the variant's own: see
            :class:`~tad_distill.extract.tvl1.settings.Settings`.
        tightness: See there.
        tau: See there.
        num_scales: See there.
        scale_step: See there.
        num_warps: See there.
        num_outer: See there.
        num_inner: See there.
        epsilon: See there.
        check_every: See there.
        median: See there.
        bound: Pixels at which flow is cut off, and which become the ends of the network's range.
        quantise: ``no`` gives the network floats. Checkpoints trained on 8-bit images saw 256
            levels: ``round`` as denseflow (no motion is 128), ``truncate`` as mmaction's own tool
            (127); without quantising it is 127.5.
        range: What the network reads: ``backbone``: -1 to 1 for I3D, -2.2 to 2.2 for TSN, TSM and
            all that expect ImageNet's statistics; ``mmaction``: levels minus 128, over 128.
        stack: Flows shown at a frame, its own the last; 5 for TSN and TSM.
        first: The flow of a video's first frame: ``zero``, or ``repeat`` the second frame's.
        compile: Use of a C++ compiler, on a GPU of Triton: ``auto``, ``never`` or ``always``.
    """

    NEUTRAL: ClassVar[tuple[str, ...]] = ("compile",)

    variant: Literal["opencv-cuda", "opencv-cpu", "fast"] = "opencv-cuda"
    attachment: float | None = None
    tightness: float | None = None
    tau: float | None = None
    num_scales: int | None = None
    scale_step: float | None = None
    num_warps: int | None = None
    num_outer: int | None = None
    num_inner: int | None = None
    epsilon: float | None = None
    check_every: int | None = None
    median: Literal[1, 3, 5] | None = None
    bound: float = 20.0
    quantise: Quantise = "no"
    range: Range = "backbone"
    stack: int = 1
    first: First = "zero"
    compile: Compile = "auto"

    def __post_init__(self) -> None:
        """Refuse what gives no flow."""
        if not 0 < self.bound < 1e6:
            raise ValueError(f"bound: expected above 0, got {self.bound}")
        if self.stack < 1:
            raise ValueError(f"stack: expected at least 1, got {self.stack}")
        self.settings()

    def settings(self) -> Settings:
        """Those of the algorithm."""
        given = {name: getattr(self, name) for name in PARAMETERS}
        return replace(
            VARIANTS[self.variant], **{name: x for name, x in given.items() if x is not None}
        )

    def build(self, normalisation: str) -> "Flow":
        """Make the modality for a backbone that expects this ``normalisation``."""
        return Flow(self, normalisation)


class Flow(Modality):
    """TV-L1 flow as a network reads it; channels are x, y of the earliest flow first."""

    def __init__(self, config: Config, normalisation: str) -> None:
        """Take the settings, and what the backbone's weights expect."""
        self.channels, self.frames_before = 2 * config.stack, config.stack
        self._config, self._settings = config, config.settings()
        self._normalisation = normalisation if config.range == "backbone" else config.range

    def to(self, device: torch.device) -> None:
        """Compute there.

        Raises:
            UserError: Compiled code is demanded, and cannot be had there.
        """
        super().to(device)
        uses_compiled(device, self._config.compile)

    def show(self, frames: Tensor, has_history: bool) -> Tensor:
        """``(T [+ stack], H, W, 3)`` uint8 to ``(T, 2 * stack, H, W)``."""
        images = luminance(frames)
        flows = tvl1(images, self._settings, self._config.compile)
        stack = self._config.stack
        if not has_history:
            repeated = self._config.first == "repeat" and len(flows) > 0
            start = flows[:1] if repeated else flows.new_zeros(1, 2, *images.shape[1:])
            flows = torch.cat([start.expand(stack, -1, -1, -1), flows])
        inputs = self._normalised(flows)
        windows = [inputs[i : len(inputs) - stack + 1 + i] for i in range(stack)]
        return torch.cat(windows, 1)

    def _normalised(self, flows: Tensor) -> Tensor:
        """Pixels to the network's range, by way of the levels of an 8-bit image."""
        bound, quantise = self._config.bound, self._config.quantise
        levels = flows.clamp(-bound, bound).add_(bound).mul_(NUM_LEVELS / (2 * bound))
        if quantise != "no":
            levels = levels.round_() if quantise == "round" else levels.floor_()
        mean, std = LEVELS[self._normalisation]
        return levels.sub_(mean).div_(std)


def luminance(frames: Tensor) -> Tensor:
    """``(N, H, W, 3)`` uint8 RGB to ``(N, H, W)`` uint8, to the bit as OpenCV's ``COLOR_RGB2GRAY``.

    That is Rec. 601's luma with weights in units of 2^-15, rounded half up.
    """
    red, green, blue = (frames[..., channel].int() for channel in range(3))
    sums = red.mul_(9798).add_(green.mul_(19235)).add_(blue.mul_(3735))
    return sums.add_(1 << 14).bitwise_right_shift_(15).to(torch.uint8)
