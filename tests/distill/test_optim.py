"""The optimisation recipe against numbers of the official code and closed forms."""

import math
from typing import Literal

import pytest
import torch
from torch import nn

from tad_distill.distill.heads import tadtr
from tad_distill.distill.optim import (
    WeightAverage,
    learning_rate,
    make,
    parameter_groups,
    set_learning_rate,
    stepped_learning_rate,
)

# Made by ActionFormer's own scheduler (61ea7eb): base 1e-4, 5 steps of warm-up, 20 steps.
OFFICIAL_RATES = [
    0, 2.5e-5, 5e-5, 7.5e-5, 1e-4, 1e-4, 9.8907e-5, 9.5678e-5, 9.0452e-5, 8.3458e-5,
    7.5003e-5, 6.5454e-5, 5.5231e-5, 4.4779e-5, 3.4556e-5, 2.5008e-5, 1.6552e-5, 9.5582e-6,
    4.3323e-6, 1.1025e-6,
]  # fmt: skip


def test_learning_rates_equal_the_official_ones() -> None:
    rates = [learning_rate(k, base=1e-4, num_warmup=5, num_steps=20) for k in range(20)]
    assert rates == pytest.approx(OFFICIAL_RATES, rel=1e-4, abs=1e-12)


def test_stepped_rates_equal_torchs_scheduler() -> None:
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=2e-4)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [4, 7], gamma=0.1)
    for step in range(10):
        ours = stepped_learning_rate(step, base=2e-4, num_warmup=0, drops=[4, 7], factor=0.1)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    warm = [
        stepped_learning_rate(k, base=1.0, num_warmup=3, drops=[4], factor=0.5) for k in range(5)
    ]
    assert warm == [0, 0.5, 1, 1, 0.5]


def test_adam_decays_through_the_gradient_and_adamw_beside_it() -> None:
    moved = {}
    kinds: tuple[Literal["adam", "adamw"], ...] = ("adam", "adamw")
    for kind in kinds:
        weight = nn.Parameter(torch.full((1,), 2.0))
        optimizer = make(kind, [{"params": [weight], "weight_decay": 0.1}], lr=0.01)
        weight.grad = torch.zeros(1)
        optimizer.step()
        moved[kind] = 2.0 - weight.item()
    # Adam makes a full step of any gradient, AdamW takes lr * decay of the weight.
    assert moved == pytest.approx({"adam": 0.01, "adamw": 0.002}, rel=1e-3)


@pytest.mark.parametrize("num_warmup", [0, 1, 4])
def test_learning_rate_is_finite_for_the_shortest_runs(num_warmup: int) -> None:
    rates = [learning_rate(k, base=1.0, num_warmup=num_warmup, num_steps=4) for k in range(5)]
    assert all(0 <= rate <= 1 for rate in rates)
    assert rates[num_warmup] == pytest.approx(1.0)
    assert rates[4] == pytest.approx(1.0 if num_warmup == 4 else 1e-8)


class Banded(nn.Module):
    """A product that is none of torch's layers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3, 2))
        self.bias = nn.Parameter(torch.ones(2))


class Mixed(nn.Module):
    """One of each kind of parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.conv = nn.Conv1d(2, 2, 3)
        self.norm = nn.LayerNorm(2)
        self.attention = nn.MultiheadAttention(2, 1)
        self.banded = Banded()
        self.query = nn.Embedding(3, 2)
        self.gamma = nn.Parameter(torch.ones(1, 2, 1))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.tied = self.linear


def test_only_weights_of_products_decay() -> None:
    model = Mixed()
    decayed, free = parameter_groups([model], 0.05)
    names = {id(p): name for name, p in model.named_parameters()}
    assert decayed["weight_decay"] == 0.05 and free["weight_decay"] == 0.0
    assert {names[id(p)] for p in decayed["params"]} == {
        "linear.weight",
        "conv.weight",
        "banded.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    }
    assert {names[id(p)] for p in free["params"]} == {
        "linear.bias",
        "conv.bias",
        "norm.weight",
        "norm.bias",
        "attention.in_proj_bias",
        "attention.out_proj.bias",
        "banded.bias",
        "query.weight",
        "gamma",
    }


def test_each_parameter_is_taken_once_however_often_it_is_shared() -> None:
    model = Mixed()
    groups = parameter_groups([model, model.linear], 0.1)
    taken = [id(p) for group in groups for p in group["params"]]
    assert len(taken) == len(set(taken)) == len([p for p in model.parameters() if p.requires_grad])


def test_rate_reaches_every_group() -> None:
    optimizer = torch.optim.AdamW(parameter_groups([Mixed()], 0.1), lr=1.0)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_a_head_says_what_learns_more_slowly() -> None:
    config = tadtr.Config(hidden_dim=32, num_encoder_layers=1, num_decoder_layers=1, slow_lr=0.1)
    model = nn.ModuleList([nn.Linear(6, 6), config.build(6, 3)])
    optimizer = torch.optim.AdamW(parameter_groups([model], 0.05))
    set_learning_rate(optimizer, 2.0)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    names = {id(p): name for name, p in model.named_parameters()}
    assert rates.keys() == names.keys()
    slow = {names[key] for key, rate in rates.items() if rate == pytest.approx(0.2)}
    assert {name.rpartition(".")[0] for name in slow} == {
        "1.encoder.0.attention.offsets",
        "1.decoder.layers.0.attention.offsets",
        "1.decoder.reference",
    }
    assert all(rates[key] == 2.0 for key, name in names.items() if name not in slow)
    assert optimizer.param_groups[0]["lr"] == 2.0
    decays = {
        names[id(p)] for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]
    }
    assert slow & decays == {name for name in slow if name.endswith("weight")}


def test_average_follows_the_closed_form_and_buffers_are_copied() -> None:
    model = nn.BatchNorm1d(1)
    model.weight.data.fill_(0.0)
    average = WeightAverage(model, decay=0.9)
    assert model.num_batches_tracked is not None
    for _ in range(7):
        model.weight.data.fill_(1.0)
        model.num_batches_tracked.add_(1)
        average.update(model)
    assert average.state["weight"].item() == pytest.approx(1 - 0.9**7, rel=1e-6)
    assert average.state["num_batches_tracked"].item() == 7


def test_average_without_decay_is_the_last_weights_bit_for_bit() -> None:
    model = nn.Linear(3, 3)
    average = WeightAverage(model, decay=0.0)
    model.weight.data.mul_(math.pi)
    average.update(model)
    assert torch.equal(average.state["weight"], model.weight)


def test_average_of_a_shared_weight_stays_shared_in_value() -> None:
    model = Mixed()
    average = WeightAverage(model, decay=0.5)
    model.linear.weight.data.add_(1.0)
    average.update(model)
    assert torch.equal(average.state["linear.weight"], average.state["tied.weight"])
    assert torch.equal(average.state["linear.weight"], model.linear.weight - 0.5)
