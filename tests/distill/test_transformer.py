"""The transformer's parts against torch's own and the formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tad_distill.distill.transformer import (
    FeedForward,
    LayerSizes,
    QueryAttention,
    drop,
    encode_places,
    group_norm,
    relu_drop,
)


def test_queries_attend_as_in_torch() -> None:
    torch.manual_seed(0)
    sizes = LayerSizes(dim=8, num_heads=2, num_points=1, dim_hidden=8, dropout=0.3)
    ours, theirs = QueryAttention(sizes).eval(), nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        nn.init.normal_(ours.into.bias)
        nn.init.normal_(ours.out.bias)
        theirs.in_proj_weight.copy_(ours.into.weight)
        theirs.in_proj_bias.copy_(ours.into.bias)
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    asking, content = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    expected, _ = theirs(asking, asking, content)
    torch.testing.assert_close(ours(asking, content), expected)


def test_places_are_those_of_the_formula() -> None:
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [False] * 5])
    found = encode_places(mask, 6)
    for video, last in enumerate((5, 3, 0)):
        for step in range(5):
            angle = min(step + 1, last) / (last + 1e-6) * 2 * math.pi
            for c in range(6):
                at = angle / 10000 ** (2 * (c // 2) / 6)
                expected = math.sin(at) if c % 2 == 0 else math.cos(at)
                assert found[video, step, c].item() == pytest.approx(expected, abs=1e-5)


def test_published_places_are_found() -> None:
    found = encode_places(torch.arange(24) < torch.tensor([[24], [18]]), 32)
    assert found.sum().item() == pytest.approx(738.2925, abs=1e-2)
    first = [0.25882, 0.96593, 0.14669, 0.98918]
    assert found[0, 0, :4].tolist() == pytest.approx(first, abs=1e-5)


def test_group_norm_over_all_steps_is_torchs_own() -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(2, 6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    feats = torch.randn(3, 7, 6) * 3 + 1
    found = group_norm(feats, torch.ones(3, 7, dtype=torch.bool), norm)
    torch.testing.assert_close(found, norm(feats.transpose(1, 2)).transpose(1, 2))


def test_group_norm_does_not_see_what_is_not_counted() -> None:
    torch.manual_seed(0)
    norm, feats = nn.GroupNorm(2, 6), torch.randn(2, 7, 6)
    mask = torch.arange(7) < torch.tensor([[4], [0]])
    found = group_norm(feats, mask, norm)
    expected = norm(feats[:1, :4].transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(found[:1, :4], expected)
    assert found.isfinite().all()


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float) -> None:
    torch.manual_seed(0)
    dropped = drop(torch.ones(501, 401), share, training=True)
    count = dropped.numel()
    spread = math.sqrt(share * (1 - share) / count)
    assert (dropped == 0).float().mean().item() == pytest.approx(share, abs=4 * spread)
    assert dropped.max().item() == pytest.approx(1 / (1 - share))
    # Neighbours share a draw; they must not share their fate.
    both = ((dropped == 0)[:, 1:] & (dropped == 0)[:, :-1]).float().mean().item()
    assert both == pytest.approx(share**2, abs=6 * share / math.sqrt(count))


def test_dropout_does_nothing_outside_training_and_repeats_with_the_seed() -> None:
    feats = torch.randn(3, 5)
    assert drop(feats, 0.5, training=False) is feats
    assert drop(feats, 0.0, training=True) is feats
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(drop(torch.ones(64), 0.5, training=True))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("share", [0.0, 0.4])
@pytest.mark.parametrize("training", [True, False])
def test_relu_drop_is_relu_then_dropout_with_the_same_gradient(
    share: float, training: bool
) -> None:
    torch.manual_seed(0)
    feats, upstream = torch.randn(9, 31, requires_grad=True), torch.randn(9, 31)
    results = []
    for steps in (
        lambda: drop(F.relu(feats * 1.0), share, training),
        lambda: relu_drop(feats * 1.0, share, training),
    ):
        torch.manual_seed(1)
        out = steps()
        results.append((out, *torch.autograd.grad(out, feats, upstream)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_dropout_does_not_break_a_compiled_graph() -> None:
    sizes = LayerSizes(dim=4, num_heads=1, num_points=1, dim_hidden=6, dropout=0.5)
    compiled = torch.compile(FeedForward(sizes).train(), backend="eager", fullgraph=True)
    assert compiled(torch.randn(2, 3, 4)).shape == (2, 3, 4)
