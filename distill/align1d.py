"""SGAlign of G-TAD (Xu et al., CVPR 2020, Algorithm 1): one vector for each anchor of a grid.

An anchor starts at step s and lasts d + 1 steps. Its region, as long again on both sides together,
is cut into bins, and each bin is the mean of linearly interpolated samples (Align1D, which the
official code has in CUDA alone). A linear layer reads all bins of an anchor. Sampling and the
layer are both linear, so the layer goes first, once per step instead of once per anchor: the
official map of bins x channels x anchors (0.54 GB a video on THUMOS'14) never exists.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Anchors that are sampled at once. Their vectors are made, read and dropped block by block.
BLOCK = 4096
# The plan of a block takes 5 MB (256 steps, durations 1 to 64 in four blocks). Plans of longer
# videos are larger and seldom asked for twice.
NUM_PLANS_KEPT = 64
LONGEST_KEPT = 1024


@dataclass(frozen=True)
class Taps:
    """Which steps the bins of an anchor read, counted from its start: the same for every start.

    Attributes:
        shift: ``(J,)`` int32 steps after the anchor's start; grouped by anchor length.
        bin: ``(J,)`` int32, which bin reads there.
        low: ``(J,)`` float32 weight that comes from samples between this step and the next.
        high: ``(J,)`` float32 weight that comes from samples between the step before and this one.
        exact: ``(J,)`` float32 weight that comes from samples that fall on this step.
        first: ``(G + 1,)`` int32 where the taps of each group begin; one group for each duration
            and a last one for anchors that do not fit, of which the official code samples the
            first step of the video.
    """

    shift: Tensor
    bin: Tensor
    low: Tensor
    high: Tensor
    exact: Tensor
    first: Tensor


@dataclass(frozen=True)
class Sums:
    """Weighted sums of the rows of a table: a sparse matrix, row after row.

    Attributes:
        index: ``(J,)`` int32 rows of the table, sum after sum.
        weight: ``(J,)`` float32.
        offset: int32 where the rows of each sum begin.
    """

    index: Tensor
    weight: Tensor
    offset: Tensor

    def of(self, table: Tensor) -> Tensor:
        """All sums of the rows of a float32 table of two axes."""
        return F.embedding_bag(
            self.index, table, self.offset, mode="sum", per_sample_weights=self.weight
        )


@dataclass(frozen=True)
class Plan:
    """How a block of a video's anchors is sampled, and how their gradients go back.

    Attributes:
        anchors: Each anchor's vector from a ``(T * bins, O)`` table; durations outer, starts inner.
        steps: The transposed sums: each row of the table from the vectors.
    """

    anchors: Sums
    steps: Sums


class AnchorAlign(nn.Module):
    """A linear layer on the aligned features of every anchor, without the aligned features.

    Attributes:
        weight: ``(bins, dim_out, dim)``: those of the features, then those of the context.
        bias: ``(dim_out,)``.
    """

    def __init__(
        self, dim: int, dim_out: int, *, max_duration: int, bins: int, context_bins: int
    ) -> None:
        """Start with torch's default weights for a layer that reads all bins.

        Args:
            dim: Width of features and context.
            dim_out: Width of an anchor's vector.
            max_duration: Longest anchor, in steps.
            bins: Bins of the features.
            context_bins: Bins of the context; 0 for none.
        """
        super().__init__()
        self.max_duration = max_duration
        self.bins = (bins, context_bins)
        self.weight = nn.Parameter(torch.empty(bins + context_bins, dim_out, dim))
        self.bias = nn.Parameter(torch.empty(dim_out))
        bound = 1 / math.sqrt(dim * (bins + context_bins))
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def tables(self, feats: Tensor, context: Tensor | None) -> list[tuple[Tensor, int]]:
        """What is sampled: for each number of bins ``(B, T, bins, dim_out)`` and that number.

        Args:
            feats: ``(B, T, dim)``.
            context: ``(B, T, dim)``, or None if there are no context bins.
        """
        inner, outer = self.weight.split(self.bins)
        if context is None:
            return [(_project(feats, inner), self.bins[0])]
        if self.bins[0] == self.bins[1]:  # the same samples of both: sample their sum
            both = _project(feats, inner).add_(_project(context, outer))
            return [(both, self.bins[0])]
        return [(_project(feats, inner), self.bins[0]), (_project(context, outer), self.bins[1])]

    def blocks(self, num_steps: int) -> list[tuple[int, int]]:
        """Durations that are aligned at once in a video of L real steps, as first and end."""
        size = max(1, BLOCK // max(1, num_steps))
        firsts = range(0, self.max_duration, size)
        return [(first, min(first + size, self.max_duration)) for first in firsts]

    def align(self, tables: list[tuple[Tensor, int]], block: tuple[int, int]) -> Tensor:
        """The vectors of a block of anchors of one video, ``(durations, L, dim_out)``.

        Args:
            tables: ``(L, bins, dim_out)`` of the L real steps of the video, as from :meth:`tables`.
            block: One of :meth:`blocks`.
        """
        vectors, *more = (sample(table, self.max_duration, bins, block) for table, bins in tables)
        for other in more:
            vectors = vectors + other
        return vectors.add_(self.bias)


def _project(feats: Tensor, weight: Tensor) -> Tensor:
    return F.linear(feats, weight.flatten(0, 1)).float().unflatten(-1, weight.shape[:2])


def sample(
    table: Tensor, max_duration: int, bins: int, block: tuple[int, int] | None = None
) -> Tensor:
    """The sum over bins of what Align1D samples from each bin's own features.

    Args:
        table: ``(T, bins, O)`` float32 features of each bin.
        max_duration: D.
        bins: Of each anchor.
        block: First duration and the one after the last, counted from 0; by default all.

    Returns:
        ``(D, T, O)``: durations 1 to D, or those of the block, and starts 0 to T - 1.
    """
    num_steps = len(table)
    first, end = block or (0, max_duration)
    if not num_steps:
        return table.new_zeros(end - first, 0, table.shape[-1])
    get = _kept_plan if num_steps <= LONGEST_KEPT else plan
    made = get(num_steps, max_duration, bins, (first, end), table.device)
    vectors: Tensor = _Sample.apply(table.flatten(0, 1), made)
    return vectors.unflatten(0, (end - first, num_steps))


class _Sample(torch.autograd.Function):
    """The sums of a plan. torch's own gradient sorts the plan anew each time, which takes long."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, plan: Plan) -> Tensor:
        ctx.plan = plan
        return plan.anchors.of(table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.plan.steps.of(grad.contiguous()), None


# Cached tensors are made outside inference mode: training may use them after a validation.
@torch.inference_mode(False)
@torch.no_grad()
def plan(
    num_steps: int, max_duration: int, bins: int, block: tuple[int, int], device: torch.device
) -> Plan:
    """How a block of anchors of a video of so many steps, at least one, is sampled.

    The borders follow the official kernel: samples up to one step before the first step or after
    the last one take its value, those beyond are zero and not a value in between.
    """
    read = taps(max_duration, bins)
    duration = torch.arange(*block, dtype=torch.int32).repeat_interleave(num_steps)
    start = torch.arange(num_steps, dtype=torch.int32).repeat(block[1] - block[0])
    fits = start + duration < num_steps
    group = torch.where(fits, duration, max_duration)
    count = read.first.diff()[group]
    offset = count.cumsum(0, dtype=torch.int32) - count
    row = torch.arange(len(group), dtype=torch.int32).repeat_interleave(count)
    tap = torch.arange(len(row), dtype=torch.int32) + (read.first[group] - offset)[row]
    step = read.shift[tap] + torch.where(fits, start, 0)[row]
    weight = read.exact[tap]
    weight += torch.where(step == num_steps, 0.0, read.low[tap])
    weight += torch.where(step == -1, 0.0, read.high[tap])
    weight.masked_fill_((step < -1) | (step > num_steps), 0.0)
    index = step.clamp_(0, num_steps - 1).mul_(bins).add_(read.bin[tap])
    del tap
    order = index.argsort(stable=True)
    rows = index.bincount(minlength=num_steps * bins)
    return Plan(
        Sums(index.to(device), weight.to(device), offset.to(device)),
        Sums(
            row[order].to(device),
            weight[order].to(device),
            (rows.cumsum(0) - rows).int().to(device),
        ),
    )


_kept_plan = lru_cache(maxsize=NUM_PLANS_KEPT)(plan)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
@torch.no_grad()
def taps(max_duration: int, bins: int) -> Taps:
    """The taps of all durations, in exact fractions: where a sample falls decides what it reads."""
    rows: list[tuple[float, ...]] = []
    first = [0]
    for duration in range(max_duration + 1):
        merged: dict[tuple[int, int], list[float]] = {}
        for bin, numerator, denominator, share in _samples(duration, max_duration, bins):
            step, rest = divmod(numerator, denominator)
            if not rest:
                merged.setdefault((step, bin), [0.0, 0.0, 0.0])[2] += share
                continue
            after = rest / denominator
            merged.setdefault((step, bin), [0.0, 0.0, 0.0])[0] += share * (1 - after)
            merged.setdefault((step + 1, bin), [0.0, 0.0, 0.0])[1] += share * after
        rows += [(*place, *weights) for place, weights in sorted(merged.items())]
        first.append(len(rows))
    shift, bin_, low, high, exact = torch.tensor(rows, dtype=torch.float64).unbind(1)
    return Taps(
        shift.int(),
        bin_.int(),
        low.float(),
        high.float(),
        exact.float(),
        torch.tensor(first, dtype=torch.int32),
    )


def _samples(duration: int, max_duration: int, bins: int) -> list[tuple[int, int, int, float]]:
    """Bin, place (numerator and denominator) and share of each sample of an anchor from 0 on."""
    length, start = 2 * duration + 1, -(duration + 1)  # of the region; the start in half steps
    if duration == max_duration:  # the group of anchors that do not fit
        length, start = 1, 0
    per_bin = -(-length // bins)
    denominator = 2 * bins * per_bin
    return [
        (
            bin,
            start * bins * per_bin + (2 * bin * per_bin + 2 * k + 1) * length,
            denominator,
            1 / per_bin,
        )
        for bin in range(bins)
        for k in range(per_bin)
    ]
