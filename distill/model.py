"""The detectors: one branch, or the paper's decomposition into appearance and motion (Fig. 3).

``single`` concatenates its streams, projects them and detects: the teacher, the baselines and the
conventionally distilled student. ``decomposed`` gives appearance and motion a branch each, whose
losses differ (see ``objective``), and detects on their fusion::

    appearance stream -> phi_app -> f_app -+-> shared head     (training only)
                                           +-> fusion -> joint head
    motion stream     -> phi_mot -> f_mot -+-> shared head     (training only)

A branch reads a stream by name: usually both the same RGB stream, but nothing asks for it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tad_distill.distill.branch import Branch, BranchInput, Projection
from tad_distill.distill.fusions import FusionConfig
from tad_distill.distill.heads import Head, HeadConfig, Predictions


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which branches a detector has and what they read.

    Attributes:
        kind: One branch, or appearance and motion with a fusion.
        streams: What a ``single`` detector reads, concatenated.
        appearance: The stream of a ``decomposed`` detector's appearance branch.
        motion: The stream of its motion branch.
        dim: Width of a branch's features.
        num_layers: Convolutions in a branch's projection phi; 0, of a ``single`` detector, lets
            the head read the streams themselves, whatever ``dim`` says.
        kernel_size: Their width in grid steps, odd.
        share: Whether the branches share the whole head, or only the classifier and regressor
            with an encoder each.
        noise: Standard deviation of the noise added to standardised features in training.
        dropout: Share of the input features that training drops.
        class_agnostic: One label for all: the detector learns where something happens, and
            ``predict.external_scores`` say what (ActivityNet).
    """

    kind: Literal["single", "decomposed"] = "single"
    streams: tuple[str, ...] = ()
    appearance: str = ""
    motion: str = ""
    dim: int = 256
    num_layers: int = 2
    kernel_size: int = 3
    share: Literal["head", "classifier_regressor"] = "head"
    noise: float = 0.0
    dropout: float = 0.0
    class_agnostic: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if self.kind == "single" and (not self.streams or self.appearance or self.motion):
            raise ValueError("a single detector needs streams, and neither appearance nor motion")
        if self.kind == "decomposed" and (self.streams or not self.appearance or not self.motion):
            raise ValueError("a decomposed detector needs appearance and motion, and no streams")
        if len(set(self.streams)) < len(self.streams):
            raise ValueError(f"streams: named twice, in {', '.join(self.streams)}")
        if self.dim < 1 or self.kernel_size < 1 or not self.kernel_size % 2:
            raise ValueError(
                "dim must be positive and kernel_size odd, got "
                f"dim={self.dim}, kernel_size={self.kernel_size}"
            )
        if self.num_layers < (0 if self.kind == "single" else 1):
            raise ValueError(
                f"num_layers must be at least 1, or 0 with kind=single, got {self.num_layers}"
            )
        if self.noise < 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                "noise must not be negative and dropout lie in [0, 1), got "
                f"noise={self.noise}, dropout={self.dropout}"
            )

    @property
    def all_streams(self) -> tuple[str, ...]:
        """Every stream that the detector reads, once."""
        named = self.streams if self.kind == "single" else (self.appearance, self.motion)
        return tuple(dict.fromkeys(named))


@dataclass
class Outputs:
    """What a detector says in training.

    Attributes:
        joint: The predictions that inference keeps.
        appearance: The appearance branch's; None for a ``single`` detector.
        motion: The motion branch's; None for a ``single`` detector.
        feats: ``(B, T, D)`` what the heads read: "joint" and, decomposed, "appearance" and
            "motion" (the branches before fusion).
    """

    joint: Predictions
    appearance: Predictions | None
    motion: Predictions | None
    feats: dict[str, Tensor]


