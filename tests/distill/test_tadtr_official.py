"""The TadTR head against the official code's recorded run and published numbers."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tad_distill.console import UserError
from tad_distill.distill import official, set_loss
from tad_distill.distill.heads import Targets
from tad_distill.distill.heads.tadtr import Config, TadTR
from tad_distill.distill.matching import as_segments
from tad_distill.distill.set_loss import Goals, Sets
from tad_distill.evaluate.nms import NmsConfig, suppress

Golden = Mapping[str, NDArray[Any]]
LENGTHS = (64, 45)


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    """One run of the official code: inputs, weights, and everything that came out."""
    with np.load(shared / "golden/heads/tadtr.npz") as file:
        return {name: file[name] for name in file.files}


def recorded(golden: Golden, name: str) -> Tensor:
    return torch.from_numpy(golden[name])


@pytest.fixture
def golden_head(golden: Golden) -> TadTR:
    settings = json.loads(str(golden["config"]))
    config = Config(
        hidden_dim=settings["hidden_dim"],
        num_heads=settings["nheads"],
        num_points=settings["enc_n_points"],
        num_encoder_layers=settings["enc_layers"],
        num_decoder_layers=settings["dec_layers"],
        feedforward_dim=settings["dim_feedforward"],
        num_queries=settings["num_queries"],
        padding="official",
        actionness_target="batch",
    )
    head = config.build(settings["feature_dim"], 20).eval()
    official.load_official(head, official_state(golden), "golden")
    return head


def official_state(golden: Golden) -> dict[str, Tensor]:
    return {name[3:]: recorded(golden, name) for name in golden if name.startswith("sd/")}


def golden_batch(golden: Golden) -> tuple[Tensor, Tensor]:
    feats = torch.zeros(2, 64, 64)
    for video, length in enumerate(LENGTHS):
        feats[video, :length] = recorded(golden, f"in/feats_{video}").float().T
    mask = ~recorded(golden, "in/mask")
    assert torch.equal(mask.sum(1), torch.tensor(LENGTHS))
    return feats, mask


def golden_targets(golden: Golden) -> list[Targets]:
    """Centre and width as a share of the video, in its grid steps."""
    return [
        Targets(
            as_segments(recorded(golden, f"in/segments_cw_{video}")) * length - 0.5,
            recorded(golden, f"in/labels_{video}"),
        )
        for video, length in enumerate(LENGTHS)
    ]


def test_outputs_equal_the_official_ones(golden: Golden, golden_head: TadTR) -> None:
    levels = golden_head.encode(*golden_batch(golden))
    memory = recorded(golden, "mid/memory").transpose(1, 2)
    torch.testing.assert_close(levels[0][0], memory, atol=1e-5, rtol=1e-4)
    predictions = golden_head.predict(levels)
    found = {
        "pred_logits": predictions.logits,
        "pred_segments": predictions.regression,
        "pred_actionness": predictions.extra["actionness"].unsqueeze(-1),
    }
    for layer in range(2):
        found[f"aux{layer}_logits"] = predictions.extra["layer_logits"][:, layer]
        found[f"aux{layer}_segments"] = predictions.extra["layer_spans"][:, layer]
    for name, tensor in found.items():
        expected = recorded(golden, f"out/{name}")
        torch.testing.assert_close(tensor, expected, atol=1e-5, rtol=1e-4, msg=name)


def test_matching_and_each_loss_equal_the_official_ones(golden: Golden, golden_head: TadTR) -> None:
    predictions = golden_head(*golden_batch(golden))
    logits = torch.cat([predictions.extra["layer_logits"], predictions.logits.unsqueeze(1)], 1)
    spans = torch.cat([predictions.extra["layer_spans"], predictions.regression.unsqueeze(1)], 1)
    sets = Sets(logits, spans, predictions.mask)
    num = torch.tensor([4, 2])
    goal_spans, labels = torch.zeros(2, 4, 2), torch.zeros(2, 4, dtype=torch.int64)
    for video, count in enumerate(num.tolist()):
        goal_spans[video, :count] = recorded(golden, f"in/segments_cw_{video}")
        labels[video, :count] = recorded(golden, f"in/labels_{video}")
    goals = Goals(goal_spans, labels, num)
    matched = set_loss.match(sets, goals, golden_head.config.match)
    for video in range(2):
        queries, chosen = (recorded(golden, f"match/{k}_{video}") for k in ("query", "target"))
        assert torch.equal(matched.positive[video, -1].nonzero().squeeze(1), queries)
        assert torch.equal(matched.spans[video, -1, queries], goal_spans[video, chosen])
        found = matched.classes[video, -1, queries].argmax(-1)
        assert torch.equal(found, labels[video, chosen])
    terms = set_loss.official_loss(sets, matched, goals, set_loss.LossWeights(cls=1, reg=1, comp=1))
    names = {"cls": "loss_ce", "reg": "loss_segments", "comp": "loss_iou"}
    for ours, theirs in names.items():
        layers = [golden[f"loss/{theirs}{suffix}"].item() for suffix in ("_0", "_1", "")]
        assert terms[ours].tolist() == pytest.approx(layers, rel=1e-5)


def test_training_step_equals_the_official_one(golden: Golden, golden_head: TadTR) -> None:
    terms = golden_head.loss(golden_head(*golden_batch(golden)), golden_targets(golden))
    assert list(terms) == ["cls", "reg", "comp", "act", "aux"]
    weights = json.loads(str(golden["loss_weights"]))
    assert terms["act"].item() == pytest.approx(
        weights["loss_actionness"] * golden["loss/loss_actionness"].item(), rel=1e-5
    )
    total = torch.stack(list(terms.values())).sum()
    assert total.item() == pytest.approx(golden["loss/total_weighted"].item(), rel=1e-5)

    total.backward()
    gradients = [p.grad for p in golden_head.parameters() if p.grad is not None]
    norm = torch.stack([g.norm() for g in gradients]).norm().item()
    assert norm == pytest.approx(golden["grad_norm_total"].item(), rel=1e-4)
    with torch.no_grad():
        for parameter, gradient in zip(golden_head.parameters(), gradients, strict=True):
            parameter.copy_(gradient)  # so that gradients can be named as weights are
    named = official.to_official(golden_head)
    compared = 0
    for name, expected in golden.items():
        if name.startswith("grad/"):
            found = named[name.removeprefix("grad/")]
            torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-5, rtol=1e-3)
            compared += 1
    assert compared == 29


@pytest.mark.parametrize("fused", [True, False])
def test_detections_equal_the_official_ones(
    golden: Golden, golden_head: TadTR, fused: bool
) -> None:
    head = replace(golden_head.config, decode_actionness=fused).build(64, 20).eval()
    head.load_state_dict(golden_head.state_dict())
    for video, found in enumerate(head.decode(head(*golden_batch(golden)))):
        name = f"det_fuse{int(fused)}/{{}}_{video}"
        duration_s = golden["in/durations"][video].item()
        seconds = (found.segments + 0.5) / LENGTHS[video] * duration_s
        expected = recorded(golden, name.format("scores"))
        torch.testing.assert_close(found.scores, expected, atol=1e-6, rtol=1e-5)
        assert torch.equal(found.labels, recorded(golden, name.format("labels")))
        expected = recorded(golden, name.format("segments"))
        torch.testing.assert_close(seconds, expected, atol=1e-5, rtol=1e-4)


def test_hard_suppression_is_the_official_one(golden: Golden) -> None:
    """The official soft one divides by the better candidate's length instead of the union."""
    config = NmsConfig(
        method="hard", iou_threshold=0.4, min_score=0, multiclass=False, voting_threshold=0
    )
    for video in range(2):
        candidates = golden[f"nms_in_{video}"]
        segments, scores, labels = suppress(
            candidates[:, :2], candidates[:, 2], candidates[:, 3].astype(int), config
        )
        found = np.column_stack([segments, scores, labels])
        np.testing.assert_allclose(found, golden[f"nms_hard_0.4_{video}"], rtol=1e-6)


