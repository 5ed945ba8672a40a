"""What the TadTR head promises beyond the official code: padding, empty cases, correspondence."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tad_distill.distill import losses
from tad_distill.distill.heads import Predictions, Targets
from tad_distill.distill.heads.tadtr import Config, TadTR
from tad_distill.distill.matching import as_segments, as_spans
from tad_distill.distill.transfers import Lesson, Widths, response

SMALL = Config(
    hidden_dim=16,
    num_heads=2,
    num_points=2,
    num_encoder_layers=2,
    num_decoder_layers=3,
    feedforward_dim=24,
    num_queries=6,
    norm_groups=4,
)
DIM, NUM_LABELS = 5, 3


def small_head(**settings: Any) -> TadTR:
    torch.manual_seed(0)
    head = replace(SMALL, **settings).build(DIM, NUM_LABELS)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return head.eval()


def video(num_steps: int, num_padded: int = 0, seed: int = 0) -> tuple[Tensor, Tensor]:
    feats = torch.randn(1, num_steps, DIM, generator=torch.Generator().manual_seed(seed))
    feats = torch.cat([feats, torch.zeros(1, num_padded, DIM)], 1)
    return feats, (torch.arange(num_steps + num_padded) < num_steps).unsqueeze(0)


def targets(*segments: tuple[float, float]) -> Targets:
    labels = torch.arange(len(segments)) % NUM_LABELS
    return Targets(torch.tensor(segments).reshape(-1, 2), labels)


def total(head: TadTR, predictions: Predictions, wanted: list[Targets]) -> Tensor:
    return torch.stack(list(head.loss(predictions, wanted).values())).sum()


def assert_same(found: Predictions, expected: Predictions) -> None:
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.regression, expected.regression, atol=1e-5, rtol=1e-4)
    for name, tensor in expected.extra.items():
        torch.testing.assert_close(found.extra[name], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_steps", [1, 2, 13])
@pytest.mark.parametrize("num_padded", [1, 20])
def test_padding_never_changes_what_is_said(num_steps: int, num_padded: int) -> None:
    head = small_head()
    assert_same(head(*video(num_steps, num_padded)), head(*video(num_steps)))


def test_unmasked_padding_is_part_of_the_video() -> None:
    head, (feats, mask) = small_head(padding="unmasked"), video(9, 4)
    masked = small_head()
    assert_same(head(feats, mask), masked(feats, torch.ones_like(mask)))
    assert not head(feats, torch.zeros_like(mask)).mask.any()


def test_segments_lie_on_the_steps_of_the_video() -> None:
    head = small_head()
    predictions = head(*video(8, 3))
    predictions.regression = torch.tensor([[[0.5, 1.0], [1 / 16, 1 / 8], [0.75, 0.5]]])
    expected = [[-0.5, 7.5], [-0.5, 0.5], [3.5, 7.5]]
    assert head.segments(predictions)[0].tolist() == expected


def test_scores_are_sorted_products_and_capped() -> None:
    head = small_head(decode_top_k=7)
    predictions = head(*video(12))
    products = predictions.logits[0].sigmoid() * predictions.extra["actionness"][0].unsqueeze(-1)
    [found] = head.decode(predictions)
    assert found.scores.tolist() == sorted(products.flatten().tolist(), reverse=True)[:7]
    segments = head.segments(predictions)[0]
    for score, label, segment in zip(found.scores, found.labels, found.segments, strict=True):
        assert any(
            torch.equal(segment, segments[n]) and products[n, label] == score for n in range(6)
        )


def test_a_video_of_padding_has_no_candidates_and_counts_for_nothing() -> None:
    head = small_head()
    (feats, mask), wanted = video(10), targets((1, 4), (5, 9))
    empty = torch.cat([feats, torch.zeros_like(feats)])
    both = torch.cat([mask, torch.zeros_like(mask)])
    predictions = head(empty, both)
    assert [len(found.scores) for found in head.decode(predictions)] == [18, 0]
    found = total(head, predictions, [wanted, targets((2, 3))])
    torch.testing.assert_close(found, total(head, head(feats, mask), [wanted]))


@pytest.mark.parametrize("style", ["official", "paper"])
@pytest.mark.parametrize(
    "wanted",
    [
        targets(),
        targets((3, 3)),
        targets((-4, 30)),
        targets(*((t, t + 1.5) for t in range(9))),  # more than there are queries
    ],
    ids=["none", "a point", "beyond the video", "too many"],
)
def test_odd_targets_give_finite_gradients(style: Any, wanted: Targets) -> None:
    head = small_head(loss_style=style).train()
    cost = total(head, head(*video(1 if len(wanted.labels) == 1 else 10)), [wanted])
    cost.backward()
    assert cost.isfinite()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_without_segments_every_score_and_actionness_shall_fall() -> None:
    head = small_head()
    predictions = head(*video(10))
    terms = head.loss(predictions, [targets()])
    focal = losses.balanced_focal(predictions.logits, torch.zeros_like(predictions.logits))
    assert terms["cls"].item() == pytest.approx(2 * focal.sum().item(), rel=1e-5)
    assert terms["act"].item() == pytest.approx(4 * predictions.extra["actionness"].mean().item())
    assert terms["reg"] == 0 and terms["comp"] == 0


def test_the_papers_loss_is_taken_over_matched_queries() -> None:
    head = small_head(loss_style="paper").requires_grad_(False)
    predictions, wanted = head(*video(10)), targets((1, 4), (5, 8))
    terms = head.loss(predictions, [wanted])
    goals = as_spans((wanted.segments + 0.5) / 10)
    best = min(
        ((a, b) for a in range(6) for b in range(6) if a != b),
        key=lambda pair: sum(
            float(cost)
            for m, n in enumerate(pair)
            for cost in [match_cost(predictions, n, goals[m], m)]
        ),
    )
    rows = list(best)
    classes = torch.zeros(1, 6, NUM_LABELS)
    classes[0, rows, [0, 1]] = 1
    positive = classes.any(-1)
    valid, weights = torch.ones_like(positive), losses.PaperWeights()
    expected = losses.paper_cls(predictions.logits, classes, positive, valid, weights)
    torch.testing.assert_close(terms["cls"], expected)
    spans = predictions.regression[0, rows]
    torch.testing.assert_close(terms["reg"], losses.smooth_l1(spans, goals).sum() / 2)
    gap = 1 - losses.iou(as_segments(spans), as_segments(goals))
    torch.testing.assert_close(terms["comp"], gap.mean())
    assert terms["aux"] > 0


def match_cost(predictions: Predictions, query: int, goal: Tensor, label: int) -> Tensor:
    p = predictions.logits[0, query, label].sigmoid()
    gain = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log() - 0.75 * p**2 * -(1 - p + 1e-8).log()
    span = predictions.regression[0, query]
    overlap = losses.iou(as_segments(span), as_segments(goal))
    return 6 * gain + 5 * (span - goal).abs().sum() - 2 * overlap


def test_segments_of_another_video_count_for_actionness_only_in_the_official_code() -> None:
    feats, mask = (torch.cat(pair) for pair in zip(video(10), video(10, seed=1), strict=True))
    wanted = [targets(), targets((1, 8))]
    costs = {}
    for target in ("video", "batch"):
        head = small_head(actionness_target=target)
        predictions = head(feats, mask)
        costs[target] = head.loss(predictions, wanted)["act"].item()
    overlap = losses.iou(head.segments(predictions), wanted[1].segments[0])
    gaps = (predictions.extra["actionness"] - overlap).abs()
    assert costs["batch"] == pytest.approx(4 * gaps.mean().item(), rel=1e-5)
    alone = predictions.extra["actionness"][0].mean() + gaps[1].mean()
    assert costs["video"] == pytest.approx(2 * alone.item(), rel=1e-5)


def shuffled(predictions: Predictions, orders: Tensor) -> Predictions:
    rows = torch.arange(len(orders)).unsqueeze(1)
    extra = dict(predictions.extra, actionness=predictions.extra["actionness"][rows, orders])
    for name in ("layer_logits", "layer_spans"):
        layers = [predictions.extra[name][:, i][rows, orders] for i in range(2)]
        extra[name] = torch.stack(layers, 1)
    return replace(
        predictions,
        logits=predictions.logits[rows, orders],
        regression=predictions.regression[rows, orders],
        extra=extra,
    )


def said_by(head: TadTR, seed: int) -> Predictions:
    feats, mask = (torch.cat(pair) for pair in zip(video(9, 2), video(11, seed=1), strict=True))
    torch.manual_seed(seed)
    return head(feats + 0.5 * torch.randn(feats.shape), mask)


def test_the_order_of_the_teachers_queries_changes_nothing() -> None:
    head, teacher_head = small_head(), small_head()
    for parameter in teacher_head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    student, teacher = said_by(head, 0), said_by(teacher_head, 1)
    orders = torch.stack([torch.randperm(6) for _ in range(2)])
    aligned = head.align(teacher, student)
    assert_same(head.align(shuffled(teacher, orders), student), aligned)
    assert sorted(aligned.logits[0, :, 0].tolist()) == sorted(teacher.logits[0, :, 0].tolist())

    lesson = response.Config().build(Widths(student=4, teacher=4, teacher_inputs=4))
    costs = [
        lesson(lesson_of(head, student, head.align(given, student)))
        for given in (teacher, shuffled(teacher, orders))
    ]
    torch.testing.assert_close(costs[0], costs[1])
    unaligned = lesson(lesson_of(head, student, shuffled(teacher, orders)))
    assert (unaligned - costs[0]).abs() > 1e-4 * costs[0]


def lesson_of(head: TadTR, student: Predictions, teacher: Predictions) -> Lesson:
    feats = torch.zeros(2, 11, 4)
    return Lesson(
        student=student,
        teacher=teacher,
        student_segments=head.segments(student),
        teacher_segments=head.segments(teacher),
        student_feats=feats,
        teacher_feats=feats,
        teacher_inputs=feats,
        mask=torch.ones(2, 11, dtype=torch.bool),
    )


def test_a_student_that_says_the_same_has_nothing_to_learn() -> None:
    head = small_head()
    student = said_by(head, 0)
    orders = torch.stack([torch.randperm(6) for _ in range(2)])
    assert_same(head.align(shuffled(student, orders), student), student)


def test_queries_may_correspond_by_position() -> None:
    head = small_head(correspondence="position")
    student, teacher = said_by(head, 0), said_by(head, 1)
    assert head.align(teacher, student) is teacher


def test_teachers_of_other_settings_are_left_to_the_transfers() -> None:
    head, other = small_head(), small_head(num_queries=9)
    student, teacher = said_by(head, 0), said_by(other, 0)
    assert head.align(teacher, student) is teacher


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 3}, "not divisible by num_heads=3"),
        ({"norm_groups": 5}, "not divisible by norm_groups=5"),
        ({"hidden_dim": 15, "num_heads": 3, "norm_groups": 5}, "even"),
        ({"num_queries": 0}, "num_queries: expected at least 1"),
        ({"dropout": 1.0}, "dropout"),
        ({"prior_prob": 0.0}, "prior_prob"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **settings)


def test_an_untrained_head_gives_the_prior_and_an_eighth_of_the_video() -> None:
    torch.manual_seed(0)
    head = SMALL.build(DIM, NUM_LABELS).eval()
    predictions = head(*video(20))
    bias = head.get_parameter("decoder.classifiers.2.bias")
    assert bias.sigmoid().tolist() == pytest.approx([0.01] * NUM_LABELS)
    widths = predictions.regression[..., 1]
    torch.testing.assert_close(widths, torch.full_like(widths, torch.tensor(-2.0).sigmoid().item()))
