"""What a student learns from its teacher (paper Eq. 4 and 5); one file per lesson."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from tad_distill.distill.heads import Predictions


@dataclass(frozen=True, kw_only=True)
class Widths:
    """How wide the features of a :class:`Lesson` are.

    Attributes:
        student: Of ``Lesson.student_feats``.
        teacher: Of ``Lesson.teacher_feats``.
        teacher_inputs: Of ``Lesson.teacher_inputs``.
    """

    student: int
    teacher: int
    teacher_inputs: int


@dataclass(frozen=True, kw_only=True)
class TransferConfig(ABC):
    """The family's base; each file's ``Config`` extends it and adds :meth:`build`.

    Attributes:
        weight: What the lesson counts in the total loss.
    """

    weight: float = 1.0

    @abstractmethod
    def build(self, widths: Widths) -> "Transfer":
        """Make the lesson for features of these widths."""


@dataclass
class Lesson:
    """What the student's branch and the frozen teacher say about the same batch.

    Attributes:
        student: The branch's predictions.
        teacher: The teacher's predictions, in the student's order (see ``Head.align``).
        student_segments: ``(B, N, 2)`` what the student's regression stands for, in grid steps.
        teacher_segments: ``(B, N, 2)`` the teacher's, in the student's order.
        student_feats: ``(B, T, D_s)`` features of the branch, before fusion.
        teacher_feats: ``(B, T, D_t)`` what the teacher's head reads, on the same grid.
        teacher_inputs: ``(B, T, D_i)`` the teacher's streams, standardised, on the same grid.
        mask: ``(B, T)`` bool, true where real.
    """

    student: Predictions
    teacher: Predictions
    student_segments: Tensor
    teacher_segments: Tensor
    student_feats: Tensor
    teacher_feats: Tensor
    teacher_inputs: Tensor
    mask: Tensor


class Transfer(nn.Module, ABC):
    """A distillation loss. It may own parameters (a linear adapter between widths)."""

    @abstractmethod
    def forward(self, lesson: Lesson) -> Tensor:
        """The scalar loss, without its weight; finite for a batch without any real step."""
