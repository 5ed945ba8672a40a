"""G-TAD (Xu et al., CVPR 2020): a graph network that scores every anchor of a video.

Numerically the official code, Frostinassiky/gtad at 6deb5b1 (THUMOS'14; branch anet at 3f145d5 for
ActivityNet), in our tensor layout and for videos of any length.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from tad_distill.config import ConfigError
from tad_distill.distill import anchors, losses
from tad_distill.distill.align1d import AnchorAlign
from tad_distill.distill.anchor_decode import at_steps, best, peaks
from tad_distill.distill.anchor_losses import (
    balanced_entropy,
    boundary_loss,
    overlap_loss,
    overlap_weights,
)
from tad_distill.distill.anchor_map import AnchorMap, Boundary
from tad_distill.distill.graph import GraphBlock, GraphEncoder
from tad_distill.distill.heads import Candidates, Head, HeadConfig, Predictions, Targets


@dataclass(frozen=True, kw_only=True)
class Config(HeadConfig):
    """The defaults are the official THUMOS'14 recipe, in steps of 5 frames.

    With one label, as of a class-agnostic model, the network is the official one. With K labels
    its map has K classification channels instead of one.

    Videos are meant to be read in windows like those of the training: set ``data.max_len`` and
    ``predict.window`` alike (official: 256, overlapping by 128).

    Attributes:
        embd_dim: Width of the graph.
        embd_groups: Of the first convolution; divides the width of the features.
        graph_width: Inside a graph block.
        graph_groups: Paths of a graph block.
        num_neighbours: Of each step in feature space, itself among them.
        context: What an anchor sees beside its own steps: nothing, the mean of each step's
            neighbours, or of the neighbours that all blocks found ("all").
        bins: Of an anchor's own steps and of its context (ActivityNet: 32 and 4).
        align_dim: Width of an anchor after its bins.
        map_dim: Width of the map's convolutions.
        map_kernel: Of the map's two convolutions, in steps of start and duration; odd
            (ActivityNet: 1).
        max_duration: Longest anchor, in grid steps.
        anchor_offset: Where the anchors of step 0 start, in grid steps: at the step's time, or half
            a step before, where its slot begins (ActivityNet: -0.5).
        padding: "masked": padded steps change nothing; "official": padded steps are real ones with
            features of 0.
        loss_style: "official": balanced cross-entropies and a squared error of the IoU; "paper":
            Eq. 1 and 2 of the distillation paper. An anchor's segment is fixed, so what is
            regressed is its IoU, and Eq. 3 has nothing to improve.
        reg_weight: Of the official IoU loss. The official code for THUMOS'14 has 1 and 10 swapped,
            by mistake (gtad#50; ActivityNet: 10).
        cls_weight: Of the official classification loss (ActivityNet: 1).
        boundary_weight: Of the loss of starts and ends, in both styles.
        positive_iou: Positives of the classification have a higher IoU. Lower it where segments
            last few steps: few anchors of whole steps overlap them by 0.9.
        extra_positives: See ``balanced_entropy`` (ActivityNet: 0).
        sampling: What the IoU loss takes where good anchors outnumber others: "official" the whole
            map; "masked" those others.
        boundary_slot: Width of a step's slot in the targets of starts and ends (ActivityNet: 2).
        overlap_shift: Added to the annotated segments before the IoU, in grid steps. The official
            code for THUMOS'14 trains with 2 frames, 0.4, and detects without.
        paper: Weights of the paper's loss.
        decode_boundaries: Whether candidates start and end where the network sees starts and ends:
            "unused"; "filter": only at peaks and above half the maximum (ActivityNet); "multiply":
            the score is multiplied by both.
        decode_to_end: Whether candidates may end with the video (officially not).
        decode_below_steps: Candidates are shorter, in grid steps (official: 300 frames).
        decode_min_score: Candidates have a higher score.
        decode_top_k: At most so many candidates per video.
    """

    embd_dim: int = 256
    embd_groups: int = 4
    graph_width: int = 128
    graph_groups: int = 32
    num_neighbours: int = 3
    context: Literal["none", "last", "all"] = "last"
    bins: tuple[int, int] = (16, 16)
    align_dim: int = 512
    map_dim: int = 128
    map_kernel: int = 3
    max_duration: int = 64
    anchor_offset: float = 0.0
    padding: Literal["masked", "official"] = "masked"
    loss_style: Literal["official", "paper"] = "official"
    reg_weight: float = 1.0
    cls_weight: float = 10.0
    boundary_weight: float = 1.0
    positive_iou: float = 0.9
    extra_positives: float = 10.0
    sampling: Literal["official", "masked"] = "official"
    boundary_slot: float = 1.0
    overlap_shift: float = 0.0
    paper: losses.PaperWeights = field(default_factory=losses.PaperWeights)
    decode_boundaries: Literal["unused", "filter", "multiply"] = "unused"
    decode_to_end: bool = False
    decode_below_steps: float = 60.0
    decode_min_score: float = 0.0
    decode_top_k: int = 20_000

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        for name in ("num_neighbours", "max_duration", "align_dim", "map_dim", "decode_top_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.bins[0] < 1 or self.bins[1] < (self.context != "none"):
            raise ValueError(f"bins: expected positive numbers, got {self.bins}")
        if self.map_kernel % 2 == 0:
            raise ValueError(f"map_kernel: expected an odd number, got {self.map_kernel}")
        if self.embd_dim % self.embd_groups or self.graph_width % self.graph_groups:
            raise ValueError(
                f"embd_dim={self.embd_dim} and graph_width={self.graph_width} must be divisible by "
                f"embd_groups={self.embd_groups} and graph_groups={self.graph_groups}"
            )
        if not 0 <= self.positive_iou < 1:
            raise ValueError(f"positive_iou: expected within [0, 1), got {self.positive_iou}")
        if self.boundary_slot <= 0:
            raise ValueError(f"boundary_slot: expected a positive number, got {self.boundary_slot}")

    def build(self, dim: int, num_labels: int) -> "GTAD":
        """Make the head for features of width ``dim``.

        Raises:
            ConfigError: ``embd_groups`` does not divide ``dim``.
        """
        if dim % self.embd_groups:
            raise ConfigError(
                f"head.embd_groups: {self.embd_groups} does not divide the {dim} channels that "
                "the head reads; set head.embd_groups=1"
            )
        return GTAD(self, dim, num_labels)


class GTAD(Head):
    """The head; see :class:`Config`.

    Its N predictions are all anchors, durations outer and starts inner. What it regresses is the
    IoU of an anchor with a segment, in (0, 1): R is 1.
    """

    def __init__(self, config: Config, dim: int, num_labels: int) -> None:
        """Make the layers for features of width ``dim``."""
        super().__init__()
        self.config = config
        self.num_labels = num_labels
        width = config.embd_dim

        def block() -> GraphBlock:
            return GraphBlock(
                width,
                width=config.graph_width,
                groups=config.graph_groups,
                num_neighbours=config.num_neighbours,
            )

        self.encoder = GraphEncoder(
            dim,
            width,
            groups=config.embd_groups,
            blocks=(block(), block()),
            context=config.context,
        )
        self.start = Boundary(width, block())
        self.end = Boundary(width, block())
        self.map = AnchorMap(
            AnchorAlign(
                width,
                config.align_dim,
                max_duration=config.max_duration,
                bins=config.bins[0],
                context_bins=config.bins[1] if config.context != "none" else 0,
            ),
            align_dim=config.align_dim,
            dim=config.map_dim,
            kernel=config.map_kernel,
            dim_out=1 + num_labels,
        )

    def encode(self, feats: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """``(B, T, D)`` to features for boundaries, for anchors, and the anchors' context if any.

        All are ``(B, T, embd_dim)``.
        """
        feats = feats * mask.unsqueeze(-1)
        if self.config.padding == "official":
            mask = torch.ones_like(mask)
        return [(level, mask) for level in self.encoder(feats, mask)]

    def predict(self, levels: list[tuple[Tensor, Tensor]]) -> Predictions:
        """Score every anchor, and every step as a start and as an end."""
        (base, mask), (top, _), *context = levels
        said = self.map(top, context[0][0] if context else None, mask).flatten(1, 2)
        longest, offset = self.config.max_duration, self.config.anchor_offset
        return Predictions(
            logits=said[..., 1:],
            regression=said[..., :1].sigmoid(),
            mask=anchors.valid(mask, longest).flatten(1),
            points=anchors.points(mask.shape[1], longest, offset, mask.device),
            extra={"start": self.start(base, mask), "end": self.end(base, mask)},
        )

    def loss(self, predictions: Predictions, targets: list[Targets]) -> dict[str, Tensor]:
        """``cls``, ``reg`` and ``boundary``; see ``Head.loss``. Draws random numbers."""
        config = self.config
        inside = self._map(predictions.mask)
        goal = anchors.goal(
            predictions.points,
            inside,
            targets,
            num_labels=self.num_labels,
            slot=config.boundary_slot,
            shift=config.overlap_shift,
        )
        real = inside[:, 0]
        boundary = boundary_loss(predictions.extra["start"], goal.start, real)
        boundary = boundary + boundary_loss(predictions.extra["end"], goal.end, real)
        overlap = goal.overlap.amax(1)
        weight = overlap_weights(
            overlap,
            real.unsqueeze(1).expand(inside.shape),
            torch.rand(2, *inside.shape, device=inside.device),
            whole_map=config.sampling == "official",
        )
        by_map = self._paper_loss if config.loss_style == "paper" else self._official_loss
        terms = by_map(predictions, goal.overlap.movedim(1, -1), overlap, weight)
        return terms | {"boundary": config.boundary_weight * boundary}

    def segments(self, predictions: Predictions) -> Tensor:
        """``(B, N, 2)`` grid steps: the anchors, the same for every video."""
        return predictions.points[:, 1:3].expand(len(predictions.mask), -1, -1)

    @torch.no_grad()
    def decode(self, predictions: Predictions) -> list[Candidates]:
        """Candidates by falling score: that of the label times the IoU (equal ones by anchor)."""
        config = self.config
        scores = predictions.logits.float().sigmoid() * predictions.regression.float()
        allowed = predictions.mask & (predictions.points[:, 3] < config.decode_below_steps)
        if not config.decode_to_end:
            ends = predictions.points[:, 2] - config.anchor_offset
            real = self._map(predictions.mask)[:, 0]
            allowed = allowed & (ends < anchors.lengths(real).unsqueeze(1))
        if config.decode_boundaries != "unused":
            start, end = self._at_boundaries(predictions)
            scores = scores * (start * end).unsqueeze(-1)
        return best(
            scores,
            predictions.points[:, 1:3],
            allowed,
            min_score=config.decode_min_score,
            top_k=config.decode_top_k,
        )

    def _official_loss(
        self, predictions: Predictions, by_label: Tensor, overlap: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        config, inside = self.config, self._map(predictions.mask)
        positive = by_label > config.positive_iou
        cls = balanced_entropy(
            self._map(predictions.logits.float().sigmoid()),
            positive,
            ~positive & inside.unsqueeze(-1),
            config.extra_positives,
        )
        reg = overlap_loss(self._map(predictions.regression.float()).squeeze(-1), overlap, weight)
        return {"cls": config.cls_weight * cls, "reg": config.reg_weight * reg}

    def _paper_loss(
        self, predictions: Predictions, by_label: Tensor, overlap: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        paper = self.config.paper
        classes = (by_label > self.config.positive_iou).to(overlap.dtype).flatten(1, 2)
        positive, goal = classes.any(-1), overlap.flatten(1).unsqueeze(-1)
        logits, predicted = predictions.logits.float(), predictions.regression.float()
        cls = losses.paper_cls(logits, classes, positive, predictions.mask, paper)
        reg = losses.paper_reg(predicted, goal, weight.flatten(1) > 0)
        return {"cls": paper.cls * cls, "reg": paper.reg * reg}

    def _at_boundaries(self, predictions: Predictions) -> tuple[Tensor, Tensor]:
        """``(B, N)`` how likely each anchor starts and ends where it does; filtered: 0 or 1."""
        real, at = self._map(predictions.mask)[:, 0], []
        for key, column in (("start", 1), ("end", 2)):
            scores = predictions.extra[key].float().sigmoid()
            if self.config.decode_boundaries == "filter":
                scores = peaks(scores, real, at_end=key == "end").to(scores.dtype)
            step = predictions.points[:, column] - self.config.anchor_offset
            at.append(at_steps(scores, step.long(), real))
        return at[0], at[1]

    def _map(self, values: Tensor) -> Tensor:
        """``(B, N, ...)`` as ``(B, D, T, ...)``."""
        return values.unflatten(1, (self.config.max_duration, -1))
