"""Both lessons equal their equations written as loops, and see real steps only."""

import math

import pytest
import torch
from torch import Tensor

from tad_distill import config
from tad_distill.console import UsageError
from tad_distill.distill.heads import Predictions
from tad_distill.distill.transfers import (
    Lesson,
    Transfer,
    TransferConfig,
    Widths,
    feature,
    response,
)

WIDTHS = Widths(student=4, teacher=4, teacher_inputs=6)
KINDS = config.members("tad_distill.distill.transfers")
LENGTHS = (6, 3)


def predictions(generator: torch.Generator, mask: Tensor) -> Predictions:
    """Two levels of strides 1 and 2 on the grid of ``mask``, three labels."""
    num_steps = mask.shape[1]
    times = torch.cat([torch.arange(0, num_steps), torch.arange(0, num_steps, 2)]).float()
    strides = torch.cat([torch.ones(num_steps), torch.full(((num_steps + 1) // 2,), 2.0)])
    points = torch.stack([times, torch.zeros_like(times), times + 4, strides], dim=1)
    shape = (len(mask), len(points))
    return Predictions(
        logits=torch.randn(*shape, 3, generator=generator) * 2,
        regression=torch.rand(*shape, 2, generator=generator) * 3,
        mask=torch.cat([mask, mask[:, ::2]], dim=1),
        points=points,
    )


def segments(made: Predictions) -> Tensor:
    """Distances to the start and end, in strides, as segments."""
    times, strides = made.points[:, 0], made.points[:, 3]
    left, right = (made.regression * strides.unsqueeze(-1)).unbind(-1)
    return torch.stack([times - left, times + right], dim=-1)


def lesson(num_steps: int = 6, lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> Lesson:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(num_steps) < torch.tensor(lengths).unsqueeze(1)

    def feats(dim: int) -> Tensor:
        return torch.randn(len(lengths), num_steps, dim, generator=generator) * 3 + 1

    student, teacher = predictions(generator, mask), predictions(generator, mask)
    return Lesson(
        student=student,
        teacher=teacher,
        student_segments=segments(student),
        teacher_segments=segments(teacher),
        student_feats=feats(WIDTHS.student),
        teacher_feats=feats(WIDTHS.teacher),
        teacher_inputs=feats(WIDTHS.teacher_inputs),
        mask=mask,
    )


def make(kind: str, **settings: object) -> Transfer:
    torch.manual_seed(0)
    return config.build(TransferConfig, {"kind": kind, **settings}).build(WIDTHS)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("kind", KINDS)
def test_a_lesson_is_a_finite_scalar_that_the_student_can_follow(kind: str) -> None:
    taught = lesson()
    for tensor in (taught.student.logits, taught.student.regression, taught.student_feats):
        tensor.requires_grad_()
    taught.student_segments = segments(taught.student)
    loss = make(kind)(taught)
    loss.backward()
    assert loss.shape == () and loss.isfinite() and loss > 0
    grads = [taught.student.logits.grad, taught.student.regression.grad, taught.student_feats.grad]
    assert any(grad is not None and grad.ne(0).any() for grad in grads)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_steps", [0, 1, 6])
def test_a_batch_without_any_real_step_costs_nothing(kind: str, num_steps: int) -> None:
    empty = lesson(num_steps, (0, 0))
    empty.student_feats.requires_grad_()
    empty.student.logits.requires_grad_()
    empty.student_segments.requires_grad_()
    loss = make(kind)(empty)
    loss.backward()
    assert loss.item() == 0
    for tensor in (empty.student_feats, empty.student.logits, empty.student_segments):
        assert tensor.grad is None or tensor.grad.eq(0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_on_padding_does_not_matter(kind: str) -> None:
    clean, dirty = lesson(), lesson()
    for made in (dirty.student, dirty.teacher):
        made.logits[~made.mask] = 1e3
        made.regression[~made.mask] = float("inf")
    for ends in (dirty.student_segments, dirty.teacher_segments):
        ends[~dirty.student.mask] = float("nan")
    for feats in (dirty.student_feats, dirty.teacher_feats, dirty.teacher_inputs):
        feats[~dirty.mask] = 1e3
    assert torch.equal(make(kind)(clean), make(kind)(dirty))


@pytest.mark.parametrize("focal", ["quality", "alpha"])
@pytest.mark.parametrize("normalise", ["all", "teacher_mass"])
@torch.no_grad()
def test_the_response_lesson_equals_equation_4_written_as_loops(focal: str, normalise: str) -> None:
    taught = lesson()
    settings = {"focal": focal, "normalise": normalise, "gamma": 1.5, "alpha": 0.3}
    loss = make("response", classification=2.0, regression=0.7, **settings)(taught)

    classification = regression = mass = 0.0
    for b, n in taught.student.mask.nonzero().tolist():
        scores = [sigmoid(float(x)) for x in taught.student.logits[b, n]]
        targets = [sigmoid(float(x)) for x in taught.teacher.logits[b, n]]
        for p, t in zip(scores, targets, strict=True):
            bce = -t * math.log(p) - (1 - t) * math.log(1 - p)
            if focal == "quality":
                classification += abs(p - t) ** 1.5 * bce
            else:
                agreement = p * t + (1 - p) * (1 - t)
                classification += (0.3 * t + 0.7 * (1 - t)) * (1 - agreement) ** 1.5 * bce
        weight = max(targets) if normalise == "teacher_mass" else 1.0
        ends = zip(taught.student.regression[b, n], taught.teacher.regression[b, n], strict=True)
        regression += weight * sum(abs(float(r) - float(s)) for r, s in ends)
        mass += weight
    assert mass > 1
    expected = (2.0 * classification + 0.7 * regression) / mass
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_quality_form_is_zero_with_zero_gradient_where_the_student_agrees() -> None:
    logits = torch.randn(5, 3, requires_grad=True, generator=torch.Generator().manual_seed(0))
    loss = response.quality_focal(logits, logits.detach().sigmoid(), gamma=2.0).sum()
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and logits.grad.eq(0).all()


def test_a_teacher_that_sees_nothing_weighs_little() -> None:
    blind = lesson()
    blind.teacher.logits.fill_(-9.0)
    seeing = lesson()
    regression_only = make("response", classification=0.0, regression=1.0)
    assert regression_only(blind) < 0.01 * regression_only(seeing)


def test_predictions_that_do_not_correspond_are_refused() -> None:
    fewer_labels, elsewhere = lesson(), lesson()
    fewer_labels.teacher.logits = fewer_labels.teacher.logits[..., :2]
    elsewhere.teacher.points = elsewhere.teacher.points + 0.5
    with pytest.raises(UsageError, match="9 predictions of 2 labels.*9 predictions of 3 labels"):
        make("response")(fewer_labels)
    with pytest.raises(UsageError, match="different times"):
        make("response")(elsewhere)


def test_the_teacher_may_have_other_regression_ranges() -> None:
    taught = lesson()
    taught.teacher.points = taught.teacher.points + torch.tensor([0.0, 1.0, 1.0, 0.0])
    assert torch.equal(make("response")(taught), make("response")(lesson()))


def test_predictions_without_points_correspond_by_their_order() -> None:
    matched = lesson()
    matched.student.points = matched.teacher.points = torch.zeros(0, 4)
    assert torch.equal(make("response")(matched), make("response")(lesson()))


@pytest.mark.parametrize("target", ["projection", "input"])
@torch.no_grad()
def test_the_feature_lesson_equals_equation_5_written_as_loops(target: str) -> None:
    taught = lesson()
    transfer = make("feature", target=target, standardise=False)
    loss = transfer(taught)
    wanted = taught.teacher_feats if target == "projection" else taught.teacher_inputs
    assert isinstance(transfer, feature.Feature)
    total, count = 0.0, 0
    for b, length in enumerate(LENGTHS):
        for t in range(length):
            made = transfer.adapter(taught.student_feats[b, t])
            for d in range(wanted.shape[-1]):
                total += (float(made[d]) - float(wanted[b, t, d])) ** 2 / wanted.shape[-1]
            count += 1
    assert loss.item() == pytest.approx(total / count, rel=1e-5)


def test_an_adapter_exists_only_where_widths_differ() -> None:
    assert not list(make("feature", target="projection").parameters())
    shapes = [tuple(p.shape) for p in make("feature", target="input").parameters()]
    assert shapes == [(WIDTHS.teacher_inputs, WIDTHS.student), (WIDTHS.teacher_inputs,)]


@torch.no_grad()
def test_running_statistics_are_those_of_all_real_steps_seen() -> None:
    standard = feature.RunningStandard(WIDTHS.teacher)
    seen = []
    for seed, lengths in enumerate([(6, 3), (0, 0), (1, 0), (5, 5)]):
        taught = lesson(6, lengths, seed)
        seen.append(taught.teacher_feats[taught.mask])
        standard(taught.teacher_feats, taught.mask)
    steps = torch.cat(seen)
    standard.eval()
    feats = torch.randn(1, 3, WIDTHS.teacher, generator=torch.Generator().manual_seed(9))
    expected = (feats - steps.mean(0)) / steps.std(0, correction=0)
    torch.testing.assert_close(standard(feats, torch.ones(1, 3, dtype=torch.bool)), expected)
    assert standard.count == len(steps)


@torch.no_grad()
def test_in_evaluation_the_statistics_rest_and_before_training_they_are_the_identity() -> None:
    standard = feature.RunningStandard(WIDTHS.teacher).eval()
    taught = lesson()
    assert torch.equal(standard(taught.teacher_feats, taught.mask), taught.teacher_feats)


@torch.no_grad()
def test_a_channel_that_never_varies_is_only_centred() -> None:
    taught = lesson()
    taught.teacher_feats[..., 1] = 7.0
    standardised = feature.RunningStandard(WIDTHS.teacher)(taught.teacher_feats, taught.mask)
    assert standardised[..., 1].eq(0).all()


@pytest.mark.parametrize("reach", [0, 1, 2, 40])
@torch.no_grad()
def test_the_relation_lesson_compares_cosines_of_all_pairs_in_reach(reach: int) -> None:
    taught = lesson()
    total, count = 0.0, 0
    for b, length in enumerate(LENGTHS):
        for t in range(length):
            for u in range(t + 1, length):
                if reach == 0 or u - t <= reach:
                    seen, said = (
                        torch.cosine_similarity(feats[b, t], feats[b, u], dim=0)
                        for feats in (taught.student_feats, taught.teacher_feats)
                    )
                    total += float(seen - said) ** 2
                    count += 1
    loss = make("relation", reach=reach, standardise=False)(taught)
    assert loss.item() == pytest.approx(total / count, rel=1e-5)


def test_the_relation_lesson_does_not_ask_for_the_teachers_basis() -> None:
    taught = lesson()
    turned, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(3)))
    taught.student_feats = taught.teacher_feats @ turned * 5
    assert make("relation", standardise=False)(taught).item() == pytest.approx(0, abs=1e-12)
    assert make("feature", standardise=False)(taught) > 1


@torch.no_grad()
def test_the_localisation_lesson_weighs_overlap_by_the_teachers_score() -> None:
    taught = lesson()
    total = mass = 0.0
    for b, n in taught.student.mask.nonzero().tolist():
        score = max(sigmoid(float(x)) for x in taught.teacher.logits[b, n])
        if score < 0.7:
            continue
        (s, e), (u, v) = taught.student_segments[b, n], taught.teacher_segments[b, n]
        hull, shared = max(e, v) - min(s, u), max(0.0, min(e, v) - max(s, u))
        distance = 0.5 * (s + e - u - v)
        total += score * float(1 - shared / (e - s + v - u - shared) + (distance / hull) ** 2)
        mass += score
    assert 1 < mass < taught.student.mask.sum()
    loss = make("localisation", min_score=0.7)(taught)
    assert loss.item() == pytest.approx(total / mass, rel=1e-5)


def test_equal_segments_cost_nothing() -> None:
    taught = lesson()
    taught.student_segments = taught.teacher_segments.clone().requires_grad_()
    loss = make("localisation")(taught)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert taught.student_segments.grad is not None
    assert taught.student_segments.grad.isfinite().all()
