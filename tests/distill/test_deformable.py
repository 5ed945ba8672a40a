"""Reads between steps against grid_sample, and the pooling of segments against a loop."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tad_distill.distill import deformable
from tad_distill.distill.deformable import DeformableAttention, pool_segments, sample


def sampled_by_grid(values: Tensor, times: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """The official way: a picture of one row, read by ``grid_sample``."""
    num_videos, num_steps, num_heads, dim = values.shape
    rows = (values * mask[:, :, None, None]).movedim(1, 3).flatten(0, 1).unsqueeze(2)
    along = (2 * (times + 0.5) / num_steps - 1).transpose(1, 2).flatten(0, 1)
    grid = torch.stack([along, torch.zeros_like(along)], -1)
    read = F.grid_sample(rows, grid, padding_mode="zeros", align_corners=False)
    mixed = (read * weights.transpose(1, 2).flatten(0, 1).unsqueeze(1)).sum(-1)
    return mixed.unflatten(0, (num_videos, num_heads)).movedim(3, 1)


@pytest.mark.parametrize("dense_up_to", [0, 256])
@pytest.mark.parametrize("num_steps", [1, 2, 9])
def test_reads_and_their_gradients_equal_grid_sample(
    dense_up_to: int, num_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deformable, "DENSE_UP_TO", dense_up_to)
    torch.manual_seed(0)
    mask = torch.arange(num_steps) < torch.tensor([[num_steps], [num_steps - 1], [0]])
    values = torch.randn(3, num_steps, 2, 4, requires_grad=True)
    times = (torch.rand(3, 5, 2, 3) * (num_steps + 4) - 2.5).requires_grad_()
    weights = torch.rand(3, 5, 2, 3, requires_grad=True)
    upstream = torch.randn(3, 5, 2, 4)
    results = []
    for read in (sample, sampled_by_grid):
        out = read(values, times, weights, mask)
        gradients = torch.autograd.grad(out, (values, times, weights), upstream)
        results.append((out, *gradients))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("dense_up_to", [0, 256])
def test_a_read_at_a_step_gives_the_step(dense_up_to: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deformable, "DENSE_UP_TO", dense_up_to)
    values = torch.arange(1.0, 6.0)[None, :, None, None]
    times = torch.tensor([0.0, 2.0, 4.0, 1.25, -0.5, 4.5, -1.0, 5.0])[None, :, None, None]
    mask = torch.ones(1, 5, dtype=torch.bool)
    found = sample(values, times, torch.ones_like(times), mask).flatten()
    assert found.tolist() == pytest.approx([1, 3, 5, 2.25, 0.5, 2.5, 0, 0])


@pytest.mark.parametrize("dense_up_to", [0, 256])
def test_what_is_not_a_number_is_no_address(
    dense_up_to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deformable, "DENSE_UP_TO", dense_up_to)
    times = torch.tensor([math.nan, math.inf, -math.inf, 1.0])[None, :, None, None]
    values, mask = torch.ones(1, 3, 1, 1), torch.ones(1, 3, dtype=torch.bool)
    found = sample(values, times, torch.ones_like(times), mask).flatten()
    assert found[:3].isnan().all() and found[3] == 1


def test_new_heads_look_ahead_nowhere_and_back() -> None:
    attention = DeformableAttention(16, num_heads=8, num_points=4)
    ahead = [1, 0, -1, 0, 1, 0, -1, 0]
    expected = [direction * reach for direction in ahead for reach in (1, 2, 3, 4)]
    assert attention.offsets.bias.tolist() == pytest.approx(expected, abs=1e-5)
    assert not attention.offsets.weight.any() and not attention.weights.weight.any()


def test_attention_scales_its_offsets_by_the_reach() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(8, num_heads=2, num_points=2)
    torch.nn.init.normal_(attention.offsets.weight)
    torch.nn.init.normal_(attention.weights.weight)
    query, source = torch.randn(1, 3, 8), torch.randn(1, 6, 8)
    mask, times = torch.ones(1, 6, dtype=torch.bool), torch.tensor([[1.0, 2.5, 4.0]])
    reach = torch.tensor([[0.5, 1.0, 2.0]])
    offsets = F.linear(query, attention.offsets.weight, attention.offsets.bias)
    weights = F.linear(query, attention.weights.weight, attention.weights.bias)
    value = attention.value(source)
    for given in (None, reach):
        found = attention(query, source, mask, times, given)
        for n in range(3):
            mixed = torch.zeros(8)
            for head in range(2):
                share = weights[0, n, 2 * head : 2 * head + 2].softmax(0)
                for point in range(2):
                    scale = 1.0 if given is None else given[0, n].item()
                    at = times[0, n] + offsets[0, n, 2 * head + point] * scale
                    for step in range(6):
                        near = (1 - (at - step).abs()).clamp(min=0) * share[point]
                        mixed[4 * head : 4 * head + 4] += (
                            near * value[0, step, 4 * head : 4 * head + 4]
                        )
            torch.testing.assert_close(found[0, n], attention.out(mixed), atol=1e-6, rtol=1e-5)


def pooled_by_loop(
    feats: Tensor, start: float, end: float, num_steps: int, num_bins: int
) -> Tensor:
    """One segment, as the official kernel reads it: one number after the other."""
    bins = torch.zeros(num_bins, feats.shape[1])
    length = max(end - start, 1.0)
    num_reads = math.ceil(length / num_bins)
    for r in range(num_bins):
        for k in range(num_reads):
            at = start + (r + (k + 0.5) / num_reads) * length / num_bins
            if num_steps == 0 or at < -1 or at > num_steps:
                continue
            at = max(at, 0.0)
            low = int(at)
            if low >= num_steps - 1:
                read = feats[num_steps - 1]
            else:
                read = feats[low] * (low + 1 - at) + feats[low + 1] * (at - low)
            bins[r] += read / num_reads
    return bins


@pytest.mark.parametrize("num_bins", [1, 4, 16])
@pytest.mark.parametrize("num_steps", [1, 2, 20])
def test_pooled_segments_equal_a_loop(num_bins: int, num_steps: int) -> None:
    torch.manual_seed(0)
    feats = torch.randn(3, num_steps, 5)
    lengths = torch.tensor([num_steps, num_steps - 1, 0])
    segments = (torch.rand(3, 7, 2) * num_steps).sort(-1).values
    segments[:, 0], segments[:, 1] = torch.tensor([0.0, num_steps]), float(num_steps)
    segments[:, 2] = num_steps / 3
    found = pool_segments(feats, segments, lengths.float(), num_bins)
    for video, length in enumerate(lengths.tolist()):
        for n, (start, end) in enumerate(segments[video].tolist()):
            expected = pooled_by_loop(feats[video], start, end, length, num_bins)
            torch.testing.assert_close(found[video, n], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("segment", "expected"),
    [
        ((-0.5, 9.5), [1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ((0.1, 0.9), [1.15, 1.25, 1.35, 1.45, 1.55, 1.65, 1.75, 1.85, 1.95, 2.05]),
    ],
)
def test_pooled_segments_equal_the_published_ones(
    segment: tuple[float, float], expected: list[float]
) -> None:
    feats = torch.arange(1.0, 11.0).reshape(1, 10, 1)
    found = pool_segments(feats, torch.tensor([[segment]]), torch.tensor([10.0]), 10)
    assert found.flatten().tolist() == pytest.approx(expected)


def test_gradients_reach_the_features_of_a_segment_alone() -> None:
    feats = torch.randn(1, 12, 3, requires_grad=True)
    segments = torch.tensor([[[4.0, 8.0]]], requires_grad=True)
    pool_segments(feats, segments, torch.tensor([12.0]), 4).sum().backward()
    assert feats.grad is not None and segments.grad is None
    touched = feats.grad.abs().sum((0, 2)) > 0
    assert touched.nonzero().flatten().tolist() == [4, 5, 6, 7, 8]
