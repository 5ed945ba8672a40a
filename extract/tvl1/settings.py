"""The named variants of TV-L1, and what differs between them."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters of the algorithm; the defaults are those of OpenCV's CPU version.

    Attributes:
        attachment: Weight of the image difference (lambda), for grey values from 0 to 255.
        tightness: How far the two halves of the split energy may part (theta).
        tau: Step of the dual variable.
        num_scales: Levels of the pyramid; those with a side below 16 pixels are left out.
        scale_step: Size of a level relative to the one below.
        num_warps: Times that I1 is warped anew at each scale.
        num_outer: Times per warp that the flow is median-filtered and iterated.
        num_inner: Iterations after each median.
        epsilon: A pair is done with a warp when the flow's change in one iteration falls to this,
            as a root mean square in pixels; 0: all iterations run.
        check_every: Iterations between looks at the change. Above 1 saves time on a GPU, where
            each look waits for it, and adds up to that many iterations to a warp.
        stop: ``every``: each look counts. ``predicted``: as OpenCV's CUDA version has it, odd
            iterations only, and after a look none until the change could have fallen far enough.
        median: Side of the median filter; 1: none.
        cubic: The parameter ``a`` of the bicubic kernel.
        border: What lies outside I1: ``zero``, or its ``edge`` repeated.
        grid: How the pixels of two scales lie on each other: with their ``centre`` or with their
            ``corner``, the first pixel on the first.
    """

    attachment: float = 0.15
    tightness: float = 0.3
    tau: float = 0.25
    num_scales: int = 5
    scale_step: float = 0.8
    num_warps: int = 5
    num_outer: int = 10
    num_inner: int = 30
    epsilon: float = 0.01
    check_every: int = 1
    stop: Literal["every", "predicted"] = "every"
    median: Literal[1, 3, 5] = 5
    cubic: float = -0.75
    border: Literal["zero", "edge"] = "zero"
    grid: Literal["centre", "corner"] = "centre"

    def __post_init__(self) -> None:
        """Refuse what is no flow."""
        for name in ("attachment", "tightness", "tau"):
            if not 0 < getattr(self, name) < 1e6:
                raise ValueError(f"{name}: expected above 0, got {getattr(self, name)}")
        for name in ("num_scales", "num_warps", "num_outer", "num_inner", "check_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not 0 < self.scale_step < 1:
            raise ValueError(f"scale_step: expected between 0 and 1, got {self.scale_step}")
        if not 0 <= self.epsilon < 1e6:
            raise ValueError(f"epsilon: expected at least 0, got {self.epsilon}")

    @property
    def dual_step(self) -> float:
        """The dual variable's step on the scale of the flow's gradient, tau / theta."""
        return self.tau / self.tightness

    @property
    def num_iterations(self) -> int:
        """Most iterations of a pair at one scale."""
        return self.num_warps * self.num_outer * self.num_inner


VARIANTS = {
    # cv::optflow::DualTVL1OpticalFlow of OpenCV 5, which does not round coordinates to 1/32 pixel.
    "opencv-cpu": Settings(),
    # cv::cuda::OpticalFlowDual_TVL1, behind the published flow of two-stream networks. Its resize
    # lays the corners of the scales on each other.
    "opencv-cuda": Settings(
        num_outer=1,
        num_inner=300,
        stop="predicted",
        median=1,
        cubic=-0.5,
        border="edge",
        grid="corner",
    ),
    # Rougher at edges, but smaller scales find larger motion. Always the same iterations, so no two
    # implementations of it stop apart.
    "fast": Settings(scale_step=0.5, num_warps=2, num_outer=2, num_inner=10, epsilon=0.0, median=3),
}
