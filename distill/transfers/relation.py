"""Relation distillation: which moments of a video resemble each other, the teacher says.

::

    L = mean over pairs of real steps t, u of (cos(f(t), f(u)) - cos(z(t), z(u)))^2

Similarity-preserving distillation (Tung and Mori, ICCV 2019, Eq. 1 to 4) compares the samples of a
batch; here the steps of one video are compared, because a detector must know where a video
changes. Theirs normalises each row of dot products; a cosine is bounded without it and does not
depend on how many steps there are. Only relations are learned, so widths may differ without an
adapter, and a student is free to keep its own basis.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tad_distill.distill.transfers import Lesson, Transfer, TransferConfig, Widths
from tad_distill.distill.transfers.feature import RunningStandard


@dataclass(frozen=True, kw_only=True)
class Config(TransferConfig):
    """Settings of the relation distillation.

    Attributes:
        reach: Steps up to which apart two moments are compared; 0 compares all, whose number grows
            with the square of the length.
        standardise: Whether the teacher's channels are brought to mean 0 and variance 1 first.
            Features after a ReLU otherwise point into one corner, and every cosine is near 1.
    """

    reach: int = 64
    standardise: bool = True

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if self.reach < 0:
            raise ValueError(f"reach: expected at least 0, got {self.reach}")

    def build(self, widths: Widths) -> "Relation":
        """Make the lesson for a teacher of this width."""
        return Relation(self, widths)


class Relation(Transfer):
    """Mean squared difference between the similarities that student and teacher see."""

    def __init__(self, config: Config, widths: Widths) -> None:
        """Compare features of these widths."""
        super().__init__()
        self.reach = config.reach
        self.standard = RunningStandard(widths.teacher) if config.standardise else None

    def forward(self, lesson: Lesson) -> Tensor:
        """The scalar loss; see :class:`Transfer`."""
        mask = lesson.mask
        target = lesson.teacher_feats.float()
        if self.standard is not None:
            target = self.standard(target, mask)
        real = mask.unsqueeze(-1)
        student, teacher = (
            normalize(feats.masked_fill(~real, 0.0), dim=-1)
            for feats in (lesson.student_feats.float(), target)
        )
        # Of a video with one step no pair is left; the loss stays connected to the student.
        squares, count = 0.0 * student.sum(), mask.new_zeros((), dtype=torch.int64)
        num_steps = mask.shape[1]
        apart = min(self.reach or num_steps, num_steps - 1)
        # Offset by offset: memory grows with the length, not with its square.
        for offset in range(1, apart + 1):
            here, there = slice(0, num_steps - offset), slice(offset, num_steps)
            pairs = mask[:, here] & mask[:, there]
            difference = (student[:, here] * student[:, there]).sum(-1)
            difference = difference - (teacher[:, here] * teacher[:, there]).sum(-1)
            squares = squares + difference.square().masked_fill(~pairs, 0.0).sum()
            count = count + pairs.sum()
        return squares / count.clamp(min=1)