def test_the_official_state_goes_in_and_out_unchanged(golden: Golden, golden_head: TadTR) -> None:
    state = official_state(golden)
    back = official.to_official(golden_head)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_a_checkpoint_file_may_lack_or_hold_copies(
    golden: Golden, golden_head: TadTR, tmp_path: Path
) -> None:
    state = official_state(golden)
    copy = "transformer.decoder.segment_embed."
    assert sum(name.startswith(copy) for name in state) == 18
    without = {name: tensor for name, tensor in state.items() if not name.startswith(copy)}
    only = {n: t for n, t in state.items() if not n.startswith("segment_embed.")}
    for number, saved in enumerate((state, without, only)):
        file = tmp_path / f"{number}.pth"
        torch.save({"model": {f"module.{n}": t for n, t in saved.items()}, "epoch": 3}, file)
        head = golden_head.config.build(64, 20)
        official.load_official(head, official.read(file), str(file))
        back = official.to_official(head)
        assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_a_checkpoint_of_other_settings_is_refused(golden: Golden, golden_head: TadTR) -> None:
    state = official_state(golden)
    deeper = replace(golden_head.config, num_decoder_layers=4).build(64, 20)
    with pytest.raises(UserError, match=r"missing tensors: 30 .*head.num_decoder_layers"):
        official.load_official(deeper, state, "golden")
    wider = replace(golden_head.config, num_queries=13).build(64, 20)
    with pytest.raises(UserError, match=r"query_embed.weight: expected \(13, 64\), found"):
        official.load_official(wider, state, "golden")
    state["backbone.backbone.conv1.weight"] = torch.zeros(3)
    with pytest.raises(UserError, match="image backbone"):
        official.load_official(golden_head, state, "golden")


