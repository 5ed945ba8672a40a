"""What anchors have to learn, and what becomes of their scores, against loops."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from tad_distill.distill import anchors
from tad_distill.distill.anchor_decode import at_steps, best, peaks
from tad_distill.distill.anchor_losses import balanced_entropy, overlap_loss, overlap_weights
from tad_distill.distill.heads import Targets


def mask_of(*lengths: int) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)


def overlap_of(first: float, last: float, start: float, end: float) -> float:
    shared = max(0.0, min(last, end) - max(first, start))
    return shared / (last - first + end - start - shared)


def test_points_are_centre_start_end_and_length() -> None:
    found = anchors.points(3, 2, -0.5, torch.device("cpu"))
    assert found.tolist() == [
        [0.0, -0.5, 0.5, 1.0],
        [1.0, 0.5, 1.5, 1.0],
        [2.0, 1.5, 2.5, 1.0],
        [0.5, -0.5, 1.5, 2.0],
        [1.5, 0.5, 2.5, 2.0],
        [2.5, 1.5, 3.5, 2.0],
    ]


def test_anchors_are_valid_that_end_within_their_video() -> None:
    found = anchors.valid(mask_of(6, 3, 0), 4)
    for video, length in enumerate((6, 3, 0)):
        for duration, start in itertools.product(range(4), range(6)):
            assert found[video, duration, start] == (start + duration < length)
    assert anchors.lengths(mask_of(6, 3, 0)).tolist() == [6, 3, 0]


@pytest.mark.parametrize("offset", [0.0, -0.5])
@pytest.mark.parametrize("num_labels", [1, 3])
def test_the_overlap_is_the_largest_with_a_segment_of_the_label(
    offset: float, num_labels: int
) -> None:
    inside = anchors.valid(mask_of(10, 7), 5)
    segments = [[(1.2, 3.9, 0), (2.0, 4.5, 2), (6.0, 13.0, 0), (1.2, 3.9, 1)], [(-2.0, 1.5, 1)]]
    targets = [
        Targets(torch.tensor(s)[:, :2], torch.tensor([int(label) for *_, label in s]))
        for s in segments
    ]
    points = anchors.points(10, 5, offset, inside.device)
    goal = anchors.goal(points, inside, targets, num_labels=num_labels, slot=1.0, shift=0.25)
    expected = np.zeros((2, num_labels, 5, 10))
    for video, length in enumerate((10, 7)):
        for start, end, label in segments[video]:
            ends = np.clip([start + 0.25, end + 0.25], offset, offset + length)
            row = int(label) if num_labels > 1 else 0
            for duration, at in itertools.product(range(5), range(10)):
                if at + duration < length:
                    overlap = overlap_of(at + offset, at + offset + duration + 1, *ends)
                    there = expected[video, row, duration, at]
                    expected[video, row, duration, at] = max(there, overlap)
    np.testing.assert_allclose(goal.overlap, expected, atol=1e-6)


@pytest.mark.parametrize("slot", [1.0, 2.0])
def test_a_step_is_at_a_boundary_by_the_share_of_its_slot(slot: float) -> None:
    inside = anchors.valid(mask_of(9), 2)
    segments = torch.tensor([[1.3, 4.0], [1.9, 8.2], [20.0, 30.0]])
    targets = [Targets(segments, torch.zeros(3, dtype=torch.int64))]
    points = anchors.points(9, 2, 0.0, inside.device)
    goal = anchors.goal(points, inside, targets, num_labels=1, slot=slot)
    for found, boundaries in ((goal.start, segments[:, 0]), (goal.end, segments[:, 1])):
        for step in range(9):
            shares = [
                max(0.0, min(step + slot / 2, b + 1.5) - max(step - slot / 2, b - 1.5)) / slot
                for b in boundaries.tolist()
            ]
            assert found[0, step].item() == pytest.approx(max(shares), abs=1e-6)


def test_a_video_without_segments_has_nothing_to_find() -> None:
    inside = anchors.valid(mask_of(4, 0), 3)
    nothing = Targets(torch.empty(0, 2), torch.empty(0, dtype=torch.int64))
    points = anchors.points(4, 3, 0.0, inside.device)
    goal = anchors.goal(points, inside, [nothing, nothing], num_labels=2, slot=1.0)
    assert goal.overlap.shape == (2, 2, 3, 4)
    assert not goal.overlap.any() and not goal.start.any() and not goal.end.any()


def test_a_segment_of_no_length_overlaps_nothing() -> None:
    inside = anchors.valid(mask_of(4), 3)
    targets = [Targets(torch.tensor([[2.0, 2.0], [1.5, 1.5]]), torch.tensor([0, 0]))]
    points = anchors.points(4, 3, 0.0, inside.device)
    goal = anchors.goal(points, inside, targets, num_labels=1, slot=1.0)
    assert not goal.overlap.any() and goal.start.any()


def test_positives_and_negatives_weigh_the_same() -> None:
    """The mean cost of each, halved, whatever their numbers."""
    probs = torch.tensor([0.8, 0.3, 0.4, 0.1, 0.6])
    positive = torch.tensor([True, False, False, False, False])
    negative = torch.tensor([False, True, True, True, False])
    expected = -0.5 * (probs[0].log() + (1 - probs[1:4]).log().mean())
    assert balanced_entropy(probs, positive, negative).item() == pytest.approx(
        expected.item(), abs=1e-5
    )


@pytest.mark.parametrize("extra", [0.0, 10.0])
@pytest.mark.parametrize("chosen", ["none", "positive", "negative"])
def test_a_loss_without_positives_or_negatives_is_finite(chosen: str, extra: float) -> None:
    probs = torch.tensor([0.2, 0.9], requires_grad=True)
    every, none = torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    positive, negative = (every if chosen == name else none for name in ("positive", "negative"))
    loss = balanced_entropy(probs, positive, negative, extra)
    loss.backward()
    assert loss.isfinite() and (loss > 0) == (chosen != "none")
    assert probs.grad is not None and probs.grad.isfinite().all()


def test_others_are_drawn_to_the_number_of_the_good_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    overlap = torch.zeros(1, 40, 100)
    overlap[0, :10], overlap[0, 10:30], overlap[0, 30:35] = 0.8, 0.5, 0.1
    noise = torch.rand(2, 1, 40, 100, generator=generator)
    weight = overlap_weights(overlap, overlap >= 0, noise, whole_map=False)
    assert weight[0, :10].eq(1).all() and not weight[0, 35:].any()
    assert weight[0, 10:30].sum().item() == pytest.approx(1000, rel=0.1)  # of 2,000
    assert weight[0, 30:35].sum().item() == 500  # fewer than the 1,000 good ones: all


def test_without_good_anchors_the_overlap_is_not_learned() -> None:
    overlap = torch.full((1, 2, 3), 0.5)
    predicted = torch.full((1, 2, 3), 0.4, requires_grad=True)
    weight = overlap_weights(overlap, overlap > 0, torch.rand(2, 1, 2, 3), whole_map=True)
    loss = overlap_loss(predicted, overlap, weight)
    loss.backward()
    assert loss.item() == 0
    assert predicted.grad is not None and not predicted.grad.any()


def test_peaks_follow_the_official_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    for length in (1, 2, 3, 12):
        scores, mask = torch.rand(1, 12, generator=generator), mask_of(12, length)[1:]
        own = scores[0, :length].tolist()
        for at_end in (False, True):
            expected = [False] * 12
            expected[length - 1 if at_end else 0] = True
            for i in range(1, length - 1):
                peak = own[i] > own[i + 1] and own[i] > own[i - 1]
                expected[i] = peak or own[i] > 0.5 * max(own)
            assert peaks(scores, mask, at_end)[0].tolist() == expected


def test_scores_beyond_the_end_are_those_of_the_last_step() -> None:
    scores = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    found = at_steps(scores, torch.tensor([0, 1, 2, 3]), mask_of(3, 2))
    torch.testing.assert_close(found, torch.tensor([[0.1, 0.2, 0.3, 0.3], [0.4, 0.5, 0.5, 0.5]]))


def test_the_best_allowed_candidates_are_kept() -> None:
    scores = torch.tensor([[[0.5, 0.9], [0.9, 0.2], [0.99, 0.99], [0.1, 0.05]]])
    segments = torch.tensor([[0.0, 1], [1, 2], [2, 3], [0, 2]])
    allowed = torch.tensor([[True, True, False, True]])
    [found] = best(scores, segments, allowed, min_score=0.05, top_k=4)
    assert found.scores.tolist() == pytest.approx([0.9, 0.9, 0.5, 0.2])
    assert found.labels.tolist() == [1, 0, 0, 1]
    assert found.segments.tolist() == [[0, 1], [1, 2], [0, 1], [1, 2]]
    [none] = best(scores, segments, torch.zeros_like(allowed), min_score=0.0, top_k=4)
    assert none.segments.shape == (0, 2)
