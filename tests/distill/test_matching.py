"""One-to-one matching against the cost written out and all permutations."""

from itertools import permutations

import pytest
import torch
from torch import Tensor

from tad_distill.distill.matching import (
    MatchWeights,
    as_segments,
    as_spans,
    match_predictions,
    match_targets,
)

WEIGHTS = MatchWeights()


def overlap(first: Tensor, second: Tensor) -> float:
    (c1, w1), (c2, w2) = first.tolist(), second.tolist()
    shared = max(0.0, min(c1 + w1 / 2, c2 + w2 / 2) - max(c1 - w1 / 2, c2 - w2 / 2))
    return shared / (w1 + w2 - shared)


def target_cost(logits: Tensor, span: Tensor, goal: Tensor, label: int) -> float:
    p = logits.sigmoid()[label]
    positive = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log()
    negative = 0.75 * p**2 * -(1 - p + 1e-8).log()
    distance = (span - goal).abs().sum()
    return float(6 * (positive - negative) + 5 * distance) - 2 * overlap(span, goal)


def made(*shape: int) -> tuple[Tensor, Tensor]:
    return 2 * torch.randn(*shape, 4), torch.rand(*shape, 2) * 0.6 + 0.1


def test_matching_is_the_cheapest_of_all() -> None:
    torch.manual_seed(0)
    logits, spans = made(2, 3, 5)
    goals, labels = torch.rand(2, 3, 2) * 0.5 + 0.2, torch.tensor([[0, 3, 3], [1, 2, 0]])
    num = torch.tensor([3, 2])
    found = match_targets(logits, spans, goals, labels, num, WEIGHTS)
    for video in range(2):
        count = int(num[video])
        for layer in range(3):
            cheapest = min(
                permutations(range(5), count),
                key=lambda queries, video=video, layer=layer: sum(  # type: ignore[misc]
                    target_cost(
                        logits[video, layer, query],
                        spans[video, layer, query],
                        goals[video, m],
                        int(labels[video, m]),
                    )
                    for m, query in enumerate(queries)
                ),
            )
            expected = [-1] * 5
            for m, query in enumerate(cheapest):
                expected[query] = m
            assert found[video, layer].tolist() == expected


def test_nothing_to_match_and_too_much() -> None:
    torch.manual_seed(0)
    logits, spans = made(2, 1, 3)
    goals, labels = torch.rand(2, 5, 2), torch.zeros(2, 5, dtype=torch.int64)
    found = match_targets(logits, spans, goals, labels, torch.tensor([0, 5]), WEIGHTS)
    assert found[0].tolist() == [[-1, -1, -1]]
    assert len(set(found[1, 0].tolist()) - {-1}) == 3


def test_numbers_that_are_none_are_left_to_the_trainer() -> None:
    logits, spans = made(1, 1, 3)
    logits[0, 0, 1] = torch.nan
    goals, labels = torch.rand(1, 2, 2), torch.zeros(1, 2, dtype=torch.int64)
    found = match_targets(logits, spans, goals, labels, torch.tensor([2]), WEIGHTS)
    assert sorted(found.flatten().tolist()) == [-1, 0, 1]


def test_the_same_predictions_in_another_order_find_themselves() -> None:
    torch.manual_seed(0)
    logits, spans = made(3, 8)
    orders = torch.stack([torch.randperm(8) for _ in range(3)])
    rows = torch.arange(3).unsqueeze(1)
    found = match_predictions((logits, logits[rows, orders]), (spans, spans[rows, orders]), WEIGHTS)
    assert torch.equal(torch.gather(orders, 1, found), torch.arange(8).expand(3, -1))


def test_predictions_are_matched_at_the_smallest_sum() -> None:
    torch.manual_seed(1)
    (student, ours), (teacher, theirs) = made(1, 5), made(1, 5)
    scores, taught = student.sigmoid(), teacher.sigmoid()

    def cost(order: tuple[int, ...]) -> float:
        total = 0.0
        for n, m in enumerate(order):
            total += 6 * float((scores[0, n] - taught[0, m]).abs().sum())
            total += 5 * float((ours[0, n] - theirs[0, m]).abs().sum())
            total -= 2 * overlap(ours[0, n], theirs[0, m])
        return total

    found = match_predictions((student, teacher), (ours, theirs), WEIGHTS)
    assert tuple(found[0].tolist()) == min(permutations(range(5)), key=cost)


def test_spans_are_segments_written_otherwise() -> None:
    spans = torch.tensor([[0.5, 0.2], [0.1, 0.6]])
    assert as_segments(spans).flatten().tolist() == pytest.approx([0.4, 0.6, -0.2, 0.4])
    torch.testing.assert_close(as_spans(as_segments(spans)), spans)