def test_the_official_recipe_has_the_official_size() -> None:
    with torch.device("meta"):
        head = Config().build(2048, 20)
    state = official.to_official(head)
    assert len(state) == 222
    assert sum(parameter.numel() for parameter in head.parameters()) == 8_661_594


# A small case whose weights and features come from formulas.


def fill(shape: torch.Size, rank: int, name: str) -> Tensor:
    count = math.prod(shape)
    values = torch.sin(0.37 * torch.arange(1, count + 1, dtype=torch.float64) + 0.11 * rank)
    if len(shape) >= 2:
        values = values / math.sqrt(math.prod(shape[1:]))
    elif name.endswith("weight"):
        values = 1 + 0.1 * values
    else:
        values = 0.1 * values
    return values.reshape(shape).float()


@pytest.fixture
def formula_head() -> TadTR:
    config = Config(
        hidden_dim=32,
        num_heads=4,
        num_encoder_layers=2,
        num_decoder_layers=2,
        feedforward_dim=48,
        num_queries=5,
        padding="official",
        actionness_target="batch",
    )
    head = config.build(2048, 20).eval()
    shapes = official.to_official(head)
    names = sorted(n for n in shapes if not n.startswith("transformer.decoder.segment_embed"))
    assert (len(names), sum(shapes[n].numel() for n in names)) == (106, 123_566)
    state = {name: fill(shapes[name].shape, rank, name) for rank, name in enumerate(names)}
    official.load_official(head, state, "formula")
    return head


def formula_batch() -> tuple[Tensor, Tensor]:
    count = torch.arange(1, 2 * 2048 * 24 + 1, dtype=torch.float64)
    feats = 0.5 * torch.sin((0.013 * count**2) % (2 * math.pi)).float()
    mask = torch.arange(24) < torch.tensor([[24], [18]])
    return feats.reshape(2, 2048, 24).transpose(1, 2) * mask.unsqueeze(-1), mask


def test_formula_weights_give_the_published_outputs(formula_head: TadTR) -> None:
    predictions = formula_head(*formula_batch())
    logits, spans = predictions.logits, predictions.regression
    assert logits.sum().item() == pytest.approx(29.2163, abs=2e-3)
    assert logits.abs().sum().item() == pytest.approx(221.2121, abs=2e-3)
    first = [1.91551, 2.44679, 1.77979, 0.24806]
    assert logits[0, 0, :4].tolist() == pytest.approx(first, abs=2e-4)
    assert spans.sum().item() == pytest.approx(10.6770, abs=2e-4)
    wanted = [[0.45943, 0.53264], [0.57118, 0.53722], [0.63354, 0.55075], [0.53694, 0.54395]]
    torch.testing.assert_close(spans[0, :4], torch.tensor(wanted), atol=2e-5, rtol=0)
    actionness = predictions.extra["actionness"]
    assert actionness.sum().item() == pytest.approx(5.66379, abs=2e-4)
    first = [0.56320, 0.56227, 0.56239, 0.56248]
    assert actionness[0, :4].tolist() == pytest.approx(first, abs=2e-5)
    assert predictions.extra["layer_logits"].sum().item() == pytest.approx(-9.6913, abs=2e-3)
    assert predictions.extra["layer_spans"].sum().item() == pytest.approx(10.4377, abs=2e-4)
    scores = formula_head.decode(predictions)[0]
    assert scores.scores[:4].tolist() == pytest.approx([0.5183, 0.5169, 0.5127, 0.5122], abs=1e-4)
    assert scores.labels[:2].tolist() == [1, 18]


@pytest.mark.parametrize(("target", "expected"), [("batch", 0.142168), ("video", 0.124190)])
def test_formula_weights_give_the_published_losses(
    formula_head: TadTR, target: Any, expected: float
) -> None:
    spans = [torch.tensor([[0.3, 0.2], [0.7, 0.3]]), torch.tensor([[0.5, 0.4]])]
    labels = [torch.tensor([3, 7]), torch.tensor([1])]
    targets = [
        Targets(as_segments(span) * length - 0.5, label)
        for span, label, length in zip(spans, labels, (24, 18), strict=True)
    ]
    head = replace(formula_head.config, actionness_target=target).build(2048, 20).eval()
    head.load_state_dict(formula_head.state_dict())
    terms = {k: v.item() for k, v in head.loss(head(*formula_batch()), targets).items()}
    assert terms["cls"] == pytest.approx(2 * 25.638933, rel=1e-5)
    assert terms["reg"] == pytest.approx(5 * 0.396170, rel=1e-5)
    assert terms["comp"] == pytest.approx(2 * 0.551234, rel=1e-5)
    assert terms["act"] == pytest.approx(4 * expected, rel=1e-4)
    aux = 2 * 17.558186 + 5 * 0.400921 + 2 * 0.566208
    assert terms["aux"] == pytest.approx(aux, rel=1e-5)
    if target == "batch":
        assert sum(terms.values()) == pytest.approx(93.18325, rel=1e-5)
