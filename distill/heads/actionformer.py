"""ActionFormer (Zhang et al., ECCV 2022): a transformer pyramid whose every point detects.

Numerically the official code, happyharrycn/actionformer_release at 61ea7eb, in our tensor layout
and without its rules for the length of the input.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tad_distill.distill import losses, point_losses
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
        num_steps = mask.sum(1)
        feats, mask = self._padded(feats * mask.unsqueeze(-1), mask)
        if self.config.padding == "official":
            num_steps = torch.full_like(num_steps, mask.shape[1])
        levels: list[tuple[Tensor, Tensor]] = self.neck(self.backbone(feats, mask, num_steps))
        return levels

    def predict(self, levels: list[tuple[Tensor, Tensor]]) -> Predictions:
        """Classify and regress on every level, all levels in one product."""
        lengths = tuple(mask.shape[1] for _, mask in levels)
        # Zeros after each level keep the levels apart under the convolutions.
        gap = self.config.head_kernel // 2
        where = layout(lengths, gap, levels[0][0].device)
        feats = torch.cat([F.pad(feats, (0, 0, 0, gap)) for feats, _ in levels], 1)
        real = torch.cat([F.pad(mask, (0, gap)) for _, mask in levels], 1)
        logits = self.classifier(feats, real, where.inside)
        offsets = self.regressor(feats, real, where.inside)
        scale = torch.stack(list(self.scales))[where.level].unsqueeze(-1)
        return Predictions(
            logits=where.closed(logits),
            regression=F.relu(where.closed(offsets) * scale),
            mask=where.closed(real),
            points=points(lengths, self.config.level_ranges, feats.device),
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
        decoded = []
        for video_scores, video_segments in zip(scores, self.segments(predictions), strict=True):
            levels = zip(video_scores.split(lengths), video_segments.split(lengths), strict=True)
            parts = [self._decode_level(*level) for level in levels]
            joined = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
            decoded.append(Candidates(*joined))
        return decoded

    def _padded(self, feats: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        stride = 2 ** (self.config.num_levels - 1)
        rest = -feats.shape[1] % stride
        if self.config.padding == "official":
            if rest:
                raise ValueError(
                    f"head.padding=official: {feats.shape[1]} steps are not divisible by the last "
                    f"stride {stride}; pad the features or use padding=invariant"
                )
            return feats, mask
        rest += stride
        return F.pad(feats, (0, 0, 0, rest)), F.pad(mask, (0, rest))

    @torch.no_grad()
    def _update_normalizer(self, num_positive: Tensor, any_valid: Tensor) -> None:
        momentum = self.config.loss_momentum
        moved = momentum * self.loss_normalizer + (1 - momentum) * num_positive.clamp(min=1)
        # A batch without a real step says nothing about how many positives a batch has.
        self.loss_normalizer.copy_(torch.where(any_valid, moved, self.loss_normalizer))

    def _decode_level(self, scores: Tensor, segments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        flat = scores.flatten()
        chosen = (flat > self.config.decode_min_score).nonzero().squeeze(1)
        order = flat[chosen].argsort(descending=True, stable=True)[: self.config.decode_top_k]
        chosen = chosen[order]
        ends = segments[chosen // self.num_labels]
        long = ends[:, 1] - ends[:, 0] > self.config.decode_min_steps
        chosen = chosen[long]
        return ends[long], flat[chosen], chosen % self.num_labels


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
