"""Batches divided by length hold every row once, cost least, and change no number."""

from itertools import product
from typing import Literal

import pytest
import torch

from tad_distill.distill.heads import Targets
from tad_distill.distill.heads.actionformer import ActionFormer, Config
from tad_distill.distill.ragged import Group, cheapest, groups, join, take


def cost(divided: list[Group], overhead: float) -> float:
    return sum(overhead + len(group.rows) * group.length for group in divided)


@pytest.mark.parametrize("overhead", [0.0, 3.0, 20.0, 1000.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_division_is_the_cheapest_of_all(seed: int, overhead: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 30, (5,), generator=generator).tolist()
    found = cheapest(lengths, overhead)
    assert sorted(row for group in found for row in group.rows) == list(range(5))
    for group in found:
        assert group.length == max(lengths[row] for row in group.rows)
    # By hand: every way of giving five rows to at most five groups.
    costs = []
    for choice in product(range(5), repeat=5):
        members = [[r for r in range(5) if choice[r] == g] for g in set(choice)]
        parts = [Group(tuple(rows), max(lengths[r] for r in rows)) for rows in members]
        costs.append(cost(parts, overhead))
    assert cost(found, overhead) == pytest.approx(min(costs))


def test_parts_of_a_batch_are_joined_in_its_order() -> None:
    batch = torch.arange(4 * 6 * 2.0).reshape(4, 6, 2) + 1
    divided = [Group((0, 3), 6), Group((1, 2), 4)]
    parts = [take(batch, group) for group in divided]
    assert torch.equal(parts[0], batch[[0, 3]]) and torch.equal(parts[1], batch[[1, 2], :4])
    joined = join(parts, divided, 6)
    assert torch.equal(joined[[0, 3]], batch[[0, 3]])
    assert torch.equal(joined[[1, 2], :4], batch[[1, 2], :4]) and not joined[[1, 2], 4:].any()
    assert take(batch, divided[1]).data_ptr() == batch[1].data_ptr()  # neighbours are not copied


def test_a_small_network_and_a_full_batch_stay_in_one_piece() -> None:
    mask = torch.arange(2000) < torch.tensor([[2000], [100]])
    assert len(groups(mask, 512)) == 2
    assert groups(mask, 64) == [Group((0, 1), 2000)]
    assert groups(torch.ones(2, 2000, dtype=torch.bool), 512) == [Group((0, 1), 2000)]
    assert groups(torch.ones(2, 0, dtype=torch.bool), 512) == [Group((0, 1), 0)]
    alone = groups(torch.zeros(2, 2000, dtype=torch.bool), 512)
    assert [group.length for group in alone] == [0]


def test_a_step_with_a_hole_before_it_is_not_cut_off() -> None:
    mask = torch.zeros(2, 400, dtype=torch.bool)
    mask[0], mask[1, 5], mask[1, 30] = True, True, True
    assert [group.length for group in groups(mask, 4096)] == [400, 31]


@pytest.mark.parametrize("neck", ["identity", "fpn"])
@pytest.mark.parametrize("lengths", [(300, 90, 280), (300, 0, 33)])
def test_dividing_a_batch_changes_neither_loss_nor_gradient(
    neck: Literal["identity", "fpn"], lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(
        embd_dim=32,
        num_heads=2,
        arch=(2, 1, 2),
        window=(5,),
        drop_path=0.0,
        neck=neck,
        positions="absolute",
        max_len=128,
    )
    torch.manual_seed(0)
    head = config.build(8, 3)
    assert isinstance(head, ActionFormer)
    for parameter in head.parameters():  # norms with a bias: padding is not zero
        torch.nn.init.normal_(parameter, std=0.3)
    mask = torch.arange(300) < torch.tensor(lengths).unsqueeze(1)
    feats = torch.randn(3, 300, 8) * mask.unsqueeze(-1)
    wanted = [Targets(torch.tensor([[2.0, 20.0 + i]]), torch.tensor([i])) for i in range(3)]
    seen = []
    for overhead in (0, 10**6):
        monkeypatch.setattr("tad_distill.distill.ragged.FIXED_STEPS", overhead)
        monkeypatch.setattr("tad_distill.distill.ragged.CALL_STEPS", 0)
        assert (len(groups(mask, 32)) > 1) == (overhead == 0)
        head.loss_normalizer.fill_(10.0)
        head.zero_grad()
        said = head.train()(feats, mask)
        terms = head.loss(said, wanted)
        torch.stack(list(terms.values())).sum().backward()
        gradients = [p.grad.clone() for p in head.parameters() if p.grad is not None]
        seen.append((said, terms, gradients))
    (said, terms, gradients), (other, other_terms, other_gradients) = seen
    assert torch.equal(said.mask, other.mask) and torch.equal(said.points, other.points)
    for one, two in ((said.logits, other.logits), (said.regression, other.regression)):
        torch.testing.assert_close(one[said.mask], two[said.mask], atol=1e-5, rtol=1e-5)
        assert one.isfinite().all()
    for name in terms:
        torch.testing.assert_close(terms[name], other_terms[name], atol=1e-5, rtol=1e-5)
    for first, second in zip(gradients, other_gradients, strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)
