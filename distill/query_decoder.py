"""TadTR's queries: layer by layer they read the encoded steps, classify, and move their segment."""

import math

import torch
from torch import Tensor, nn

from tad_distill.distill.transformer import DecoderLayer, LayerSizes, StackedLinear

# Probabilities are kept so far from 0 and 1 before the logit is taken.
LOGIT_EPSILON = 1e-5


class QueryDecoder(nn.Module):
    """Learned queries, the layers that they go through, and what each layer says of them."""

    def __init__(
        self,
        sizes: LayerSizes,
        *,
        num_layers: int,
        num_queries: int,
        num_labels: int,
        prior_prob: float,
    ) -> None:
        """Start with segments around the references, an eighth of the video wide.

        Args:
            sizes: Of each layer.
            num_layers: L.
            num_queries: N.
            num_labels: K.
            prior_prob: The score that an untrained classifier gives.
        """
        super().__init__()
        dim = sizes.dim
        self.num_points = sizes.num_points
        self.queries = nn.Embedding(num_queries, 2 * dim)
        self.reference = nn.Linear(dim, 1)
        nn.init.xavier_uniform_(self.reference.weight)
        nn.init.zeros_(self.reference.bias)
        self.layers = nn.ModuleList(DecoderLayer(sizes) for _ in range(num_layers))
        classifiers = [nn.Linear(dim, num_labels) for _ in range(num_layers)]
        regressors = [StackedLinear(dim, dim, dim, 2) for _ in range(num_layers)]
        for classifier, regressor in zip(classifiers, regressors, strict=True):
            nn.init.constant_(classifier.bias, math.log(prior_prob / (1 - prior_prob)))
            nn.init.zeros_(regressor.last.weight)
            nn.init.zeros_(regressor.last.bias)
        with torch.no_grad():
            regressors[0].last.bias[1] = -2.0
        self.classifiers = nn.ModuleList(classifiers)
        self.regressors = nn.ModuleList(regressors)

    def forward(self, memory: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Let the queries read.

        Args:
            memory: ``(B, T, dim)`` the encoded steps.
            mask: ``(B, T)`` bool, true where real.

        Returns:
            ``(B, L, N, K)`` logits and ``(B, L, N, 2)`` spans, centre and width in lengths of the
            video (its real steps). No gradient flows from a layer's spans to the layer before.
        """
        length = mask.sum(1, keepdim=True).float()
        places, content = self.queries.weight.chunk(2, 1)
        content = content.expand(len(memory), -1, -1)
        centre = self.reference(places).float().sigmoid()
        # The first layer knows where to look, but not how far; the logit of 1/2 is 0.
        spans = torch.cat([centre, torch.full_like(centre, 0.5)], 1).expand(len(memory), -1, -1)
        reach = None
        all_logits, all_spans = [], []
        for layer, classifier, regressor in zip(
            self.layers, self.classifiers, self.regressors, strict=True
        ):
            times = spans[..., 0] * length - 0.5
            content = layer(content, places, memory, mask, times, reach)
            spans = (regressor(content).float() + _logit(spans)).sigmoid()
            all_logits.append(classifier(content))
            all_spans.append(spans)
            spans = spans.detach()
            reach = spans[..., 1] * length * (0.5 / self.num_points)
        return torch.stack(all_logits, 1), torch.stack(all_spans, 1)


def _logit(values: Tensor) -> Tensor:
    """The inverse of the sigmoid, finite for 0 and 1."""
    values = values.clamp(0, 1)
    return (values.clamp(min=LOGIT_EPSILON) / (1 - values).clamp(min=LOGIT_EPSILON)).log()
