"""Feature distillation: the student's branch reproduces the teacher's features (paper Eq. 5).

::

    L = mean over real t of |A phi_mot(z_rgb)(t) - z(t)|^2 / D

A is a linear adapter where the widths differ, nothing otherwise. What z is, the paper says only
for equal widths; here it is what the teacher's head reads, or the teacher's input.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tad_distill.distill.transfers import Lesson, Transfer, TransferConfig, Widths


@dataclass(frozen=True, kw_only=True)
class Config(TransferConfig):
    """Settings of the feature distillation.

    Attributes:
        target: The teacher's projected features, which its head reads, or its standardised input
            streams.
        standardise: Whether each channel of the target is brought to mean 0 and variance 1 first.
            Without it the channels that happen to be large decide what is learned.
    """

    target: Literal["projection", "input"] = "projection"
    standardise: bool = True

    def build(self, widths: Widths) -> "Feature":
        """Make the lesson for features of these widths."""
        return Feature(self, widths)


class Feature(Transfer):
    """Mean squared distance between the student's and the teacher's features."""

    def __init__(self, config: Config, widths: Widths) -> None:
        """Compare features of these widths."""
        super().__init__()
        self.target = config.target
        dim = widths.teacher if config.target == "projection" else widths.teacher_inputs
        self.adapter: nn.Module = nn.Identity()
        if widths.student != dim:
            self.adapter = nn.Linear(widths.student, dim)
        self.standard = RunningStandard(dim) if config.standardise else None

    def forward(self, lesson: Lesson) -> Tensor:
        """The scalar loss; see :class:`Transfer`."""
        projected = self.target == "projection"
        target = (lesson.teacher_feats if projected else lesson.teacher_inputs).float()
        if self.standard is not None:
            target = self.standard(target, lesson.mask)
        distance = (self.adapter(lesson.student_feats).float() - target).square().mean(-1)
        return distance.masked_fill(~lesson.mask, 0.0).sum() / lesson.mask.sum().clamp(min=1)


class RunningStandard(nn.Module):
    """Brings each channel to mean 0 and variance 1 over all real steps seen in training so far.

    All steps count alike, however long ago, so the statistics settle: they estimate one fixed
    distribution, that of a frozen teacher. They are buffers: a resumed run sees the same targets.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, dim: int) -> None:
        """Start without having seen anything: as the identity."""
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("squares", torch.zeros(dim))

    def forward(self, feats: Tensor, mask: Tensor) -> Tensor:
        """Standardise ``(B, T, D)`` features; in training mode, learn from them first.

        Args:
            feats: ``(B, T, D)``.
            mask: ``(B, T)`` bool, true where real.

        Returns:
            ``(B, T, D)``; a channel that never varied is only centred.
        """
        if self.training:
            self._update(feats.detach(), mask)
        std = (self.squares / self.count.clamp(min=1)).sqrt()
        return (feats - self.mean) / torch.where(std > 1e-6, std, 1.0)

    def _update(self, feats: Tensor, mask: Tensor) -> None:
        """Merge the moments of a batch into the running ones (Chan et al. 1979)."""
        real = mask.unsqueeze(-1)
        count = mask.sum()
        mean = feats.masked_fill(~real, 0.0).sum((0, 1)) / count.clamp(min=1)
        squares = (feats - mean).masked_fill(~real, 0.0).square().sum((0, 1))
        total = self.count + count
        step = mean - self.mean
        share = count / total.clamp(min=1)
        self.squares += squares + step.square() * self.count * share
        self.mean += step * share
        self.count += count
