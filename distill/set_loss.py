"""What a set of matched predictions has to learn (TadTR), for all decoder layers at once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tad_distill.distill import losses
from tad_distill.distill.matching import MatchWeights, as_segments, match_targets


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """What the terms of the official loss count.

    Attributes:
        cls: Of the focal loss.
        reg: Of the L1 distance of centre and width.
        comp: Of one minus the IoU.
        act: Of the actionness.
    """

    cls: float = 2.0
    reg: float = 5.0
    comp: float = 2.0
    act: float = 4.0


@dataclass
class Sets:
    """What L decoder layers say about B videos.

    Attributes:
        logits: ``(B, L, N, K)``.
        spans: ``(B, L, N, 2)`` centre and width, in lengths of the video.
        valid: ``(B, N)`` bool, true where something may be learned.
    """

    logits: Tensor
    spans: Tensor
    valid: Tensor


@dataclass
class Goals:
    """What is annotated in B videos, padded to M segments.

    Attributes:
        spans: ``(B, M, 2)`` centre and width, in lengths of the video.
        labels: ``(B, M)`` int64.
        num: ``(B,)`` int64, how many of the M there are.
    """

    spans: Tensor
    labels: Tensor
    num: Tensor

    @property
    def there(self) -> Tensor:
        """``(B, M)`` bool, false for what is padding."""
        return torch.arange(self.labels.shape[1], device=self.num.device) < self.num.unsqueeze(1)


@dataclass
class Matched:
    """What each prediction of :class:`Sets` has to say.

    Attributes:
        positive: ``(B, L, N)`` bool, true where matched.
        classes: ``(B, L, N, K)`` float one-hot; all zero where not positive.
        spans: ``(B, L, N, 2)``; of no meaning where not positive.
    """

    positive: Tensor
    classes: Tensor
    spans: Tensor


def match(sets: Sets, goals: Goals, weights: MatchWeights) -> Matched:
    """Give each annotated segment one prediction of each layer."""
    num = goals.num * sets.valid.any(1)
    found = match_targets(sets.logits, sets.spans, goals.spans, goals.labels, num, weights)
    positive = found >= 0
    video = torch.arange(len(found), device=found.device)[:, None, None]
    labels = goals.labels[video, found.clamp(min=0)].unsqueeze(-1)
    classes = torch.zeros(sets.logits.shape, device=found.device)
    classes = classes.scatter(-1, labels, positive.unsqueeze(-1).to(classes.dtype))
    return Matched(positive, classes, goals.spans[video, found.clamp(min=0)])


def official_loss(
    sets: Sets, matched: Matched, goals: Goals, weights: LossWeights
) -> dict[str, Tensor]:
    """Focal, L1 and IoU loss over the number of annotated segments (at least 1).

    As ``SetCriterion`` in models/tadtr.py at 983ae14.

    Returns:
        ``(L,)`` of each term, weighted.
    """
    count = (goals.num * sets.valid.any(1)).sum().clamp(min=1)
    focal = losses.balanced_focal(sets.logits, matched.classes).sum(-1)
    distance = (sets.spans - matched.spans).abs().sum(-1)
    gap = 1 - losses.iou(as_segments(sets.spans), as_segments(matched.spans))
    positive = matched.positive

    def total(cost: Tensor, where: Tensor) -> Tensor:
        return torch.where(where, cost, 0.0).sum((0, 2)) / count

    return {
        "cls": weights.cls * total(focal, sets.valid.unsqueeze(1)),
        "reg": weights.reg * total(distance, positive),
        "comp": weights.comp * total(gap, positive),
    }


def paper_loss(sets: Sets, matched: Matched, weights: losses.PaperWeights) -> dict[str, Tensor]:
    """The paper's Eq. 1 to 3 in each layer; ``(L,)`` of each term, weighted."""
    terms: dict[str, list[Tensor]] = {"cls": [], "reg": [], "comp": []}
    for layer in range(sets.logits.shape[1]):
        spans, goals = sets.spans[:, layer], matched.spans[:, layer]
        positive = matched.positive[:, layer]
        cls = losses.paper_cls(
            sets.logits[:, layer], matched.classes[:, layer], positive, sets.valid, weights
        )
        comp = losses.paper_comp(as_segments(spans), as_segments(goals), positive)
        terms["cls"].append(weights.cls * cls)
        terms["reg"].append(weights.reg * losses.paper_reg(spans, goals, positive))
        terms["comp"].append(weights.comp * comp)
    return {name: torch.stack(values) for name, values in terms.items()}


def actionness_loss(
    actionness: Tensor, spans: Tensor, valid: Tensor, goals: Goals, *, whole_batch: bool
) -> Tensor:
    """Distance between the actionness and the best IoU with an annotated segment, a scalar.

    Args:
        actionness: ``(B, N)`` in [0, 1].
        spans: ``(B, N, 2)`` of the same predictions; no gradient reaches them.
        valid: ``(B, N)`` bool, what the mean is over.
        goals: What is annotated.
        whole_batch: Whether segments of other videos count too, a slip of the official code.
    """
    wanted, there = goals.spans, goals.there & valid.any(1, keepdim=True)
    if whole_batch:
        wanted, there = wanted.flatten(0, 1).unsqueeze(0), there.flatten().unsqueeze(0)
    overlap = losses.iou(as_segments(spans.detach()).unsqueeze(2), as_segments(wanted).unsqueeze(1))
    best = torch.where(there.unsqueeze(1), overlap, 0.0).amax(-1)
    return losses.mean_over((actionness - best).abs(), valid)
