"""What breaks the published code: every head stays finite, says nothing of padding, and learns."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tad_distill import config
from tad_distill.distill.heads import Head, HeadConfig, Predictions, Targets

HEADS = config.members("tad_distill.distill.heads")
STYLES = ["official", "paper"]
DIM, NUM_LABELS, NUM_STEPS = 6, 3, 24
Build = Callable[..., Head]


@pytest.fixture
def build(small_head: Callable[[str], HeadConfig]) -> Build:
    def built(kind: str, style: str, num_labels: int = NUM_LABELS) -> Head:
        torch.manual_seed(0)
        settings: Any = small_head(kind)
        head: Head = replace(settings, loss_style=style).build(DIM, num_labels)
        return head.train()

    return built


def batch(*lengths: int, num_steps: int = NUM_STEPS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(num_steps) < torch.tensor(lengths).unsqueeze(1)
    feats = torch.randn(len(lengths), num_steps, DIM, generator=generator)
    return feats * mask.unsqueeze(-1), mask


def targets(*rows: tuple[float, float, int]) -> Targets:
    segments = torch.tensor([row[:2] for row in rows]).reshape(-1, 2)
    return Targets(segments, torch.tensor([row[2] for row in rows], dtype=torch.int64))


def learn(head: Head, feats: Tensor, mask: Tensor, wanted: list[Targets]) -> Predictions:
    """One backward pass; loss, gradients and buffers have to be finite."""
    predictions = head(feats, mask)
    terms = head.loss(predictions, wanted)
    total = torch.stack(list(terms.values())).sum()
    head.zero_grad()
    total.backward()
    assert all(term.isfinite() for term in terms.values()), terms
    for name, parameter in head.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    assert all(buffer.isfinite().all() for buffer in head.buffers())
    return predictions


CASES = {
    "nothing annotated": [targets(), targets()],
    "beside the video": [targets((200.0, 220.0, 0)), targets((-90.0, -50.0, 1))],
    "of no length": [targets((5.0, 5.0, 0), (3.0, 9.0, 1)), targets((4.0, 4.0, 2))],
    "turned around": [targets((9.0, 5.0, 0)), targets((2.0, 6.0, 1))],
    "between two steps": [targets((5.3, 5.6, 0)), targets((3.1, 3.2, 1))],
    "longer than the video": [targets((-30.0, 90.0, 0)), targets((-0.5, 23.5, 1))],
    "the same twice": [
        targets((3.0, 9.0, 0), (3.0, 9.0, 0)),
        targets((3.0, 9.0, 0), (3.0, 9.0, 1)),
    ],
    "more than queries": [targets(*[(k / 2.0, k / 2.0 + 3, k % 3) for k in range(40)]), targets()],
    "in the padding": [targets((2.0, 6.0, 0)), targets((15.0, 20.0, 1))],
    "of one label only": [targets((2.0, 6.0, 1)), targets((3.0, 9.0, 1))],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", HEADS)
def test_segments_of_every_kind_give_finite_losses_and_gradients(
    kind: str, style: str, case: str, build: Build
) -> None:
    learn(build(kind, style), *batch(NUM_STEPS, 11), CASES[case])


@pytest.mark.parametrize("lengths", [(0, 0), (24, 0), (1, 24), (1, 1), (2, 3)])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", HEADS)
def test_videos_of_no_step_and_of_one_are_harmless(
    kind: str, style: str, lengths: tuple[int, int], build: Build
) -> None:
    head = build(kind, style)
    wanted = [targets((0.0, 2.0, 0)), targets((0.0, 1.0, 1))]
    learn(head, *batch(*lengths), wanted)
    with torch.inference_mode():
        found = head.eval().decode(head(*batch(*lengths)))
    for length, candidates in zip(lengths, found, strict=True):
        assert candidates.scores.isfinite().all() and candidates.segments.isfinite().all()
        if not length:
            assert not len(candidates.scores)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", HEADS)
def test_a_batch_may_be_a_step_long(kind: str, num_steps: int, build: Build) -> None:
    head = build(kind, "official")
    feats, mask = batch(num_steps, num_steps, num_steps=num_steps)
    predictions = learn(head, feats, mask, [targets((0.0, 1.0, 0)), targets()])
    assert predictions.mask.any(1).all()
    assert len(head.eval().decode(predictions)) == 2


@pytest.mark.parametrize("kind", HEADS)
def test_an_empty_video_changes_nothing_for_the_others(kind: str, build: Build) -> None:
    """Its predictions are masked, and it takes no part in the loss."""
    head = build(kind, "paper").eval()  # no dropout, no normaliser that remembers
    feats, mask = batch(NUM_STEPS, 0)
    both = head(feats, mask)
    alone = head(feats[:1], mask[:1])
    assert not both.mask[1].any()
    real = alone.mask[0]
    torch.testing.assert_close(both.logits[0, real], alone.logits[0, real], atol=1e-5, rtol=1e-5)
    wanted = targets((3.0, 9.0, 1))
    for seed in (0, 1):  # G-TAD draws what it compares
        torch.manual_seed(seed)
        one = head.loss(alone, [wanted])["cls"]
        torch.manual_seed(seed)
        two = head.loss(both, [wanted, targets()])["cls"]
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", HEADS)
def test_a_label_without_an_example_sinks_and_the_others_rise(
    kind: str, style: str, build: Build
) -> None:
    head = build(kind, style)
    feats, mask = batch(NUM_STEPS, 20)
    wanted = [targets((3.0, 9.0, 1), (12.0, 20.0, 1)), targets((1.0, 8.0, 1))]
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    for _ in range(40):
        learn(head, feats, mask, wanted)
        optimizer.step()
    with torch.inference_mode():
        said = head.eval()(feats, mask)
    best = said.logits[said.mask].sigmoid().amax(0)
    assert best[1] > 2 * best[[0, 2]].max()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", HEADS)
def test_a_single_label_is_enough(kind: str, style: str, build: Build) -> None:
    head = build(kind, style, num_labels=1)
    predictions = learn(head, *batch(NUM_STEPS, 11), [targets((3.0, 9.0, 0)), targets()])
    assert predictions.logits.shape[-1] == 1
    assert all((c.labels == 0).all() for c in head.eval().decode(predictions))


@pytest.mark.parametrize("kind", HEADS)
def test_features_of_extreme_size_stay_finite(kind: str, build: Build) -> None:
    head = build(kind, "official")
    feats, mask = batch(NUM_STEPS, 11)
    wanted = [targets((3.0, 9.0, 0)), targets((1.0, 5.0, 1))]
    for scale in (0.0, 1e-6, 1e4):
        learn(head, scale * feats, mask, wanted)
