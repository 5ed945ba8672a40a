"""Every fusion keeps the family's contract and equals its equation written as loops."""

import math

import pytest
import torch
from torch import Tensor

from tad_distill import config
from tad_distill.console import UsageError
from tad_distill.distill.attentive import Attentive
from tad_distill.distill.fusions import Fusion, FusionConfig, concat, local

DIM = 5
STEPWISE: list[dict[str, object]] = [
    {"kind": "concat"},
    {"kind": "local"},
    {"kind": "local", "pool": "mean", "residual": True},
]
ATTENTIVE = ["self_attention", "cross_attention", "difference_attention"]


def make(table: dict[str, object]) -> Fusion:
    torch.manual_seed(0)
    return config.build(FusionConfig, table).build(DIM)


def branches(
    num_steps: int = 7, lengths: tuple[int, ...] = (7, 4)
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(num_steps) < torch.tensor(lengths).unsqueeze(1)
    shape = (2, len(lengths), num_steps, DIM)
    appearance, motion = (torch.randn(shape, generator=generator) * mask.unsqueeze(-1)).unbind()
    return appearance, motion, mask


def test_every_file_of_the_folder_is_tested_here() -> None:
    assert set(config.members("tad_distill.distill.fusions")) == {
        *(table["kind"] for table in STEPWISE),
        *ATTENTIVE,
        "sum",
    }


@pytest.mark.parametrize("kind", config.members("tad_distill.distill.fusions"))
def test_the_output_has_the_promised_width_and_is_zero_where_not_real(kind: str) -> None:
    fusion = make({"kind": kind})
    appearance, motion, mask = branches()
    fused = fusion(appearance, motion, mask)
    assert fused.shape == (2, 7, fusion.dim_out)
    assert fused[~mask].eq(0).all()
    assert fused[mask].ne(0).any()


@pytest.mark.parametrize("kind", config.members("tad_distill.distill.fusions"))
def test_padding_does_not_change_the_output(kind: str) -> None:
    fusion = make({"kind": kind})
    appearance, motion, mask = branches()
    alone = fusion(appearance[1:, :4], motion[1:, :4], mask[1:, :4])
    filled = mask.unsqueeze(-1).expand_as(appearance)
    garbage = torch.where(filled, appearance, 1e3), torch.where(filled, motion, -1e3)
    for padded in ((appearance, motion), garbage):
        together = fusion(*padded, mask)
        torch.testing.assert_close(together[1:, :4], alone)


@pytest.mark.parametrize("kind", config.members("tad_distill.distill.fusions"))
@pytest.mark.parametrize("num_steps", [0, 1, 7])
def test_a_video_without_real_steps_is_finite_forward_and_backward(
    kind: str, num_steps: int
) -> None:
    fusion = make({"kind": kind})
    appearance, motion, mask = branches(num_steps, (0, 0))
    appearance.requires_grad_()
    fused = fusion(appearance, motion, mask)
    fused.square().sum().backward()
    assert fused.shape == (2, num_steps, fusion.dim_out)
    assert fused.isfinite().all()
    assert appearance.grad is not None and appearance.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in fusion.parameters())


@pytest.mark.parametrize("table", STEPWISE, ids=str)
def test_the_fusion_at_t_reads_the_reference_only_at_t(table: dict[str, object]) -> None:
    fusion = make(table)
    appearance, motion, mask = branches()
    for enhanced, which in ((slice(0, DIM), 1), (slice(DIM, 2 * DIM), 0)):
        for t in range(4):
            inputs = [appearance.clone().requires_grad_(), motion.clone().requires_grad_()]
            fused = fusion(*inputs, mask)[:, t, enhanced]
            (gradient,) = torch.autograd.grad(
                fused.square().sum(), inputs[which], allow_unused=True, materialize_grads=True
            )
            others = [u for u in range(7) if u != t]
            assert gradient[:, others].eq(0).all()
            if table["kind"] == "local":
                assert gradient[:, t].ne(0).any()


@pytest.mark.parametrize("pool", ["max", "mean"])
@pytest.mark.parametrize("residual", [False, True])
@torch.no_grad()
def test_the_local_fusion_equals_equation_6_written_as_loops(pool: str, residual: bool) -> None:
    fusion = make({"kind": "local", "pool": pool, "residual": residual})
    assert isinstance(fusion, local.Local)
    appearance, motion, mask = branches()
    fused = fusion(appearance, motion, mask)
    pairs = ((appearance, motion, fusion.appearance_gate), (motion, appearance, fusion.motion_gate))
    for half, (target, reference, gate) in enumerate(pairs):
        for b, num_real in enumerate((7, 4)):
            pooled = []
            for d in range(DIM):
                values = [float(target[b, t, d]) for t in range(num_real)]
                pooled.append(max(values) if pool == "max" else sum(values) / num_real)
            query = gate.query(torch.tensor(pooled))
            for t in range(num_real):
                key = gate.key(reference[b, t])
                for d in range(DIM):
                    a = 1 / (1 + math.exp(-float(query[d]) * float(key[d])))
                    expected = (a + residual) * float(target[b, t, d])
                    assert float(fused[b, t, half * DIM + d]) == pytest.approx(expected, abs=1e-6)


def test_concatenation_is_the_two_branches_side_by_side() -> None:
    appearance, motion, mask = branches()
    fused = concat.Config().build(DIM)(appearance, motion, mask)
    assert torch.equal(fused[..., :DIM], appearance)
    assert torch.equal(fused[..., DIM:], motion)


def test_the_sum_is_the_sum() -> None:
    appearance, motion, mask = branches()
    assert torch.equal(make({"kind": "sum"})(appearance, motion, mask), appearance + motion)


@pytest.mark.parametrize("kind", ATTENTIVE)
@pytest.mark.parametrize("num_heads", [1, 5])
@torch.no_grad()
def test_attention_over_time_equals_its_equation_written_as_loops(
    kind: str, num_heads: int
) -> None:
    fusion = make({"kind": kind, "num_heads": num_heads})
    assert isinstance(fusion, Attentive)
    appearance, motion, mask = branches()
    fused = fusion(appearance, motion, mask)
    pairs = (
        (appearance, motion, fusion.appearance_attention),
        (motion, appearance, fusion.motion_attention),
    )
    width = DIM // num_heads
    for half, (target, reference, attention) in enumerate(pairs):
        context = {
            "self_attention": target,
            "cross_attention": reference,
            "difference_attention": reference - target,
        }[kind]
        for b, num_real in enumerate((7, 4)):
            query = attention.query(target[b])
            key, value = attention.key(context[b]), attention.value(context[b])
            for t in range(num_real):
                found = torch.zeros(DIM)
                for first in range(0, DIM, width):
                    part = slice(first, first + width)
                    likes = [float(query[t, part] @ key[u, part]) for u in range(num_real)]
                    shares = [math.exp(like / math.sqrt(width)) for like in likes]
                    for u in range(num_real):
                        found[part] += shares[u] / sum(shares) * value[u, part]
                expected = target[b, t] + attention.proj(found)
                torch.testing.assert_close(fused[b, t, half * DIM : (half + 1) * DIM], expected)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(UsageError, match="num_heads: 2 does not divide model.dim, which is 5"):
        make({"kind": "cross_attention", "num_heads": 2})
    with pytest.raises(config.ConfigError, match="num_heads: expected at least 1, got 0"):
        make({"kind": "self_attention", "num_heads": 0})
