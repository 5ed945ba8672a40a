"""Localisation distillation: the student's segments overlap the teacher's where it is sure.

::

    L = sum_n w_n * DIoU(s_n, s_n^teacher) / sum_n w_n

over the predictions n whose teacher score w_n reaches ``min_score``. Localisation distillation
(Zheng et al., CVPR 2022) matches distributions over box edges inside a region worth learning from;
the heads here regress each boundary as one number, so what is left of it is the region and a
distance between segments. Unlike the L1 part of Eq. 4 it counts an error relative to the segment's
length: short actions weigh as much as long ones.
"""

from dataclasses import dataclass

from torch import Tensor

from tad_distill.distill.losses import diou
from tad_distill.distill.transfers import Lesson, Transfer, TransferConfig, Widths


@dataclass(frozen=True, kw_only=True)
class Config(TransferConfig):
    """Settings of the localisation distillation.

    Attributes:
        min_score: Teacher score from which on a prediction is worth learning from.
    """

    min_score: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if not 0 <= self.min_score < 1:
            raise ValueError(f"min_score: expected in [0, 1), got {self.min_score}")

    def build(self, widths: Widths) -> "Localisation":
        """Make the lesson; it reads segments, so the widths do not matter."""
        return Localisation(self)


class Localisation(Transfer):
    """Mean distance of corresponding segments, weighted by the teacher's score."""

    def __init__(self, config: Config) -> None:
        """Compare segments as ``config`` says."""
        super().__init__()
        self.min_score = config.min_score

    def forward(self, lesson: Lesson) -> Tensor:
        """The scalar loss; see :class:`Transfer`."""
        scores = lesson.teacher.logits.float().sigmoid().amax(-1)
        worth = lesson.student.mask & lesson.teacher.mask & (scores >= self.min_score)
        weight = scores.masked_fill(~worth, 0.0)
        # What stands on padding may be anything; a masked product alone would keep its NaN.
        unread = ~worth.unsqueeze(-1)
        student, teacher = (
            segments.float().masked_fill(unread, 0.0)
            for segments in (lesson.student_segments, lesson.teacher_segments)
        )
        # A batch in which the teacher sees nothing must not blow its tiny mass up.
        return (weight * diou(student, teacher)).sum() / weight.sum().clamp(min=1.0)
