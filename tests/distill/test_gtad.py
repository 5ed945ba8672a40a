"""The G-TAD head in our setting: videos of any length, padding, labels, decoding."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tad_distill.config import ConfigError
from tad_distill.distill.heads import Predictions, Targets
from tad_distill.distill.heads.gtad import GTAD, Config

SMALL = Config(
    embd_dim=16,
    embd_groups=2,
    graph_width=16,
    graph_groups=4,
    align_dim=24,
    map_dim=16,
    max_duration=8,
    extra_positives=0.0,
)


def made(num_labels: int = 3, **settings: Any) -> GTAD:
    torch.manual_seed(0)
    return replace(SMALL, **settings).build(6, num_labels)


def batch(*lengths: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return torch.randn(*mask.shape, 6, generator=generator) * mask.unsqueeze(-1), mask


def targets(*segments: tuple[float, float]) -> Targets:
    labels = torch.arange(len(segments)) % 3
    return Targets(torch.tensor(segments).reshape(-1, 2), labels)


def as_map(values: Tensor, max_duration: int = 8) -> Tensor:
    return values.unflatten(1, (max_duration, -1))


@pytest.mark.parametrize("context", ["none", "last", "all"])
@pytest.mark.parametrize("length", [1, 2, 5, 11])
def test_padding_changes_nothing(context: str, length: int) -> None:
    """Longer and shorter than the longest anchor, down to one step."""
    head = made(context=context).eval()
    feats, mask = batch(14, length)
    together, alone = head(feats, mask), head(feats[1:, :length], mask[1:, :length])
    for name in ("logits", "regression", "mask"):
        found = as_map(getattr(together, name))[1, :, :length]
        expected = as_map(getattr(alone, name))[0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for name in ("start", "end"):
        found, expected = together.extra[name][1, :length], alone.extra[name][0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not as_map(together.mask)[1, :, length:].any()


def test_padding_changes_no_loss_and_no_gradient() -> None:
    head = made().train()
    feats, mask = batch(9)
    more_feats, more_mask = torch.cat([feats, feats], 1), torch.cat([mask, ~mask], 1)
    costs, gradients = [], []
    for given in ((feats, mask), (more_feats, more_mask)):
        head.zero_grad()
        # The IoU term draws other noise for another map: not compared.
        terms = head.loss(head(*given), [targets((2, 4), (6, 7))])
        costs.append(torch.stack([terms["cls"], terms["boundary"]]).sum())
        costs[-1].backward()
        gradients.append([p.grad.clone() for p in head.parameters() if p.grad is not None])
    torch.testing.assert_close(costs[0], costs[1])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_half_precision_learns_what_full_precision_learns() -> None:
    feats, mask = batch(30, 17)
    wanted = [targets((2, 8), (11, 13.5)), targets((4, 9))]
    costs = []
    for enabled in (False, True):
        head = made().train()
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            terms = head.loss(head(feats, mask), wanted)
        total = torch.stack(list(terms.values())).sum()
        total.backward()
        assert total.dtype == torch.float32
        assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
        costs.append(total.item())
    assert costs[0] == pytest.approx(costs[1], rel=0.01)


def test_official_padding_takes_padded_steps_for_real_ones() -> None:
    feats, mask = batch(12, 7)
    official = made(padding="official").eval()
    predictions = official(feats, mask)
    expected = made().eval()(feats, torch.ones_like(mask))
    assert torch.equal(predictions.mask, expected.mask)
    torch.testing.assert_close(predictions.logits, expected.logits)


@pytest.mark.parametrize("loss_style", ["official", "paper"])
@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("lengths", [(1, 1), (3, 0), (20, 4), (0, 0)])
@pytest.mark.parametrize("segments", [(), ((0.0, 1.0),), ((2.0, 2.0), (-3.0, 40.0))])
def test_gradients_are_finite(
    loss_style: str,
    num_labels: int,
    lengths: tuple[int, int],
    segments: tuple[tuple[float, float], ...],
) -> None:
    """One step, all padding, no segment, a segment without length and one beyond both ends."""
    head = made(num_labels, loss_style=loss_style).train()
    feats, mask = batch(20, *lengths)
    feats, mask = feats[1:], mask[1:]
    terms = head.loss(head(feats, mask), [targets(*segments), targets()])
    assert terms.keys() == {"cls", "reg", "boundary"}
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    assert total.isfinite()
    for name, parameter in head.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_a_masked_video_takes_no_part_in_the_loss() -> None:
    head = made().eval()
    predictions = head(*batch(12, 12))
    predictions.mask[1] = False
    torch.manual_seed(0)
    both = head.loss(predictions, [targets((2, 8)), targets((3, 9))])
    torch.manual_seed(0)
    other = head.loss(predictions, [targets((2, 8)), targets()])
    assert both["cls"] == other["cls"] and both["boundary"] == other["boundary"]


def test_the_loss_draws_from_the_run_s_random_numbers() -> None:
    """A resumed run sees the same terms."""
    head = made().train()
    predictions, wanted = head(*batch(30)), [targets((2, 8), (11, 13.5), (20, 26))]
    torch.manual_seed(3)
    first = head.loss(predictions, wanted)["reg"].item()
    second = head.loss(predictions, wanted)["reg"].item()
    torch.manual_seed(3)
    assert head.loss(predictions, wanted)["reg"].item() == first != second


def test_perfect_predictions_cost_nothing() -> None:
    """A segment of whole steps is an anchor: the one of IoU 1."""
    head = made(3, decode_to_end=True)
    predictions = head(*batch(10))
    wanted = Targets(torch.tensor([[2.0, 7.0]]), torch.tensor([1]))
    start, end = predictions.points[:, 1], predictions.points[:, 2]
    shared = (end.clamp(max=7) - start.clamp(min=2)).clamp(min=0)
    overlap = shared / (end - start + 5 - shared)
    logits = torch.full((1, 80, 3), -30.0)
    logits[0, :, 1][overlap > 0.9] = 30.0
    boundary = torch.full((2, 1, 10), -30.0)
    boundary[0, 0, 1:4], boundary[1, 0, 6:9] = 30.0, 30.0
    perfect = replace(
        predictions,
        logits=logits,
        regression=overlap[None, :, None],
        extra={"start": boundary[0], "end": boundary[1]},
    )
    terms = head.loss(perfect, [wanted])
    assert all(abs(term.item()) < 1e-4 for term in terms.values())
    [found] = head.decode(perfect)
    assert found.segments[0].tolist() == [2, 7]
    assert found.labels[0] == 1 and found.scores[0] == pytest.approx(1)


def scored(predictions: Predictions) -> dict[tuple[float, float], float]:
    """Anchors of the first video to the score of their first label, as the official loop does."""
    scores = predictions.logits[0, :, 0].sigmoid() * predictions.regression[0, :, 0]
    segments = predictions.points[:, 1:3].tolist()
    return {(s, e): score for (s, e), score in zip(segments, scores.tolist(), strict=True)}


def test_candidates_end_before_the_video_and_below_the_longest() -> None:
    head = made(1, decode_below_steps=6.0).eval()
    predictions = head(*batch(10))
    [found] = head.decode(predictions)
    expected = {k: v for k, v in scored(predictions).items() if k[1] < 10 and k[1] - k[0] < 6}
    assert len(found.scores) == len(expected)
    for segment, score in zip(found.segments.tolist(), found.scores.tolist(), strict=True):
        assert score == pytest.approx(expected[segment[0], segment[1]])
    to_end = replace(head.config, decode_to_end=True).build(6, 1)
    assert to_end.decode(predictions)[0].segments[:, 1].max() == 10


@pytest.mark.parametrize("offset", [0.0, -0.5])
def test_boundaries_filter_or_weigh_candidates(offset: float) -> None:
    predictions = made(1, anchor_offset=offset).eval()(*batch(6))
    start, end = torch.tensor([0.1, 0.9, 0.2, 0.8, 0.3, 0.1]), torch.full((6,), 0.5)
    predictions.extra = {"start": start.logit().unsqueeze(0), "end": end.logit().unsqueeze(0)}
    plain = {(s - offset, e - offset): v for (s, e), v in scored(predictions).items()}

    [weighed] = made(1, anchor_offset=offset, decode_boundaries="multiply").decode(predictions)
    for (first, last), score in zip(weighed.segments.tolist(), weighed.scores, strict=True):
        at = first - offset
        assert score.item() == pytest.approx(
            plain[at, last - offset] * start[int(at)].item() * 0.5, rel=1e-5
        )
    [kept] = made(1, anchor_offset=offset, decode_boundaries="filter").decode(predictions)
    # Starts: the first step, and peaks. Ends: above half the maximum, but not the first step.
    assert {s - offset for s, _ in kept.segments.tolist()} == {0, 1, 3}
    assert {e - offset for _, e in kept.segments.tolist()} == {1, 2, 3, 4, 5}
    scores = [plain[s - offset, e - offset] for s, e in kept.segments.tolist()]
    assert kept.scores.tolist() == pytest.approx(scores)


def test_a_video_of_padding_alone_has_no_candidate() -> None:
    head = made(decode_boundaries="filter").eval()
    feats, mask = batch(12, 0)
    full, empty = head.decode(head(feats, mask))
    assert len(full.scores) and empty.segments.shape == (0, 2)
    assert not head.decode(head(feats[:, :1], mask[:, :1]))[0].scores.numel()  # nothing ends inside


def test_features_that_the_groups_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"head\.embd_groups: 4 does not divide the 6 channels"):
        replace(SMALL, embd_groups=4).build(6, 3)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_duration", 0),
        ("bins", (16, 0)),
        ("map_kernel", 2),
        ("embd_groups", 5),
        ("positive_iou", 1.0),
        ("boundary_slot", 0.0),
    ],
)
def test_impossible_settings_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=setting):
        replace(SMALL, **{setting: value})
