"""ActionFormer (Zhang et al., ECCV 2022): a transformer pyramid whose every point detects.

Numerically the official code, happyharrycn/actionformer_release at 61ea7eb, in our tensor layout
and without its rules for the length of the input.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tad_distill.distill import losses, point_decode, point_losses, ragged
from tad_distill.distill.assignment import assign, pad
from tad_distill.distill.heads import Candidates, Head, HeadConfig, Predictions, Targets
from tad_distill.distill.necks import FeaturePyramid, Norms
from tad_distill.distill.pyramid import (
    Backbone,
    Blocks,
    ConvBlock,
    PyramidBlock,
    Tower,
    layout,
    points,
)

# The last level answers for everything longer.
OPEN_END = 10_000.0


@dataclass(frozen=True, kw_only=True)
class Config(HeadConfig):
    """The defaults are the official THUMOS'14 recipe, in steps of 4/30 s.

    For features of another rate scale ``window`` and ``ranges``, which count steps; for windows
    of few steps take fewer levels (``arch``), or the coarse ones never have a positive.

    Attributes:
        embd_dim: Width of the pyramid and of the classifier and regressor.
        num_heads: Of the attention.
        arch: Embedding convolutions, blocks at full length, blocks that halve the length: there
            are ``arch[2] + 1`` levels of strides 1, 2, 4, ...
        window: Attention window in steps of the level: one for all levels, or one per level; <= 1
            for full attention.
        ranges: Per level, between which lengths (in grid steps, both included) the farther end of
            a segment lies; empty: (0, 4), (4, 8), ... doubling, the last level open.
        center_radius: Positives lie within so many strides of the segment's centre; inf: anywhere
            in the segment.
        backbone: "transformer", or "convolution" for blocks without attention.
        neck: "identity" normalises each level; "fpn" adds coarse levels to fine ones first.
        positions: "none"; "absolute": sines and cosines are added to the embedding. An official
            checkpoint does not say whether it was trained with them (use_abs_pe); its settings do.
        max_len: Steps of the table of absolute positions: the official max_seq_len. It is
            stretched for longer videos.
        relative_positions: Whether attention with a window learns what a distance counts.
        embd_kernel: Of the embedding convolutions; odd.
        head_kernel: Of the classifier's and regressor's three convolutions; odd.
        prior_prob: The score that an untrained classifier gives.
        drop_path: How often a residual is dropped in training; 0 also drops the residuals' scales.
        padding: "invariant": padded at the end here, so that how much padding follows a video
            never changes its scores; "official": the caller's length is taken as it is and must be
            divisible by the last stride.
        loss_style: "official": focal and DIoU over a moving average of the number of positives;
            "paper": Eq. 1 to 3 of the distillation paper.
        loss_normalizer: What the moving average starts from: a typical number of positive points
            per batch.
        loss_momentum: Of the moving average.
        loss_weight: Of the official regression loss.
        label_smoothing: Of the official classification loss.
        paper: Weights of the paper's loss.
        decode_top_k: At most so many candidates per level.
        decode_min_score: Candidates have a higher score.
        decode_min_steps: Candidates are longer, in grid steps.
    """

    embd_dim: int = 512
    num_heads: int = 4
    arch: tuple[int, int, int] = (2, 2, 5)
    window: tuple[int, ...] = (19,)
    ranges: tuple[tuple[float, float], ...] = ()
    center_radius: float = 1.5
    backbone: Literal["transformer", "convolution"] = "transformer"
    neck: Literal["identity", "fpn"] = "identity"
    positions: Literal["none", "absolute"] = "none"
    max_len: int = 2304
    relative_positions: bool = False
    embd_kernel: int = 3
    head_kernel: int = 3
    prior_prob: float = 0.01
    drop_path: float = 0.1
    padding: Literal["invariant", "official"] = "invariant"
    loss_style: Literal["official", "paper"] = "official"
    loss_normalizer: float = 100.0
    loss_momentum: float = 0.9
    loss_weight: float = 1.0
    label_smoothing: float = 0.0
    paper: losses.PaperWeights = field(default_factory=losses.PaperWeights)
    decode_top_k: int = 2000
    decode_min_score: float = 0.001
    decode_min_steps: float = 0.05

    def __post_init__(self) -> None:
        """Refuse combinations that no pyramid can have."""
        levels = self.num_levels
        if min(self.arch) < 0 or self.arch[0] < 1:
            raise ValueError(f"arch: expected counts, the first at least 1, got {self.arch}")
        if self.embd_dim % self.num_heads:
            raise ValueError(
                f"embd_dim: {self.embd_dim} is not divisible by {self.num_heads} heads"
            )
        if len(self.window) not in (1, levels):
            raise ValueError(f"window: expected 1 or {levels} (levels) values, got {self.window}")
        if len(self.ranges) not in (0, levels):
            raise ValueError(f"ranges: expected none or {levels} (levels) pairs, got {self.ranges}")
        if self.embd_kernel % 2 == 0 or self.head_kernel % 2 == 0:
            raise ValueError("embd_kernel, head_kernel: expected odd numbers")
        if not 0 < self.prior_prob < 1:
            raise ValueError(f"prior_prob: expected between 0 and 1, got {self.prior_prob}")
        if self.max_len < 1:
            raise ValueError(f"max_len: expected at least 1, got {self.max_len}")
        if self.backbone == "convolution" and (self.positions != "none" or self.relative_positions):
            raise ValueError("positions, relative_positions: only with backbone=transformer")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path: expected at least 0 and below 1, got {self.drop_path}")

    @property
    def num_levels(self) -> int:
        """Levels of the pyramid."""
        return self.arch[2] + 1

    @property
    def level_windows(self) -> tuple[int, ...]:
        """The attention window of each level."""
        return self.window * self.num_levels if len(self.window) == 1 else self.window

    @property
    def level_ranges(self) -> tuple[tuple[float, float], ...]:
        """The regression range of each level, in grid steps."""
        if self.ranges:
            return self.ranges
        bounds = [0.0, *(4.0 * 2**level for level in range(self.num_levels - 1)), OPEN_END]
        return tuple(zip(bounds[:-1], bounds[1:], strict=True))

    def build(self, dim: int, num_labels: int) -> "ActionFormer":
        """Make the head for features of width ``dim``."""
        return ActionFormer(self, dim, num_labels)


class ActionFormer(Head):
    """The head; see :class:`Config`.

    Attributes:
        loss_normalizer: Moving average of the number of positives. A buffer: a resumed run must
            see the same loss scale.
    """

    loss_normalizer: Tensor

    def __init__(self, config: Config, dim: int, num_labels: int) -> None:
        """Make the layers for features of width ``dim``."""
        super().__init__()
        self.config = config
        self.num_labels = num_labels
        width, kernel = config.embd_dim, config.head_kernel
        self.backbone = Backbone(
            dim,
            width,
            num_convs=config.arch[0],
            kernel=config.embd_kernel,
            blocks=_blocks(config),
            positions=config.max_len if config.positions == "absolute" else 0,
        )
        necks = {"identity": Norms, "fpn": FeaturePyramid}
        self.neck = necks[config.neck](width, config.num_levels)
        self.classifier = Tower(width, num_labels, kernel=kernel)
        self.regressor = Tower(width, 2, kernel=kernel)
        self.scales = nn.ParameterList(
            nn.Parameter(torch.ones(())) for _ in range(config.num_levels)
        )
        assert self.classifier.out.bias is not None
        prior = math.log(config.prior_prob / (1 - config.prior_prob))
        nn.init.constant_(self.classifier.out.bias, prior)
        self.register_buffer("loss_normalizer", torch.tensor(float(config.loss_normalizer)))

    def encode(self, feats: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """``(B, T, D)`` to ``(B, T', embd_dim)``, ``(B, T'/2, embd_dim)``, ... and their masks.

        T' is T in the "official" padding mode. In the "invariant" mode it is longer: a multiple of
        the last stride with at least one step of the last level to spare.

        Raises:
            ValueError: "official" padding, and T is not divisible by the last stride.
        """
        divided = self._groups(mask)
        parts = [self._encode(ragged.take(feats, g), ragged.take(mask, g)) for g in divided]
        return [
            (
                ragged.join([levels[i][0] for levels in parts], divided, length),
                ragged.join([levels[i][1] for levels in parts], divided, length),
            )
            for i, length in enumerate(self._lengths(mask.shape[1]))
        ]

    def predict(self, levels: list[tuple[Tensor, Tensor]]) -> Predictions:
        """Classify and regress on every level, all levels in one product."""
        masks = [mask for _, mask in levels]
        divided = self._groups(masks[0])
        parts = [self._say(levels, group) for group in divided]
        lengths = tuple(mask.shape[1] for mask in masks)
        said = torch.cat(
            [ragged.join([p[i] for p in parts], divided, n) for i, n in enumerate(lengths)], 1
        )
        where = layout(lengths, 0, said.device)
        scale = torch.stack(list(self.scales))[where.level].unsqueeze(-1)
        return Predictions(
            logits=said[..., : self.num_labels],
            regression=F.relu(said[..., self.num_labels :] * scale),
            mask=torch.cat(masks, 1),
            points=points(lengths, self.config.level_ranges, said.device),
        )

    def loss(self, predictions: Predictions, targets: list[Targets]) -> dict[str, Tensor]:
        """``cls`` and ``reg``, and ``comp`` in the paper's style; see ``Head.loss``."""
        goal = assign(
            predictions.points,
            *pad([t.segments for t in targets], [t.labels for t in targets]),
            num_labels=self.num_labels,
            center_radius=self.config.center_radius,
        )
        positive = goal.positive & predictions.mask
        if self.config.loss_style == "paper":
            return point_losses.paper(predictions, goal, positive, self.config.paper)
        if self.training:
            self._update_normalizer(positive.sum(), predictions.mask.any())
        return point_losses.official(
            predictions,
            goal,
            positive,
            normalizer=self.loss_normalizer,
            weight=self.config.loss_weight,
            label_smoothing=self.config.label_smoothing,
        )

    def segments(self, predictions: Predictions) -> Tensor:
        """``(B, N, 2)`` grid steps: point - left * stride, point + right * stride."""
        time, stride = predictions.points[:, :1], predictions.points[:, 3:]
        return time + point_losses.as_segments(predictions.regression.float()) * stride

    @torch.no_grad()
    def decode(self, predictions: Predictions) -> list[Candidates]:
        """Level by level, each level's candidates by falling score (equal ones by point, label)."""
        scores = predictions.logits.float().sigmoid() * predictions.mask.unsqueeze(-1)
        _, counts = predictions.points[:, 3].unique_consecutive(return_counts=True)
        lengths = counts.tolist()
        return [
            point_decode.decode(
                *video,
                lengths,
                top_k=self.config.decode_top_k,
                min_score=self.config.decode_min_score,
                min_steps=self.config.decode_min_steps,
            )
            for video in zip(scores, self.segments(predictions), strict=True)
        ]

    def _groups(self, mask: Tensor) -> list[ragged.Group]:
        """Rows of a batch that are computed together."""
        if self.config.padding == "official":
            return [ragged.whole(mask)]
        return ragged.groups(mask, self.config.embd_dim)

    def _encode(self, feats: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        num_steps, length = mask.sum(1), self._lengths(mask.shape[1])[0]
        if self.config.padding == "official":
            num_steps = torch.full_like(num_steps, length)
        rest = length - mask.shape[1]
        feats = F.pad(feats * mask.unsqueeze(-1), (0, 0, 0, rest))
        encoded = self.backbone(feats, F.pad(mask, (0, rest)), num_steps)
        levels: list[tuple[Tensor, Tensor]] = self.neck(encoded)
        return levels

    def _say(self, levels: list[tuple[Tensor, Tensor]], group: ragged.Group) -> list[Tensor]:
        """Level by level ``(B, T_l, K + 2)`` logits and offsets of some of the videos."""
        given = [replace(group, length=length) for length in self._lengths(group.length)]
        feats = [ragged.take(f, part) for (f, _), part in zip(levels, given, strict=True)]
        masks = [ragged.take(m, part) for (_, m), part in zip(levels, given, strict=True)]
        # Zeros after each level keep the levels apart under the convolutions.
        gap = self.config.head_kernel // 2
        where = layout(tuple(mask.shape[1] for mask in masks), gap, masks[0].device)
        joined = torch.cat([F.pad(f, (0, 0, 0, gap)) for f in feats], 1)
        real = torch.cat([F.pad(mask, (0, gap)) for mask in masks], 1)
        logits = self.classifier(joined, real, where.inside)
        offsets = self.regressor(joined, real, where.inside)
        return where.levels(torch.cat([logits, offsets], -1))

    def _lengths(self, num_steps: int) -> list[int]:
        """Steps of each level for a video of so many."""
        levels = range(self.config.num_levels)
        stride = 2 ** levels[-1]
        rest = -num_steps % stride
        if self.config.padding == "official" and rest:
            raise ValueError(
                f"head.padding=official: {num_steps} steps are not divisible by the last stride "
                f"{stride}; pad the features or use padding=invariant"
            )
        if self.config.padding == "invariant":
            num_steps += rest + stride
        return [num_steps // 2**level for level in levels]

    @torch.no_grad()
    def _update_normalizer(self, num_positive: Tensor, any_valid: Tensor) -> None:
        momentum = self.config.loss_momentum
        moved = momentum * self.loss_normalizer + (1 - momentum) * num_positive.clamp(min=1)
        # A batch without a real step says nothing about how many positives a batch has.
        self.loss_normalizer.copy_(torch.where(any_valid, moved, self.loss_normalizer))


def _blocks(config: Config) -> Blocks:
    """The blocks of a pyramid: at full length, then one that halves it for each further level."""

    def block(level: int, stride: int) -> nn.Module:
        if config.backbone == "convolution":
            return ConvBlock(config.embd_dim, stride=stride)
        return PyramidBlock(
            config.embd_dim,
            num_heads=config.num_heads,
            window=config.level_windows[level],
            stride=stride,
            drop_path=config.drop_path,
            relative=config.relative_positions,
        )

    _, num_stem, num_branch = config.arch
    return Blocks(
        stem=[block(0, 1) for _ in range(num_stem)],
        branch=[block(1 + i, 2) for i in range(num_branch)],
    )
