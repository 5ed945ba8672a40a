"""What training minimises: detection alone, or L_app + L_distill + L_joint (paper section 3.3).

In a decomposed detector the appearance branch learns from annotations alone and the motion
branch from the teacher alone; both also feel the joint head's detection loss through the fusion.
A single detector with transfers is conventional distillation: the same lessons for the
predictions that also learn from annotations. Without transfers there is no teacher, and nothing
else differs: that is the control.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tad_distill.data.batch import Batch
from tad_distill.distill.heads import Head, Predictions, Targets
from tad_distill.distill.model import Detector, Outputs
from tad_distill.distill.transfers import Lesson, TransferConfig, Widths


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What each part of the total loss counts; the paper adds them up.

    Attributes:
        appearance: Of the appearance branch's detection loss; a single detector has none.
        joint: Of the detection loss of the predictions that inference keeps.
        distillation: Of all transfers, on top of their own weights.
    """

    appearance: float = 1.0
    joint: float = 1.0
    distillation: float = 1.0

    def __post_init__(self) -> None:
        """Refuse losses that reward mistakes."""
        for name in ("appearance", "joint", "distillation"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


class Objective(nn.Module):
    """The loss of a detector, with the frozen teacher inside if there is one.

    Its parameters (adapters between widths) are trained with the detector's; its state is theirs
    and the running statistics of the teacher's features. Neither the detector nor the teacher
    belongs to its parameters or its state. Making it leaves the random stream as it was, and the
    teacher draws no random numbers: the control sees the same noise as the student.

    Attributes:
        streams: What a batch must hold for the teacher, beside the detector's own streams.
        learner: The branch whose predictions and features the transfers are about.
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        model: Detector,
        transfers: Sequence[TransferConfig] = (),
        teacher: Detector | None = None,
    ) -> None:
        """Bind the losses to a detector.

        Args:
            config: Weights of the parts.
            model: The detector that is trained.
            transfers: What it learns from the teacher.
            teacher: A trained detector on the same grid; frozen here. Needed by any transfer.
        """
        super().__init__()
        assert (teacher is None) == (not transfers), "transfers and a teacher need each other"
        if teacher is not None:
            teacher.requires_grad_(False).eval()
        self.config = config
        # In tuples, out of sight of parameters(), state_dict() and train().
        self._model = (model,)
        self._teacher: tuple[Detector, ...] = () if teacher is None else (teacher,)
        self.streams: tuple[str, ...] = () if teacher is None else teacher.streams
        self.learner = "joint" if model.branch_head is None else "motion"
        self.transfers = nn.ModuleDict()
        self._weights: dict[str, float] = {}
        with torch.random.fork_rng(devices=[]):
            for transfer in transfers:
                name = self._name(transfer)
                self.transfers[name] = transfer.build(self._widths())
                self._weights[name] = config.distillation * transfer.weight

    def forward(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms of the loss; their sum is what is minimised.

        Videos without labels count in the transfers and nowhere else.

        Args:
            outputs: Of the detector, in training mode, on ``batch``.
            batch: Features of all streams, and what is annotated.

        Returns:
            Scalars named ``branch/term``, always the same ones: "joint/cls", "appearance/reg",
            "motion/response".
        """
        return self._detection(outputs, batch) | self._distillation(outputs, batch)

    def _detection(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        (model,) = self._model
        made: list[tuple[str, float, Head, Predictions]] = [
            ("joint", self.config.joint, model.joint_head, outputs.joint)
        ]
        if model.branch_head is not None:
            assert outputs.appearance is not None
            weight = self.config.appearance
            made.append(("appearance", weight, model.branch_head, outputs.appearance))
        rows = [row for row, labelled in enumerate(batch.labelled.tolist()) if labelled]
        labels = (
            [torch.zeros_like(i) for i in batch.labels] if model.class_agnostic else batch.labels
        )
        targets = [Targets(batch.segments[row], labels[row]) for row in rows]
        terms: dict[str, Tensor] = {}
        for branch, weight, head, predictions in made:
            if rows:
                by_head = head.loss(predictions.take(rows), targets)
            else:
                weight, by_head = 0.0, _nothing_to_learn(head, predictions)
            terms |= {f"{branch}/{name}": weight * term for name, term in by_head.items()}
        return terms

    def _distillation(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        if not self._teacher:
            return {}
        (model,), (teacher,) = self._model, self._teacher
        student = outputs.joint if outputs.motion is None else outputs.motion
        head = model.joint_head if model.branch_head is None else model.branch_head
        with torch.no_grad():
            taught = teacher(batch.feats, batch.mask)
            inputs = teacher.standardised(batch.feats, batch.mask)
            responses = head.align(taught.joint, student)
            segments = head.segments(responses)
        lesson = Lesson(
            student=student,
            teacher=responses,
            student_segments=head.segments(student),
            teacher_segments=segments,
            student_feats=outputs.feats[self.learner],
            teacher_feats=taught.feats["joint"],
            teacher_inputs=inputs,
            mask=batch.mask,
        )
        return {
            f"{self.learner}/{name}": self._weights[name] * transfer(lesson)
            for name, transfer in self.transfers.items()
        }

    def _widths(self) -> Widths:
        (model,), (teacher,) = self._model, self._teacher
        return Widths(
            student=model.widths[self.learner],
            teacher=teacher.widths["joint"],
            teacher_inputs=sum(entrance.dim_out for entrance in teacher.inputs),
        )

    def _name(self, transfer: TransferConfig) -> str:
        """The file of the transfer; the second of the same file is ``feature2``."""
        kind = type(transfer).__module__.rpartition(".")[2]
        same = sum(name.rstrip("0123456789") == kind for name in self.transfers)
        return f"{kind}{same + 1}" if same else kind

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Objective":
        # The way of every .to(): the teacher is no child, but has to come along.
        for teacher in self._teacher:
            teacher._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self


def _nothing_to_learn(head: Head, predictions: Predictions) -> dict[str, Tensor]:
    """The terms of the head's loss for a batch in which nothing is known, finite and connected."""
    segments = predictions.regression.new_zeros(0, 2)
    labels = torch.zeros(0, dtype=torch.int64, device=segments.device)
    unreal = replace(predictions, mask=torch.zeros_like(predictions.mask))
    return head.loss(unreal, [Targets(segments, labels) for _ in predictions.mask])
