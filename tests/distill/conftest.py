"""A tiny head, so that most tests need none of the real ones, and these with small settings."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tad_distill.distill.heads import Candidates, Head, HeadConfig, Predictions, Targets

# Settings that make each head small; a new head must be listed here.
SMALL: dict[str, dict[str, Any]] = {
    "actionformer": {"embd_dim": 16, "num_heads": 2, "arch": (2, 1, 2), "window": (5,)},
    "tadtr": {
        "hidden_dim": 16,
        "num_heads": 2,
        "num_points": 2,
        "num_encoder_layers": 1,
        "num_decoder_layers": 2,
        "feedforward_dim": 32,
        "num_queries": 7,
        "norm_groups": 4,
    },
    "gtad": {
        "embd_dim": 16,
        "embd_groups": 2,
        "graph_width": 16,
        "graph_groups": 4,
        "align_dim": 24,
        "map_dim": 16,
        "max_duration": 8,
        "extra_positives": 0.0,
    },
}


@pytest.fixture(scope="session")
def small_head() -> Callable[[str], HeadConfig]:
    """The settings of a small head of each kind."""

    def settings(kind: str) -> HeadConfig:
        module = importlib.import_module(f"tad_distill.distill.heads.{kind}")
        config: HeadConfig = module.Config(**SMALL[kind])
        return config

    return settings


@dataclass(frozen=True, kw_only=True)
class TinyConfig(HeadConfig):
    dim: int = 6
    dropout: float = 0.0

    def build(self, dim: int, num_labels: int) -> "TinyHead":
        return TinyHead(self, dim, num_labels)


class TinyHead(Head):
    """Two levels of strides 1 and 2; every step is independent of the others."""

    num_losses: Tensor

    def __init__(self, config: TinyConfig, dim: int, num_labels: int) -> None:
        super().__init__()
        self.num_labels = num_labels
        self.encoder = nn.Linear(dim, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.dim, num_labels)
        self.regressor = nn.Linear(config.dim, 2)
        self.register_buffer("num_losses", torch.zeros(()))

    def encode(self, feats: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        encoded = self.dropout(self.encoder(feats).tanh())
        return [(encoded, mask), (encoded[:, ::2], mask[:, ::2])]

    def predict(self, levels: list[tuple[Tensor, Tensor]]) -> Predictions:
        encoded = torch.cat([feats for feats, _ in levels], dim=1)
        return Predictions(
            logits=self.classifier(encoded),
            regression=self.regressor(encoded).relu(),
            mask=torch.cat([mask for _, mask in levels], dim=1),
            points=torch.cat(
                [
                    torch.tensor([[t * 2.0**level, 0.0, 99.0, 2.0**level]])
                    for level, (feats, _) in enumerate(levels)
                    for t in range(feats.shape[1])
                ]
                or [torch.zeros(0, 4)]
            ),
        )

    def loss(self, predictions: Predictions, targets: list[Targets]) -> dict[str, Tensor]:
        """Cross-entropy at every real point; L1 to the ends where a point lies in a segment."""
        assert len(targets) == len(predictions.logits) > 0
        classes = torch.zeros_like(predictions.logits)
        ends = torch.zeros_like(predictions.regression)
        times, strides = predictions.points[:, 0], predictions.points[:, 3]
        for b, video in enumerate(targets):
            for (start, end), label in zip(
                video.segments.tolist(), video.labels.tolist(), strict=True
            ):
                inside = (times >= start) & (times <= end)
                classes[b, inside, label] = 1.0
                distances = torch.stack([times - start, end - times], dim=-1)
                ends[b, inside] = (distances / strides.unsqueeze(-1))[inside].to(ends.dtype)
        if self.training:
            self.num_losses += 1
        real = predictions.mask
        bce = nn.functional.binary_cross_entropy_with_logits
        positive = real & (classes.sum(-1) > 0)
        distance = (predictions.regression - ends).abs()[positive].sum()
        return {
            "cls": bce(predictions.logits[real], classes[real], reduction="sum") / 10,
            "reg": distance / positive.sum().clamp(min=1),
        }

    def segments(self, predictions: Predictions) -> Tensor:
        times, strides = predictions.points[:, :1], predictions.points[:, 3:]
        left, right = (predictions.regression * strides).unbind(-1)
        return torch.stack([times.squeeze(-1) - left, times.squeeze(-1) + right], dim=-1)

    def decode(self, predictions: Predictions) -> list[Candidates]:
        segments = self.segments(predictions)
        scores, labels = predictions.logits.sigmoid().max(-1)
        return [
            Candidates(segments[b, real], scores[b, real], labels[b, real])
            for b, real in enumerate(predictions.mask)
        ]


@pytest.fixture
def tiny_head() -> TinyConfig:
    return TinyConfig()
