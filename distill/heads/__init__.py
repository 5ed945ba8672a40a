"""Detection heads; one file per head.

A head reads ``(B, T, D)`` features and says, for N predictions in one fixed order, which label
and which segment. All heads keep this contract, so the decomposed model, all fusions and both
distillation losses work with each.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class HeadConfig(ABC):
    """The family's base; each file's ``Config`` extends it and adds :meth:`build`."""

    @abstractmethod
    def build(self, dim: int, num_labels: int) -> "Head":
        """Make the head for features of width ``dim``."""


@dataclass
class Predictions:
    """What a head says about a batch, levels (or queries) flattened into N in a fixed order.

    Attributes:
        logits: ``(B, N, K)`` before the sigmoid; no background class.
        regression: ``(B, N, R)`` in the head's own parametrisation (ActionFormer: distances to the
            start and end in units of the level's stride, >= 0).
        mask: ``(B, N)`` bool, true where a prediction stands for a real time step.
        points: ``(N, 4)`` time, lower and upper regression range, stride, in grid steps, for heads
            that have points or anchors; empty ``(0, 4)`` otherwise.
        extra: What only the head that made them reads, in its loss and decoding; every tensor's
            first axis is B.
    """

    logits: Tensor
    regression: Tensor
    mask: Tensor
    points: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)

    def take(self, rows: list[int]) -> "Predictions":
        """The predictions of some of the videos."""
        if len(rows) == len(self.mask):
            return self
        return replace(
            self,
            logits=self.logits[rows],
            regression=self.regression[rows],
            mask=self.mask[rows],
            extra={name: value[rows] for name, value in self.extra.items()},
        )


@dataclass
class Targets:
    """The annotated segments of one video of a batch.

    Attributes:
        segments: ``(M, 2)`` start and end in grid steps of the batch's features; M may be 0.
        labels: ``(M,)`` int64.
    """

    segments: Tensor
    labels: Tensor


@dataclass
class Candidates:
    """Detections of one video before suppression, on the CPU.

    Attributes:
        segments: ``(N, 2)`` start and end in grid steps.
        scores: ``(N,)`` in (0, 1).
        labels: ``(N,)`` int64.
    """

    segments: Tensor
    scores: Tensor
    labels: Tensor


class Head(nn.Module, ABC):
    """A detection head: encode features into levels, predict on the levels, learn, decode.

    :meth:`encode` and :meth:`predict` are separate so that two branches can share the classifier
    and the regressor (:meth:`predict`) without sharing the encoder.

    Which parameters an optimiser decays can be read off, in every module of ours: the weights of
    linear maps and convolutions are named ``weight`` and have two or more axes, and decay; biases,
    normalisation parameters, scales and gammas have at most one axis, and do not.
    """

    num_labels: int

    @abstractmethod
    def encode(self, feats: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Turn features into the levels that predictions are made on.

        Args:
            feats: ``(B, T, D)``, zero where not real.
            mask: ``(B, T)`` bool, true where real.

        Returns:
            For each level ``(B, T_l, D_h)`` features and their ``(B, T_l)`` mask.
        """

    @abstractmethod
    def predict(self, levels: list[tuple[Tensor, Tensor]]) -> Predictions:
        """Classify and regress on every level."""

    def forward(self, feats: Tensor, mask: Tensor) -> Predictions:
        """``predict(encode(feats, mask))``."""
        return self.predict(self.encode(feats, mask))

    @abstractmethod
    def loss(self, predictions: Predictions, targets: list[Targets]) -> dict[str, Tensor]:
        """The detection loss.

        Args:
            predictions: Of B videos.
            targets: Of the same B videos.

        Returns:
            Named scalar terms, weights included: their sum is the loss. A batch without any
            segment gives finite terms with finite gradients. Updates the loss normaliser, a
            buffer, when the module is in training mode. A video whose predictions are all masked
            takes no part.
        """

    @abstractmethod
    def segments(self, predictions: Predictions) -> Tensor:
        """The ``(B, N, 2)`` segments that the regression stands for, in grid steps."""

    def align(self, teacher: Predictions, student: Predictions) -> Predictions:
        """The teacher's predictions in the order of the student's.

        Points and anchors stand at fixed times and correspond by position: nothing to do. A head
        whose predictions have no fixed place (queries) matches them.

        Args:
            teacher: Of a head of the same settings.
            student: Of this head, for the same videos.

        Returns:
            As many predictions as the student has.
        """
        return teacher

    def lr_scales(self) -> dict[str, float]:
        """Parameters that learn at a share of the learning rate; all others at the rate itself."""
        return {}

    @abstractmethod
    def decode(self, predictions: Predictions) -> list[Candidates]:
        """Candidates of each video, before suppression and before the change to seconds."""
