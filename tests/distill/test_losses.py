"""Losses against published numbers, closed forms and plain loops."""

import math

import pytest
import torch

from tad_distill.distill import losses


def log_odds(p: float) -> float:
    return math.log(p / (1 - p))


def test_balanced_focal_gives_the_official_numbers() -> None:
    logits = torch.tensor([[0.0, 2.0], [-1.0, 0.5]])
    targets = torch.tensor([[1.0, 0.0], [0.3, 1.0]])
    expected = torch.tensor([[0.0433217, 1.2375586], [0.0611245, 0.0168934]])
    torch.testing.assert_close(losses.balanced_focal(logits, targets), expected, atol=1e-6, rtol=0)


def test_focal_is_the_discounted_cross_entropy() -> None:
    logits = torch.tensor([log_odds(0.8), log_odds(0.8)])
    expected = torch.tensor([-(0.2**2) * math.log(0.8), -(0.8**2) * math.log(0.2)])
    torch.testing.assert_close(losses.focal(logits, torch.tensor([1.0, 0.0])), expected)


def test_focal_without_discount_is_the_cross_entropy() -> None:
    logits, targets = torch.randn(20), torch.rand(20)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, targets, reduction="none"
    )
    torch.testing.assert_close(losses.focal(logits, targets, gamma=0.0), entropy)


def test_focal_is_finite_for_extreme_scores() -> None:
    logits = torch.tensor([-200.0, 200.0, -200.0, 200.0], requires_grad=True)
    cost = losses.focal(logits, torch.tensor([0.0, 1.0, 1.0, 0.0]))
    cost.sum().backward()
    assert cost.isfinite().all()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_smoothing_keeps_the_sum_between_the_labels_and_the_prior() -> None:
    smoothed = losses.smooth_labels(torch.tensor([1.0, 0.0, 0.0]), 0.1)
    torch.testing.assert_close(smoothed, torch.tensor([0.925, 0.025, 0.025]))


@pytest.mark.parametrize(
    ("offsets", "targets", "iou_loss", "diou"),
    [((1, 2), (2, 2), 0.25, 0.265625), ((0, 3), (1, 0.5), 0.875, 1.0664063)],
)
def test_iou_losses_give_the_official_numbers(
    offsets: tuple[float, float], targets: tuple[float, float], iou_loss: float, diou: float
) -> None:
    found, wanted = (torch.tensor([[-left, right]]) for left, right in (offsets, targets))
    assert 1 - losses.iou(found, wanted).item() == pytest.approx(iou_loss, abs=1e-7)
    assert losses.diou(found, wanted).item() == pytest.approx(diou, abs=1e-7)


def test_segments_apart_have_no_iou_and_a_loss_that_grows_with_the_distance() -> None:
    segments = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    others = torch.tensor([[2.0, 3.0], [9.0, 10.0]])
    torch.testing.assert_close(losses.iou(segments, others), torch.zeros(2))
    expected = torch.tensor([1 + (2 / 3) ** 2, 1 + 0.9**2])
    torch.testing.assert_close(losses.diou(segments, others), expected)


@pytest.mark.parametrize("name", ["iou", "diou"])
def test_segments_without_length_give_finite_losses_and_gradients(name: str) -> None:
    segments = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 2.0]], requires_grad=True)
    targets = torch.tensor([[1.0, 1.0], [3.0, 3.0], [1.0, 1.0]])
    cost = getattr(losses, name)(segments, targets)
    cost.sum().backward()
    assert cost.isfinite().all()
    assert segments.grad is not None and segments.grad.isfinite().all()


def test_mean_over_nothing_is_zero_with_zero_gradients() -> None:
    values = torch.tensor([1.0, math.inf], requires_grad=True)
    mean = losses.mean_over(values, torch.zeros(2, dtype=torch.bool))
    mean.backward()
    assert mean.item() == 0
    assert values.grad is not None and values.grad.tolist() == [0, 0]


def test_paper_losses_equal_the_sums_of_their_equations() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 3, generator=generator)
    positive = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 1, 0, 0]]).bool()
    valid = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]).bool()
    classes = (torch.rand(2, 5, 3, generator=generator) > 0.5).float() * positive.unsqueeze(-1)
    values = torch.rand(2, 5, 2, generator=generator) * 3
    targets = torch.rand(2, 5, 2, generator=generator) * 3
    segments, goals = (
        torch.stack([-offsets[..., 0], offsets[..., 1]], -1) for offsets in (values, targets)
    )
    weights = losses.PaperWeights(alpha_pos=2.0, alpha_neg=0.5)

    pos_sum = neg_sum = reg_sum = comp_sum = 0.0
    for b in range(2):
        for n in range(5):
            if not valid[b, n]:
                continue
            cost = 0.0
            for k in range(3):
                p = 1 / (1 + math.exp(-logits[b, n, k].item()))
                p_t = p if classes[b, n, k] == 1 else 1 - p
                cost += -((1 - p_t) ** 2) * math.log(p_t)
            if not positive[b, n]:
                neg_sum += cost
                continue
            pos_sum += cost
            for d in (values[b, n] - targets[b, n]).abs().tolist():
                reg_sum += 0.5 * d * d if d < 1 else d - 0.5
            (left, right), (left2, right2) = values[b, n].tolist(), targets[b, n].tolist()
            shared = min(left, left2) + min(right, right2)
            comp_sum += 1 - shared / (left + right + left2 + right2 - shared)

    cls = losses.paper_cls(logits, classes, positive, valid, weights)
    assert cls.item() == pytest.approx(2.0 * pos_sum / 3 + 0.5 * neg_sum / 4, rel=1e-5)
    reg = losses.paper_reg(values, targets, positive)
    assert reg.item() == pytest.approx(reg_sum / 3, rel=1e-5)
    comp = losses.paper_comp(segments, goals, positive)
    assert comp.item() == pytest.approx(comp_sum / 3, rel=1e-5)
