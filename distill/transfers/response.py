"""Response distillation: the student predicts what the teacher predicts (paper Eq. 4).

::

    L = lambda_cls * mean_n focal(y_n, y_n^teacher) + lambda_reg * mean_n |r_n - r_n^teacher|_1

over all predictions n that stand for a real time step, positive or not; the teacher's scores are
soft targets. Student and teacher predictions correspond by position.

The paper gives neither the focal loss of soft targets nor the weights. Both published forms of
the first are settings. ``normalise = "all"`` is the mean of Eq. 4; in it the few predictions
that see an action drown among those that do not, so ``"teacher_mass"`` (the default) divides by
the teacher's summed scores instead and weights each regression by the teacher's score.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from tad_distill.console import UsageError
from tad_distill.distill.heads import Predictions
from tad_distill.distill.losses import balanced_focal
from tad_distill.distill.transfers import Lesson, Transfer, TransferConfig, Widths


@dataclass(frozen=True, kw_only=True)
class Config(TransferConfig):
    """Settings of the response distillation.

    Attributes:
        classification: lambda_cls.
        regression: lambda_reg.
        focal: ``quality``: ``|p - t|^gamma * BCE``, zero where the student agrees (GFL, NeurIPS
            2020, Eq. 3). ``alpha``: ``alpha_t * (1 - p_t)^gamma * BCE`` with p_t and alpha_t mixed
            by the soft target, the form of the official heads (``balanced_focal``).
        gamma: Focusing exponent of either form.
        alpha: Balance of the ``alpha`` form; 1/2 weighs actions and background alike.
        normalise: By the number of predictions (``all``) or the teacher's mass (``teacher_mass``).
    """

    classification: float = 1.0
    regression: float = 0.2
    focal: Literal["quality", "alpha"] = "quality"
    gamma: float = 2.0
    alpha: float = 0.25
    normalise: Literal["teacher_mass", "all"] = "teacher_mass"

    def build(self, widths: Widths) -> "Response":
        """Make the lesson; it reads predictions, so the widths do not matter."""
        return Response(self)


class Response(Transfer):
    """Distance between corresponding predictions of the student and the teacher."""

    def __init__(self, config: Config) -> None:
        """Compare predictions as ``config`` says."""
        super().__init__()
        self.config = config

    def forward(self, lesson: Lesson) -> Tensor:
        """The scalar loss; see :class:`Transfer`.

        Raises:
            UsageError: Student and teacher predictions do not correspond.
        """
        config, student, teacher = self.config, lesson.student, lesson.teacher
        _check_correspondence(student, teacher)
        mask = student.mask & teacher.mask
        targets = teacher.logits.float().sigmoid()
        logits = student.logits.float()
        if config.focal == "quality":
            focal = quality_focal(logits, targets, config.gamma)
        else:
            focal = balanced_focal(logits, targets, config.alpha, config.gamma)
        distance = (student.regression.float() - teacher.regression.float()).abs().sum(-1)
        if config.normalise == "teacher_mass":
            weight = targets.amax(-1).masked_fill(~mask, 0.0)
            distance = distance * weight
            # A batch in which the teacher sees nothing must not blow its tiny mass up.
            count = weight.sum().clamp(min=1.0)
        else:
            count = mask.sum().clamp(min=1)
        classification = focal.sum(-1).masked_fill(~mask, 0.0).sum() / count
        regression = distance.masked_fill(~mask, 0.0).sum() / count
        return config.classification * classification + config.regression * regression


def quality_focal(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """Focal loss that is smallest where the score equals its soft target (GFL, Eq. 3).

    Args:
        logits: Before the sigmoid, any shape.
        targets: In [0, 1], same shape.
        gamma: Focusing exponent.

    Returns:
        The loss of each element.
    """
    bce = binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (logits.sigmoid() - targets).abs().pow(gamma) * bce


def _check_correspondence(student: Predictions, teacher: Predictions) -> None:
    if student.logits.shape != teacher.logits.shape:
        raise UsageError(
            f"transfers: the teacher makes {_counts(teacher)}, the student {_counts(student)}; "
            "a response can be learned only from a teacher with the same head settings and labels"
        )
    # The ranges in between say who learned what, not where a prediction stands.
    if not torch.equal(student.points[:, ::3], teacher.points[:, ::3]):
        raise UsageError(
            "transfers: the predictions of teacher and student stand at different times; "
            "give both the same head settings (levels and strides)"
        )


def _counts(predictions: Predictions) -> str:
    return f"{predictions.logits.shape[1]} predictions of {predictions.logits.shape[2]} labels"
