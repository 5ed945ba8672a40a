"""The total loss: who learns from whom, and what must not matter."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tad_distill import config
from tad_distill.config import ConfigError
from tad_distill.data.batch import Batch, Sample, collate
from tad_distill.data.timeline import Timeline
from tad_distill.distill.fusions import local
from tad_distill.distill.heads import HeadConfig, Targets, actionformer
from tad_distill.distill.model import Detector, ModelConfig, build
from tad_distill.distill.objective import Objective, ObjectiveConfig
from tad_distill.distill.transfers import TransferConfig, feature, response

DIMS = {"net:rgb": 5, "net:tg": 3}
NUM_LABELS = 3
SINGLE = ModelConfig(streams=("net:rgb",), dim=8)
STUDENT = ModelConfig(kind="decomposed", appearance="net:rgb", motion="net:rgb", dim=8)
RANDOM = replace(STUDENT, noise=0.3, dropout=0.2)
TEACHER = ModelConfig(streams=("net:tg",), dim=6)
LESSONS = (response.Config(weight=2.0), feature.Config(weight=3.0))
EVERY = pytest.mark.parametrize("model", [SINGLE, STUDENT], ids=["single", "decomposed"])

SMALL_ACTIONFORMER = actionformer.Config(embd_dim=8, num_heads=2, arch=(1, 1, 2), window=(5,))
HEADS: dict[str, dict[str, HeadConfig]] = {"tiny": {}, "actionformer": {"head": SMALL_ACTIONFORMER}}


def detector(model: ModelConfig, head: HeadConfig, seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    return build(model, head, local.Config(), DIMS, NUM_LABELS)


Make = Callable[..., tuple[Detector, Objective]]


@pytest.fixture
def make(tiny_head: HeadConfig) -> Make:
    def made(
        model: ModelConfig,
        transfers: Sequence[TransferConfig] = LESSONS,
        weights: ObjectiveConfig | None = None,
        head: HeadConfig = tiny_head,
    ) -> tuple[Detector, Objective]:
        teacher = detector(TEACHER, head, seed=7) if transfers else None
        student = detector(model, head)
        return student, Objective(weights or ObjectiveConfig(), student, transfers, teacher)

    return made


def batch(
    lengths: tuple[int, ...] = (8, 6, 8),
    labelled: tuple[bool, ...] = (True, False, True),
    min_len: int = 1,
) -> Batch:
    samples = []
    for i, (length, known) in enumerate(zip(lengths, labelled, strict=True)):
        generator = torch.Generator().manual_seed(i)
        segments = torch.tensor([[1.0, 3.5], [4.0, 5.0]])[: i + 1]
        samples.append(
            Sample(
                video=f"v{i}",
                feats={s: torch.randn(length, d, generator=generator) for s, d in DIMS.items()},
                segments=segments if known else torch.zeros(0, 2),
                labels=(torch.arange(len(segments)) if known else torch.zeros(0)).long(),
                labelled=known,
                timeline=Timeline(fps=4, stride_frames=1, offset_frames=0),
            )
        )
    return collate(samples, min_len=min_len)


def losses(student: Detector, objective: Objective, data: Batch) -> dict[str, Tensor]:
    return objective(student(data.feats, data.mask), data)


def gradients(student: Detector, loss: Tensor) -> dict[str, Tensor]:
    names, weights = zip(*student.named_parameters(), strict=True)
    made = torch.autograd.grad(
        loss, weights, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return dict(zip(names, made, strict=True))


def moved(student: Detector, terms: dict[str, Tensor], prefix: str) -> set[str]:
    """The parts of the detector that the terms of a branch give any gradient."""
    loss = torch.stack([term for name, term in terms.items() if name.startswith(prefix)]).sum()
    return {n.partition(".")[0] for n, grad in gradients(student, loss).items() if grad.ne(0).any()}


def test_the_terms_are_named_by_branch(make: Make) -> None:
    detection = ["joint/cls", "joint/reg"]
    both = [*detection, "appearance/cls", "appearance/reg"]
    assert list(losses(*make(SINGLE, ()), batch())) == detection
    assert list(losses(*make(STUDENT, ()), batch())) == both
    assert list(losses(*make(SINGLE), batch())) == [*detection, "joint/response", "joint/feature"]
    assert list(losses(*make(STUDENT), batch())) == [*both, "motion/response", "motion/feature"]
    twice = [*LESSONS, feature.Config(target="input")]
    assert list(losses(*make(STUDENT, twice), batch()))[-2:] == [
        "motion/feature",
        "motion/feature2",
    ]


@EVERY
def test_detection_terms_are_the_heads_losses_on_the_labelled_videos(
    make: Make, model: ModelConfig
) -> None:
    student, objective = make(model, weights=ObjectiveConfig(joint=0.5, appearance=0.25))
    data = batch()
    terms = losses(student, objective, data)
    labelled = [0, 2]
    outputs = student({s: f[labelled] for s, f in data.feats.items()}, data.mask[labelled])
    targets = [Targets(data.segments[i], data.labels[i]) for i in labelled]
    expected = {"joint": (0.5, student.joint_head.loss(outputs.joint, targets))}
    if outputs.appearance is not None:
        assert student.branch_head is not None
        expected["appearance"] = (0.25, student.branch_head.loss(outputs.appearance, targets))
    for branch, (weight, by_head) in expected.items():
        for name, term in by_head.items():
            assert term > 0
            torch.testing.assert_close(terms[f"{branch}/{name}"], weight * term)


@EVERY
def test_distillation_terms_are_the_weighted_lessons_on_all_videos(
    make: Make, tiny_head: HeadConfig, model: ModelConfig
) -> None:
    student, objective = make(model, weights=ObjectiveConfig(distillation=0.5))
    data = batch()
    terms = losses(student, objective, data)
    teacher = detector(TEACHER, tiny_head, seed=7).eval()
    said, taught = student(data.feats, data.mask), teacher(data.feats, data.mask)
    learner = said.joint if said.motion is None else said.motion
    branch = "joint" if said.motion is None else "motion"

    focal = response.quality_focal(learner.logits, taught.joint.logits.sigmoid(), 2.0).sum(-1)
    score = taught.joint.logits.sigmoid().amax(-1)
    distance = (learner.regression - taught.joint.regression).abs().sum(-1)
    real = learner.mask
    wanted = (focal[real].sum() + 0.2 * (score * distance)[real].sum()) / score[real].sum()
    torch.testing.assert_close(terms[f"{branch}/response"], 0.5 * 2.0 * wanted)

    target = taught.feats["joint"][data.mask]
    target = (target - target.mean(0)) / target.std(0, correction=0)
    adapter = objective.get_submodule("transfers.feature.adapter")
    made = adapter(said.feats[branch][data.mask])
    wanted = (made - target).square().mean()
    torch.testing.assert_close(terms[f"{branch}/feature"], 0.5 * 3.0 * wanted)


def test_each_branch_learns_from_its_own_loss_and_from_the_joint_one(make: Make) -> None:
    student, objective = make(STUDENT)
    terms = losses(student, objective, batch())
    assert moved(student, terms, "appearance/") == {"appearance", "branch_head"}
    assert moved(student, terms, "motion/") == {"motion", "branch_head"}
    assert moved(student, terms, "joint/") == {"appearance", "motion", "fusion", "joint_head"}


def test_distillation_gives_the_appearance_branch_no_gradient(make: Make) -> None:
    student, objective = make(RANDOM)
    terms = losses(student, objective, batch())
    grads = gradients(student, terms["motion/response"] + terms["motion/feature"])
    assert all(g.eq(0).all() for name, g in grads.items() if name.startswith("appearance."))
    assert any(g.ne(0).any() for name, g in grads.items() if name.startswith("motion."))


@EVERY
def test_the_teacher_stays_as_it_is(make: Make, tiny_head: HeadConfig, model: ModelConfig) -> None:
    teacher = detector(replace(TEACHER, noise=0.5, dropout=0.5), tiny_head)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = detector(model, tiny_head)
    objective = Objective(ObjectiveConfig(), student, LESSONS, teacher)
    objective.train()
    assert not any(module.training for module in teacher.modules())
    optimizer = torch.optim.SGD([*student.parameters(), *objective.parameters()], lr=0.1)
    torch.stack([*losses(student, objective, batch()).values()]).sum().backward()
    optimizer.step()
    assert all(weight.grad is None for weight in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    held = [*objective.state_dict(), *dict(objective.named_parameters())]
    assert all(name.startswith("transfers.feature.") for name in held)


def test_the_teacher_follows_to_another_device_or_precision(make: Make) -> None:
    student, objective = make(STUDENT)
    student.double()
    objective.double()
    data = batch()
    data = replace(data, feats={stream: feats.double() for stream, feats in data.feats.items()})
    assert torch.stack([*losses(student, objective, data).values()]).isfinite().all()


def test_the_control_differs_from_the_student_in_the_lesson_alone(make: Make) -> None:
    """Same weights, noise, dropout, detection gradients; making the lessons draws nothing."""
    made, draws = [], []
    for transfers in (LESSONS, ()):
        student, objective = make(RANDOM, transfers)  # seeds, then makes the student last
        runs = []
        for _ in range(2):
            terms = losses(student, objective, batch())
            detection = [t for name, t in terms.items() if not name.startswith("motion/")]
            runs.append(gradients(student, torch.stack(detection).sum()))
        made.append((student.state_dict(), *runs))
        draws.append(torch.rand(3))
    for one, other in zip(*made, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(*draws)


@EVERY
@pytest.mark.parametrize("head", HEADS)
def test_padding_does_not_change_the_losses(make: Make, model: ModelConfig, head: str) -> None:
    student, objective = make(model, **HEADS[head])
    student.eval()
    objective.eval()
    terms, padded = (losses(student, objective, batch(min_len=n)) for n in (8, 19))
    assert terms.keys() == padded.keys() and all(term.isfinite() for term in terms.values())
    torch.testing.assert_close(padded, terms)


@EVERY
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("case", ["no labelled video", "no segment", "no real step"])
def test_empty_batches_are_finite_forward_and_backward(
    make: Make, model: ModelConfig, head: str, case: str
) -> None:
    student, objective = make(model, **HEADS[head])
    full = losses(student, objective, batch())
    data = batch()
    if case == "no labelled video":
        data = batch(labelled=(False, False, False))
    else:
        data.segments[:] = [segments[:0] for segments in data.segments]
        data.labels[:] = [labels[:0] for labels in data.labels]
    if case == "no real step":
        data = replace(data, mask=torch.zeros_like(data.mask))
    terms = losses(student, objective, data)
    assert terms.keys() == full.keys()
    torch.stack([*terms.values()]).sum().backward()
    weights = [*student.parameters(), *objective.parameters()]
    assert all(term.isfinite() for term in terms.values())
    assert all(w.grad is None or w.grad.isfinite().all() for w in weights)
    if case == "no labelled video":
        detection = [t for n, t in terms.items() if n.rpartition("/")[2] in ("cls", "reg")]
        assert all(term == 0 for term in detection)
        assert any(w.grad is not None and w.grad.ne(0).any() for w in student.parameters())


def test_a_batch_without_labels_leaves_the_loss_normaliser_alone(make: Make) -> None:
    student, objective = make(STUDENT, head=SMALL_ACTIONFORMER)
    buffers = {n: b for n, b in student.named_buffers() if n.endswith("loss_normalizer")}
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    losses(student, objective, batch(labelled=(False, False, False)))
    assert all(torch.equal(buffer, before[name]) for name, buffer in buffers.items())
    losses(student, objective, batch())
    assert all(not torch.equal(buffer, before[name]) for name, buffer in buffers.items())


def test_a_resumed_objective_goes_on_where_it_was(make: Make) -> None:
    student, objective = make(STUDENT)
    losses(student, objective, batch())
    _, resumed = make(STUDENT)
    resumed.load_state_dict(objective.state_dict())
    data = batch(lengths=(5, 8, 7))
    terms, again = losses(student, objective, data), losses(student, resumed, data)
    assert all(torch.equal(term, again[name]) for name, term in terms.items())


@EVERY
@pytest.mark.parametrize(
    "aim", [feature.Config(), feature.Config(target="input", standardise=False)], ids=str
)
def test_a_student_can_learn_its_lessons(
    make: Make, model: ModelConfig, aim: TransferConfig
) -> None:
    student, objective = make(
        model, (response.Config(), aim), ObjectiveConfig(joint=0.0, appearance=0.0)
    )
    optimizer = torch.optim.Adam([*student.parameters(), *objective.parameters()], lr=0.03)
    course = []
    for _ in range(60):
        terms = losses(student, objective, batch())
        optimizer.zero_grad()
        torch.stack([*terms.values()]).sum().backward()
        optimizer.step()
        course.append({name.partition("/")[2]: term.item() for name, term in terms.items()})
    assert course[-1]["response"] < 0.5 * course[0]["response"]
    assert course[-1]["feature"] < 0.5 * course[0]["feature"]


def test_weights_that_reward_mistakes_are_refused() -> None:
    with pytest.raises(ConfigError, match="objective: joint must not be negative, got -1"):
        config.build(ObjectiveConfig, {"joint": -1.0}, at="objective")
