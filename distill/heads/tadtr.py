"""TadTR (Liu et al., IEEE TIP 2022): learned queries each find one action of a video.

Numerically the official code, xlliu7/TadTR at 983ae14, in our tensor layout and without compiled
operators. A query's segment is a centre and a width in lengths of the video (its real steps);
step t is at (t + 1/2) / T of it.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from tad_distill.distill import set_loss
from tad_distill.distill.assignment import pad
from tad_distill.distill.deformable import pool_segments
from tad_distill.distill.heads import Candidates, Head, HeadConfig, Predictions, Targets
from tad_distill.distill.losses import PaperWeights
from tad_distill.distill.matching import MatchWeights, as_segments, as_spans, match_predictions
from tad_distill.distill.query_decoder import QueryDecoder
from tad_distill.distill.set_loss import Goals, LossWeights, Sets
from tad_distill.distill.transformer import (
    EncoderLayer,
    LayerSizes,
    StackedLinear,
    encode_places,
    group_norm,
)


@dataclass(frozen=True, kw_only=True)
class Config(HeadConfig):
    """The defaults are the official THUMOS'14 recipe, for windows of 128 steps.

    Attributes:
        hidden_dim: Width of the transformer.
        num_heads: Of all attention.
        num_points: Times that a head of the deformable attention reads.
        num_encoder_layers: Layers on the steps.
        num_decoder_layers: Layers on the queries; each predicts, the last one is kept.
        feedforward_dim: Width between the two linear layers of a layer.
        num_queries: N; more than there are actions in a window.
        norm_groups: Of the normalisation after the input projection.
        dropout: Share of a sublayer's output that training drops.
        num_bins: Of the segment in which actionness is read.
        context: The same segment, in widths of the predicted one.
        prior_prob: The score that an untrained classifier gives.
        slow_lr: Learning rate of where attention reads and of the first references, as a share.
        padding: "invariant": how much padding follows a video never changes its scores;
            "official": padding counts in the first normalisation and in the length by which
            actionness is read; "unmasked": padding is part of the video, as in the official
            windows that the features do not fill (with ``data.pad = "max_len"``).
        loss_style: "official"; "paper": Eq. 1 to 3 of the distillation paper in each decoder
            layer, over matched queries, and the official actionness.
        loss: Weights of the official loss; ``act`` of both.
        paper: Weights of the paper's loss.
        match: Weights of the matching cost.
        actionness_target: The best IoU with a segment of the same video, or, as in the official
            code, with one of any video of the batch.
        correspondence: Of a teacher's queries and a student's, in distillation: "matching" finds
            for each query the most similar one; "position" is for students whose queries began as
            the teacher's.
        decode_top_k: At most so many candidates per window.
        decode_actionness: Whether a score is multiplied by the actionness.
    """

    hidden_dim: int = 256
    num_heads: int = 8
    num_points: int = 4
    num_encoder_layers: int = 4
    num_decoder_layers: int = 4
    feedforward_dim: int = 1024
    num_queries: int = 40
    norm_groups: int = 32
    dropout: float = 0.1
    num_bins: int = 16
    context: float = 1.5
    prior_prob: float = 0.01
    slow_lr: float = 0.1
    padding: Literal["invariant", "official", "unmasked"] = "invariant"
    loss_style: Literal["official", "paper"] = "official"
    loss: LossWeights = field(default_factory=LossWeights)
    paper: PaperWeights = field(default_factory=PaperWeights)
    match: MatchWeights = field(default_factory=MatchWeights)
    actionness_target: Literal["video", "batch"] = "video"
    correspondence: Literal["matching", "position"] = "matching"
    decode_top_k: int = 100
    decode_actionness: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        for name in ("num_heads", "norm_groups"):
            if self.hidden_dim % getattr(self, name):
                divisor = f"{name}={getattr(self, name)}"
                raise ValueError(f"hidden_dim: {self.hidden_dim} is not divisible by {divisor}")
        if self.hidden_dim % 2:
            raise ValueError(f"hidden_dim: expected an even number, got {self.hidden_dim}")
        for name in ("num_points", "num_encoder_layers", "num_decoder_layers", "num_queries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected at least 0 and below 1, got {self.dropout}")
        if not 0 < self.prior_prob < 1:
            raise ValueError(f"prior_prob: expected between 0 and 1, got {self.prior_prob}")

    def build(self, dim: int, num_labels: int) -> "TadTR":
        """Make the head for features of width ``dim``."""
        return TadTR(self, dim, num_labels)


class TadTR(Head):
    """The head; see :class:`Config`.

    ``Predictions.regression`` is a query's centre and width. ``extra`` holds the actionness
    ``(B, N)``, the real steps ``length (B,)`` and what the earlier decoder layers predict,
    ``layer_logits (B, L - 1, N, K)`` and ``layer_spans (B, L - 1, N, 2)``.
    """

    def __init__(self, config: Config, dim: int, num_labels: int) -> None:
        """Make the layers for features of width ``dim``."""
        super().__init__()
        self.config = config
        self.num_labels = num_labels
        width = config.hidden_dim
        self.project = nn.Linear(dim, width)
        self.project_norm = nn.GroupNorm(config.norm_groups, width)
        self.level = nn.Parameter(torch.randn(width))
        sizes = LayerSizes(
            dim=width,
            num_heads=config.num_heads,
            num_points=config.num_points,
            dim_hidden=config.feedforward_dim,
            dropout=config.dropout,
        )
        self.encoder = nn.ModuleList(EncoderLayer(sizes) for _ in range(config.num_encoder_layers))
        self.decoder = QueryDecoder(
            sizes,
            num_layers=config.num_decoder_layers,
            num_queries=config.num_queries,
            num_labels=num_labels,
            prior_prob=config.prior_prob,
        )
        self.actionness = StackedLinear(config.num_bins * width, width, width, 1)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def encode(self, feats: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """``(B, T, D)`` to one level, ``(B, T, hidden_dim)``, and its mask."""
        if self.config.padding == "unmasked":
            mask = mask.any(1, keepdim=True).expand_as(mask)
        counts = torch.ones_like(mask) if self.config.padding == "official" else mask
        memory = group_norm(self.project(feats), counts, self.project_norm)
        places = encode_places(mask, self.config.hidden_dim) + self.level
        for layer in self.encoder:
            memory = layer(memory, mask, places)
        return [(memory, mask)]

    def predict(self, levels: list[tuple[Tensor, Tensor]]) -> Predictions:
        """Let the queries read the level, layer by layer."""
        [(memory, mask)] = levels
        logits, spans = self.decoder(memory, mask)
        length = mask.sum(1).float()
        steps = length
        if self.config.padding == "official":
            steps = torch.full_like(length, mask.shape[1])
        return Predictions(
            logits=logits[:, -1],
            regression=spans[:, -1],
            mask=mask.any(1, keepdim=True).expand(-1, self.config.num_queries),
            points=memory.new_zeros(0, 4),
            extra={
                "actionness": self._actionness(memory, spans[:, -1], steps),
                "length": length,
                "layer_logits": logits[:, :-1],
                "layer_spans": spans[:, :-1],
            },
        )

    def loss(self, predictions: Predictions, targets: list[Targets]) -> dict[str, Tensor]:
        """``cls``, ``reg``, ``comp`` and ``act``, and ``aux`` of the earlier decoder layers."""
        goals, sets = self._goals(predictions, targets), _sets(predictions)
        matched = set_loss.match(sets, goals, self.config.match)
        if self.config.loss_style == "paper":
            by_layer = set_loss.paper_loss(sets, matched, self.config.paper)
        else:
            by_layer = set_loss.official_loss(sets, matched, goals, self.config.loss)
        actionness = set_loss.actionness_loss(
            predictions.extra["actionness"].float(),
            sets.spans[:, -1],
            sets.valid,
            goals,
            whole_batch=self.config.actionness_target == "batch",
        )
        terms = {name: values[-1] for name, values in by_layer.items()}
        terms["act"] = self.config.loss.act * actionness
        if self.config.num_decoder_layers > 1:
            terms["aux"] = torch.stack([values[:-1].sum() for values in by_layer.values()]).sum()
        return terms

    def segments(self, predictions: Predictions) -> Tensor:
        """``(B, N, 2)`` grid steps."""
        length = predictions.extra["length"][:, None, None]
        return as_segments(predictions.regression.float()) * length - 0.5

    @torch.no_grad()
    def align(self, teacher: Predictions, student: Predictions) -> Predictions:
        """The teacher's predictions, each at the place of the student's that is most like it."""
        same = teacher.logits.shape == student.logits.shape
        if not same or self.config.correspondence == "position":
            return teacher
        order = match_predictions(
            (student.logits, teacher.logits),
            (student.regression, teacher.regression),
            self.config.match,
        )
        rows = torch.arange(len(order), device=order.device).unsqueeze(1)
        extra = dict(teacher.extra, actionness=teacher.extra["actionness"][rows, order])
        for name in ("layer_logits", "layer_spans"):
            extra[name] = extra[name].movedim(1, 2)[rows, order].movedim(2, 1)
        return replace(
            teacher,
            logits=teacher.logits[rows, order],
            regression=teacher.regression[rows, order],
            mask=teacher.mask[rows, order],
            extra=extra,
        )

    @torch.no_grad()
    def decode(self, predictions: Predictions) -> list[Candidates]:
        """The best of all pairs of query and label, by falling score; none without a real step."""
        scores = predictions.logits.float().sigmoid()
        if self.config.decode_actionness:
            scores = scores * predictions.extra["actionness"].float().unsqueeze(-1)
        scores, chosen = scores.flatten(1).sort(descending=True, stable=True)
        scores = scores[:, : self.config.decode_top_k].cpu()
        chosen = chosen[:, : self.config.decode_top_k].cpu()
        segments = self.segments(predictions).cpu()
        decoded = []
        for row, real in enumerate(predictions.mask.any(1).tolist()):
            pairs = chosen[row] if real else chosen[row, :0]
            decoded.append(
                Candidates(
                    segments=segments[row, pairs // self.num_labels],
                    scores=scores[row, : len(pairs)],
                    labels=pairs % self.num_labels,
                )
            )
        return decoded

    def lr_scales(self) -> dict[str, float]:
        """Where attention reads, and the first references, learn at ``slow_lr`` of the rate."""
        slow = {"offsets", "reference"}
        names = [name for name, _ in self.named_parameters() if slow & set(name.split("."))]
        return dict.fromkeys(names, self.config.slow_lr)

    def _actionness(self, memory: Tensor, spans: Tensor, steps: Tensor) -> Tensor:
        """``(B, N)`` how well each segment is thought to fit an action."""
        wide = as_segments(spans.detach() * spans.new_tensor([1.0, self.config.context]))
        # By the official rule step t is read at t, not at t + 1/2.
        segments = (wide * steps[:, None, None]).clamp(min=0).minimum(steps[:, None, None])
        pooled = pool_segments(memory, segments, steps, self.config.num_bins)
        found: Tensor = self.actionness(pooled.flatten(2)).float().sigmoid().squeeze(-1)
        return found

    def _goals(self, predictions: Predictions, targets: list[Targets]) -> Goals:
        segments, labels = pad([t.segments for t in targets], [t.labels for t in targets])
        length = predictions.extra["length"].clamp(min=1)[:, None, None]
        num = torch.tensor([len(target.labels) for target in targets], device=labels.device)
        return Goals(as_spans((segments + 0.5) / length), labels, num)


def _sets(predictions: Predictions) -> Sets:
    """All decoder layers, the last one last."""
    extra = predictions.extra
    logits = torch.cat([extra["layer_logits"], predictions.logits.unsqueeze(1)], 1)
    spans = torch.cat([extra["layer_spans"], predictions.regression.unsqueeze(1)], 1)
    return Sets(logits.float(), spans.float(), predictions.mask)
