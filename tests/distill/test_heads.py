"""The contract of the detection heads, held against every file in the folder."""

import importlib
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tad_distill import config
from tad_distill.distill.heads import Head, HeadConfig, Targets

HEADS = config.members("tad_distill.distill.heads")
DIM, NUM_LABELS = 6, 3


Build = Callable[[str], Head]


@pytest.fixture
def build(small_head: Callable[[str], HeadConfig]) -> Build:
    def built(kind: str) -> Head:
        torch.manual_seed(0)
        return small_head(kind).build(DIM, NUM_LABELS)

    return built


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(24) < torch.tensor([[24], [11]])
    return torch.randn(2, 24, DIM, generator=generator) * mask.unsqueeze(-1), mask


def targets(*segments: tuple[float, float]) -> Targets:
    labels = torch.arange(len(segments)) % NUM_LABELS
    return Targets(torch.tensor(segments).reshape(-1, 2), labels)


@pytest.mark.parametrize("kind", HEADS)
def test_settings_survive_being_saved(kind: str, small_head: Callable[[str], HeadConfig]) -> None:
    module = importlib.import_module(f"tad_distill.distill.heads.{kind}")
    for settings in (module.Config(), small_head(kind)):
        saved = json.loads(json.dumps(config.dump(settings)))
        assert config.build(HeadConfig, saved) == settings


@pytest.mark.parametrize("kind", HEADS)
def test_predictions_have_the_shapes_of_the_contract(kind: str, build: Build) -> None:
    head = build(kind).eval()
    predictions = head(*batch())
    num_predictions = predictions.logits.shape[1]
    assert head.num_labels == NUM_LABELS
    assert predictions.logits.shape == (2, num_predictions, NUM_LABELS)
    assert predictions.regression.shape[:2] == (2, num_predictions)
    assert predictions.mask.shape == (2, num_predictions) and predictions.mask.dtype == torch.bool
    assert predictions.points.shape in ((num_predictions, 4), (0, 4))
    assert head.segments(predictions).shape == (2, num_predictions, 2)


@pytest.mark.parametrize("kind", HEADS)
def test_forward_is_predict_of_encode(kind: str, build: Build) -> None:
    head = build(kind).eval()
    feats, mask = batch()
    levels = head.encode(feats, mask)
    for level, level_mask in levels:
        assert level.shape[:2] == level_mask.shape
    torch.testing.assert_close(head.predict(levels).logits, head(feats, mask).logits)


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_learns_a_batch(kind: str, build: Build) -> None:
    head = build(kind).train()
    wanted = [targets((3, 9), (12, 20)), targets((1, 6))]
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    costs = []
    for _ in range(25):
        terms = head.loss(head(*batch()), wanted)
        assert all(term.shape == () for term in terms.values())
        total = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        costs.append(total.item())
    assert costs[-1] < 0.5 * costs[0]


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("all_padding", [False, True])
def test_a_batch_without_segments_gives_finite_gradients(
    kind: str, build: Build, all_padding: bool
) -> None:
    head = build(kind).train()
    feats, mask = batch()
    terms = head.loss(head(feats, mask & (not all_padding)), [targets(), targets()])
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    assert total.isfinite()
    for name, parameter in head.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("kind", HEADS)
def test_candidates_are_ordered_segments_with_scores(kind: str, build: Build) -> None:
    head = build(kind).eval()
    decoded = head.decode(head(*batch()))
    assert len(decoded) == 2
    for found in decoded:
        assert len(found.segments) == len(found.scores) == len(found.labels) > 0
        assert ((found.scores > 0) & (found.scores < 1)).all()
        assert (found.segments[:, 1] >= found.segments[:, 0]).all()
        assert found.labels.dtype == torch.int64 and (found.labels < NUM_LABELS).all()
        assert not found.scores.requires_grad and found.scores.device.type == "cpu"


@pytest.mark.parametrize("kind", HEADS)
def test_a_saved_head_gives_the_same_predictions(kind: str, build: Build) -> None:
    head, other = build(kind).eval(), build(kind).eval()
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(*batch()).logits, head(*batch()).logits)