class Detector(nn.Module, ABC):
    """Features of one or more streams to predictions.

    Attributes:
        streams: The streams it reads.
        num_labels: K; 1 if class-agnostic.
        class_agnostic: Whether all labels are one.
        widths: D of each of ``Outputs.feats``.
        joint_head: Made ``Outputs.joint``.
        branch_head: Made the branches' predictions; None for a ``single`` detector.
    """

    streams: tuple[str, ...]
    num_labels: int
    class_agnostic: bool
    widths: dict[str, int]
    joint_head: Head
    branch_head: Head | None

    @abstractmethod
    def forward(self, feats: Mapping[str, Tensor], mask: Tensor) -> Outputs:
        """Everything that a loss needs.

        Args:
            feats: For each stream ``(B, T, D)`` as they stand in the store; others are ignored.
            mask: ``(B, T)`` bool, true where real.
        """

    @abstractmethod
    def detect(self, feats: Mapping[str, Tensor], mask: Tensor) -> Predictions:
        """``forward(feats, mask).joint``, without what only training needs."""

    @property
    def inputs(self) -> list["BranchInput"]:
        """The entrances, in the order of the branches."""
        return [module for module in self.modules() if isinstance(module, BranchInput)]

    def set_statistics(self, stream: str, mean: Tensor, std: Tensor) -> None:
        """Set what a stream is standardised with: ``(D,)`` of its real training steps.

        A new detector standardises nothing. A channel with ``std`` 0 is only centred.
        """
        assert stream in self.streams, f"{stream} is not one of {self.streams}"
        for entrance in self.inputs:
            entrance.set_statistics(stream, mean, std)

    def standardised(self, feats: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """``(B, T, D)`` the standardised inputs of all branches, concatenated."""
        return torch.cat([entrance.standardised(feats, mask) for entrance in self.inputs], dim=-1)


def build(
    config: ModelConfig,
    head: HeadConfig,
    fusion: FusionConfig,
    dims: Mapping[str, int],
    num_labels: int,
) -> Detector:
    """Make a detector; equal seeds and settings make equal weights.

    Args:
        config: Its branches.
        head: Of every head in it.
        fusion: Of a ``decomposed`` detector; not looked at otherwise.
        dims: D of each stream, as ``Stream.spec.shape`` in the store.
        num_labels: K of the annotations.
    """
    missing = [stream for stream in config.all_streams if stream not in dims]
    assert not missing, f"no width given for {missing}"
    num_labels = 1 if config.class_agnostic else num_labels
    if config.kind == "single":
        return Single(config, head, dims, num_labels)
    return Decomposed(config, head, fusion, dims, num_labels)


class Single(Detector):
    """One branch: all streams -> phi -> head."""

    def __init__(
        self, config: ModelConfig, head: HeadConfig, dims: Mapping[str, int], num_labels: int
    ) -> None:
        """Make its parts; see :func:`build`."""
        super().__init__()
        self.streams = config.all_streams
        self.num_labels, self.class_agnostic = num_labels, config.class_agnostic
        self.branch = _branch(config, config.streams, dims)
        width = config.dim if config.num_layers else self.branch.entrance.dim_out
        self.widths = {"joint": width}
        self.joint_head = head.build(width, num_labels)
        self.branch_head = None

    def forward(self, feats: Mapping[str, Tensor], mask: Tensor) -> Outputs:
        """Everything that a loss needs; see :class:`Detector`."""
        joint = self.branch(feats, mask)
        return Outputs(self.joint_head(joint, mask), None, None, {"joint": joint})

    def detect(self, feats: Mapping[str, Tensor], mask: Tensor) -> Predictions:
        """The predictions; see :class:`Detector`."""
        predictions: Predictions = self.joint_head(self.branch(feats, mask), mask)
        return predictions


class Decomposed(Detector):
    """Appearance and motion branches, their shared head, their fusion and its joint head."""

    def __init__(
        self,
        config: ModelConfig,
        head: HeadConfig,
        fusion: FusionConfig,
        dims: Mapping[str, int],
        num_labels: int,
    ) -> None:
        """Make its parts; see :func:`build`."""
        super().__init__()
        self.streams = config.all_streams
        self.num_labels, self.class_agnostic = num_labels, config.class_agnostic
        self.appearance = _branch(config, (config.appearance,), dims)
        self.motion = _branch(config, (config.motion,), dims)
        self.fusion = fusion.build(config.dim)
        self.joint_head = head.build(self.fusion.dim_out, num_labels)
        self.branch_head: Head = head.build(config.dim, num_labels)
        # Of this head only `encode` is called; a head cannot be had without its classifier.
        self.motion_encoder: Head | None = None
        if config.share == "classifier_regressor":
            self.motion_encoder = head.build(config.dim, num_labels)
        self.widths = {
            "joint": self.fusion.dim_out,
            "appearance": config.dim,
            "motion": config.dim,
        }

    def forward(self, feats: Mapping[str, Tensor], mask: Tensor) -> Outputs:
        """Everything that a loss needs; see :class:`Detector`."""
        appearance = self.appearance(feats, mask)
        motion = self.motion(feats, mask)
        joint = self.fusion(appearance, motion, mask)
        encoder = self.branch_head if self.motion_encoder is None else self.motion_encoder
        return Outputs(
            joint=self.joint_head(joint, mask),
            appearance=self.branch_head(appearance, mask),
            motion=self.branch_head.predict(encoder.encode(motion, mask)),
            feats={"joint": joint, "appearance": appearance, "motion": motion},
        )

    def detect(self, feats: Mapping[str, Tensor], mask: Tensor) -> Predictions:
        """The joint predictions; see :class:`Detector`."""
        appearance = self.appearance(feats, mask)
        motion = self.motion(feats, mask)
        predictions: Predictions = self.joint_head(self.fusion(appearance, motion, mask), mask)
        return predictions


def _branch(config: ModelConfig, streams: tuple[str, ...], dims: Mapping[str, int]) -> Branch:
    entrance = BranchInput({name: dims[name] for name in streams}, config.noise, config.dropout)
    phi = Projection(entrance.dim_out, config.dim, config.num_layers, config.kernel_size)
    return Branch(entrance, phi)
