"""What the ActionFormer head guarantees beyond the official code."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tad_distill.distill.heads import Predictions, Targets
from tad_distill.distill.heads.actionformer import ActionFormer, Config
from tad_distill.distill.losses import PaperWeights

SMALL = Config(embd_dim=16, num_heads=2, arch=(2, 1, 3), window=(5,), drop_path=0.1)


def random_batch(lengths: list[int], dim: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return torch.randn(*mask.shape, dim, generator=generator) * mask.unsqueeze(-1), mask


def small_head(config: Config = SMALL, num_labels: int = 3) -> ActionFormer:
    """Not at its trivial start: padding shows only through biases that are not zero."""
    torch.manual_seed(0)
    head = config.build(8, num_labels)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return head


def real_scores(head: ActionFormer, feats: Tensor, mask: Tensor, video: int) -> Tensor:
    predictions = head(feats, mask)
    kept = predictions.mask[video]
    return torch.cat([predictions.logits[video], predictions.regression[video]], -1)[kept]


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "fpn": {"neck": "fpn"},
    "absolute": {"positions": "absolute", "max_len": 64},
    "relative": {"relative_positions": True},
    "full attention": {"window": (-1,), "positions": "absolute", "max_len": 64},
    "convolution": {"backbone": "convolution"},
    "all": {"neck": "fpn", "positions": "absolute", "max_len": 64, "relative_positions": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("num_steps", [1, 7, 8, 19, 300])
def test_padding_and_company_do_not_change_scores(num_steps: int, variant: str) -> None:
    head = small_head(replace(SMALL, **VARIANTS[variant])).eval()
    feats, mask = random_batch([num_steps, num_steps + 13, num_steps + 200])
    alone = real_scores(head, feats[:1, :num_steps], mask[:1, :num_steps], 0)
    assert len(alone) == sum(-(-num_steps // 2**level) for level in range(4))
    for end in (num_steps + 1, num_steps + 5, num_steps + 16, num_steps + 100):
        padded = real_scores(head, feats[:1, :end], mask[:1, :end], 0)
        torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-5)
    together = real_scores(head, feats, mask, 0)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_without_own_padding_the_last_scores_depend_on_what_follows() -> None:
    """The leak of the official code that the rule is for; else the test above proves nothing."""
    head = small_head(replace(SMALL, padding="official")).eval()
    feats, mask = random_batch([24, 64])
    alone = real_scores(head, feats[:1, :24], mask[:1, :24], 0)
    padded = real_scores(head, feats[:1], mask[:1], 0)
    assert (alone - padded).abs().max() > 1e-2


def test_what_stands_in_the_padding_does_not_matter() -> None:
    head = small_head().eval()
    feats, mask = random_batch([20, 33])
    dirty = torch.where(mask.unsqueeze(-1), feats, 7.0)
    torch.testing.assert_close(head(dirty, mask).logits, head(feats, mask).logits)


def test_official_padding_refuses_a_length_that_does_not_divide() -> None:
    head = small_head(replace(SMALL, padding="official"))
    with pytest.raises(ValueError, match="20 steps are not divisible by the last stride 8"):
        head(*random_batch([20]))


@pytest.mark.parametrize("kernel", [1, 5])
def test_levels_do_not_see_each_other_in_the_towers(kernel: int) -> None:
    head = small_head(replace(SMALL, head_kernel=kernel)).eval()
    levels = head.encode(*random_batch([20, 33]))
    together = head.predict(levels).logits
    alone = []
    for i, (feats, mask) in enumerate(levels):
        silent = [(torch.zeros_like(f) if j != i else feats, m) for j, (f, m) in enumerate(levels)]
        logits = head.predict(silent).logits.split([m.shape[1] for _, m in levels], 1)[i]
        alone.append(logits)
        assert not logits[~mask].any()
    torch.testing.assert_close(torch.cat(alone, 1), together)


def test_segments_are_points_moved_by_offsets_in_strides() -> None:
    head = small_head()
    predictions = head(*random_batch([20]))
    n = 32 + 16 + 3  # the fourth point of the third level: padded lengths are 32, 16, 8, 4
    assert predictions.points[n].tolist() == [12, 8, 16, 4]
    left, right = predictions.regression[0, n].tolist()
    expected = [12 - 4 * left, 12 + 4 * right]
    assert head.segments(predictions)[0, n].tolist() == pytest.approx(expected)


def predictions_by_hand(logits: Tensor, regression: Tensor, strides: list[float]) -> Predictions:
    time = torch.arange(len(strides), dtype=torch.float)
    rows = [(t, 0.0, 4.0, s) for t, s in zip(time.tolist(), strides, strict=True)]
    mask = torch.ones(1, len(strides), dtype=torch.bool)
    return Predictions(logits[None], regression[None], mask, torch.tensor(rows))


def test_decoding_takes_the_best_of_each_level_and_drops_the_short() -> None:
    config = replace(SMALL, decode_top_k=2, decode_min_score=0.3)
    head = config.build(8, 2)
    scores = torch.tensor([[0.9, 0.4], [0.8, 0.9], [0.2, 0.5], [0.6, 0.3]])
    regression = torch.tensor([[1.0, 1.0], [0.5, 0.5], [1.0, 1.0], [0.02, 0.02]])
    predictions = predictions_by_hand(scores.logit(), regression, [1.0, 1.0, 2.0, 1.0])
    (found,) = head.decode(predictions)
    # Level by level; of equal scores the earlier point first; the last point is 0.04 steps long.
    assert found.labels.tolist() == [0, 1, 1]
    assert found.scores.tolist() == pytest.approx([0.9, 0.9, 0.5])
    assert found.segments.tolist() == [[-1, 1], [0.5, 1.5], [0, 4]]
    predictions.mask[:] = False
    (nothing,) = head.decode(predictions)
    assert nothing.segments.shape == (0, 2) and len(nothing.scores) == len(nothing.labels) == 0


def test_equal_scores_are_decoded_by_point_then_label() -> None:
    head = replace(SMALL, decode_top_k=300).build(8, 2)
    predictions = predictions_by_hand(torch.zeros(200, 2), torch.ones(200, 2), [1.0] * 200)
    (found,) = head.decode(predictions)
    assert found.segments[:, 0].tolist() == [n // 2 - 1 for n in range(300)]
    assert found.labels.tolist() == [n % 2 for n in range(300)]


def test_a_label_without_example_is_unlearned_with_finite_gradients() -> None:
    head = small_head().train()
    finite_step(head, *random_batch([20, 13]), [some((3, 9)), some((2, 6))])
    assert head.classifier.out.bias is not None and head.classifier.out.bias.grad is not None
    assert (head.classifier.out.bias.grad[1:] > 0).all()


def finite_step(head: ActionFormer, feats: Tensor, mask: Tensor, targets: list[Targets]) -> None:
    head.zero_grad()
    terms = head.loss(head(feats, mask), targets)
    assert all(term.isfinite() for term in terms.values()), terms
    sum(terms.values(), torch.zeros(())).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def some(*segments: tuple[float, float]) -> Targets:
    return Targets(
        torch.tensor(segments).reshape(-1, 2), torch.zeros(len(segments), dtype=torch.long)
    )


@pytest.mark.parametrize("style", ["official", "paper"])
@pytest.mark.parametrize(
    "targets",
    [
        [some(), some()],
        [some((3, 9)), some()],
        [some((5, 5)), some((2.4, 2.4))],
        [some((2.1, 2.9)), some()],  # between two points: no positive
        [some((-50, 3), (10, 900)), some((-9, -3), (500, 600))],
        [some((3, 9), (3, 9), (3, 9)), some((0, 2))],
    ],
    ids=["none", "one video empty", "no length", "no point inside", "past the ends", "repeated"],
)
def test_hard_targets_give_finite_losses_and_gradients(style: Any, targets: list[Targets]) -> None:
    head = small_head(replace(SMALL, loss_style=style)).train()
    finite_step(head, *random_batch([20, 13]), targets)


@pytest.mark.parametrize("style", ["official", "paper"])
def test_a_batch_that_is_all_padding_gives_zero_loss(style: Any) -> None:
    head = small_head(replace(SMALL, loss_style=style)).train()
    feats, mask = random_batch([20, 13])
    finite_step(head, feats, torch.zeros_like(mask), [some((3, 9)), some()])
    terms = head.loss(head(feats, torch.zeros_like(mask)), [some((3, 9)), some()])
    assert all(term.item() == 0 for term in terms.values())
    assert head.loss_normalizer.item() == SMALL.loss_normalizer


def test_the_normalizer_moves_in_training_only_and_is_saved() -> None:
    head = small_head().train()
    predictions = head(*random_batch([20]))
    head.loss(predictions, [some()])
    assert head.loss_normalizer.item() == pytest.approx(90.1)  # no positive counts as one
    head.eval().loss(predictions, [some()])
    assert head.loss_normalizer.item() == pytest.approx(90.1)
    assert head.state_dict()["loss_normalizer"].item() == pytest.approx(90.1)


def test_a_masked_video_takes_no_part_in_the_loss() -> None:
    head = small_head().eval()
    feats, mask = random_batch([20, 13])
    predictions = head(feats, mask)
    predictions.mask[1] = False
    together = head.loss(predictions, [some((3, 9)), some((2, 6))])
    alone = head.loss(head(feats[:1], mask[:1]), [some((3, 9))])
    for name, term in alone.items():
        torch.testing.assert_close(together[name], term)


def test_paper_style_is_free_of_the_normalizer_and_weighs_its_terms() -> None:
    feats, mask = random_batch([20, 13])
    targets = [some((3, 9)), some((2, 6))]
    terms = []
    for scale in (1.0, 3.0):
        paper = PaperWeights(cls=scale, reg=scale, comp=scale)
        head = small_head(replace(SMALL, loss_style="paper", paper=paper)).train()
        terms.append(head.eval().loss(head(feats, mask), targets))
        assert head.loss_normalizer.item() == SMALL.loss_normalizer
    assert terms[0].keys() == {"cls", "reg", "comp"}
    for name, term in terms[0].items():
        torch.testing.assert_close(3 * term, terms[1][name])


def test_an_untrained_classifier_gives_the_prior() -> None:
    head = Config(embd_dim=16, arch=(2, 1, 3), prior_prob=0.05).build(8, 3)
    torch.nn.init.zeros_(head.classifier.out.weight)
    predictions = head(*random_batch([20]))
    scores = predictions.logits[predictions.mask].sigmoid()
    torch.testing.assert_close(scores, torch.full_like(scores, 0.05))


def test_training_works_after_a_validation_in_inference_mode() -> None:
    head = small_head().train()
    feats, mask = random_batch([531])  # a length that no other test has cached
    with torch.inference_mode():
        head(feats, mask)
    predictions = head(feats, mask)
    head.segments(predictions).sum().backward()
    finite_step(head, feats, mask, [some((3, 9))])


def test_half_precision_trains() -> None:
    head = small_head().train()
    feats, mask = random_batch([20, 13])
    with torch.autocast("cpu", torch.bfloat16):
        terms = head.loss(head(feats, mask), [some((3, 9)), some()])
    assert all(term.dtype == torch.float32 for term in terms.values())
    sum(terms.values(), torch.zeros(())).backward()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"window": (9, 9)}, "window: expected 1 or 6"),
        ({"ranges": ((0.0, 4.0),)}, "ranges: expected none or 6"),
        ({"num_heads": 7}, "embd_dim: 512 is not divisible"),
        ({"head_kernel": 2}, "odd"),
        ({"arch": (0, 2, 5)}, "arch"),
        ({"prior_prob": 1.0}, "prior_prob"),
        ({"drop_path": 1.0}, "drop_path"),
    ],
)
def test_impossible_settings_are_named(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**setting)


def test_default_ranges_double_and_end_open() -> None:
    expected = ((0, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 10000))
    assert Config().level_ranges == expected
