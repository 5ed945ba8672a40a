"""Decomposition and every lesson work with every head in the folder."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from tad_distill import config
from tad_distill.data.batch import Batch, Sample, collate
from tad_distill.data.timeline import Timeline
from tad_distill.distill.fusions import FusionConfig
from tad_distill.distill.heads import HeadConfig
from tad_distill.distill.model import Decomposed, ModelConfig, build
from tad_distill.distill.objective import Objective, ObjectiveConfig
from tad_distill.distill.transfers import TransferConfig

HEADS = config.members("tad_distill.distill.heads")
FUSIONS = config.members("tad_distill.distill.fusions")
LESSONS = config.members("tad_distill.distill.transfers")
DIMS, NUM_LABELS = {"net:rgb": 6, "net:tg": 4}, 3
STUDENT = ModelConfig(kind="decomposed", appearance="net:rgb", motion="net:rgb", dim=8)
TEACHER = ModelConfig(streams=("net:tg",), dim=8)


def batch(labelled: tuple[bool, bool] = (True, True)) -> Batch:
    samples = []
    for video, (length, known) in enumerate(zip((16, 11), labelled, strict=True)):
        generator = torch.Generator().manual_seed(video)
        segments = torch.tensor([[2.0, 6.0], [7.0, 9.0]]) if known else torch.zeros(0, 2)
        samples.append(
            Sample(
                video=f"v{video}",
                feats={s: torch.randn(length, d, generator=generator) for s, d in DIMS.items()},
                segments=segments,
                labels=torch.arange(len(segments)),
                labelled=known,
                timeline=Timeline(fps=4, stride_frames=1, offset_frames=0),
            )
        )
    return collate(samples)


def student_of(
    head: HeadConfig, model: ModelConfig, fusion: str, lessons: list[str]
) -> tuple[Decomposed, Objective]:
    built = config.build(FusionConfig, {"kind": fusion})
    transfers = [config.build(TransferConfig, {"kind": lesson}) for lesson in lessons]
    torch.manual_seed(1)
    teacher = build(TEACHER, head, built, DIMS, NUM_LABELS)
    with torch.no_grad():  # a teacher that is sure of something
        for parameter in teacher.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape))
    torch.manual_seed(0)
    student = build(model, head, built, DIMS, NUM_LABELS)
    assert isinstance(student, Decomposed)
    return student.train(), Objective(ObjectiveConfig(), student, transfers, teacher).train()


def reached(student: Decomposed, loss: Tensor) -> set[str]:
    """The parts of the detector that a loss gives any gradient."""
    student.zero_grad()
    loss.backward(retain_graph=True)
    found = set()
    for name, parameter in student.named_parameters():
        if parameter.grad is not None and parameter.grad.any():
            assert parameter.grad.isfinite().all(), name
            found.add(name.partition(".")[0])
    return found


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("share", ["head", "classifier_regressor"])
def test_each_branch_learns_from_its_own_source(
    kind: str,
    share: Literal["head", "classifier_regressor"],
    small_head: Callable[[str], HeadConfig],
) -> None:
    model = replace(STUDENT, share=share)
    student, objective = student_of(small_head(kind), model, "local", LESSONS)
    data = batch()
    terms = objective(student(data.feats, data.mask), data)
    by_branch = {
        branch: torch.stack([t for name, t in terms.items() if name.startswith(branch)]).sum()
        for branch in ("appearance", "motion", "joint")
    }
    shared = {"branch_head"}
    encoder = {"motion_encoder"} if share == "classifier_regressor" else set()
    assert reached(student, by_branch["appearance"]) == {"appearance", *shared}
    assert reached(student, by_branch["motion"]) == {"motion", *shared, *encoder}
    assert {"appearance", "motion", "joint_head"} <= reached(student, by_branch["joint"])


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("lesson", LESSONS)
def test_every_lesson_can_be_learned_without_labels(
    kind: str, lesson: str, small_head: Callable[[str], HeadConfig]
) -> None:
    student, objective = student_of(small_head(kind), STUDENT, "concat", [lesson])
    optimizer = torch.optim.AdamW([*student.parameters(), *objective.parameters()], lr=1e-2)
    data = batch(labelled=(False, False))
    costs = []
    for _ in range(12):
        terms = objective(student(data.feats, data.mask), data)
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        costs.append(loss.item())
    if (lesson, kind) == ("localisation", "gtad"):
        assert costs == [0.0] * 12  # the anchors of both are the same
    else:
        assert sum(costs[-4:]) < sum(costs[:4])


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_feeds_every_head(
    kind: str, fusion: str, small_head: Callable[[str], HeadConfig]
) -> None:
    student, objective = student_of(small_head(kind), STUDENT, fusion, ["response"])
    data = batch()
    terms = objective(student(data.feats, data.mask), data)
    torch.stack(list(terms.values())).sum().backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    student.eval()
    found = student.joint_head.decode(student.detect(data.feats, data.mask))
    assert all(len(candidates.scores) > 0 for candidates in found)
