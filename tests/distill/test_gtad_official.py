"""The G-TAD head against the official code's recorded run and published numbers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tad_distill.console import UserError
from tad_distill.distill import anchors, official
from tad_distill.distill.heads import Predictions, Targets
from tad_distill.distill.heads.gtad import GTAD, Config
from tad_distill.evaluate.nms import NmsConfig, suppress

Golden = Mapping[str, NDArray[Any]]
SKIP_FRAMES = 5  # of the recorded run: a grid step is five frames
# gtad_postprocess.py: no score is too low, labels come later.
SUPPRESSION = NmsConfig(sigma=0.46, min_score=0.0, multiclass=False, voting_threshold=0.0)


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    """One run of the official code: inputs, weights, and everything that came out."""
    with np.load(shared / "golden/heads/gtad_style1.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture
def golden_head(golden: Golden) -> GTAD:
    settings = json.loads(str(golden["config"]))
    config = Config(
        embd_dim=settings["h1"],
        map_dim=settings["h2"],
        align_dim=settings["h3"],
        max_duration=settings["max_duration"],
        overlap_shift=2 / SKIP_FRAMES,
    )
    head = config.build(settings["feat_dim"], 1)
    official.load_official(head, golden_state(golden), "golden")
    return head


def golden_state(golden: Golden) -> dict[str, Tensor]:
    return {k.removeprefix("sd/"): torch.from_numpy(v) for k, v in golden.items() if "sd/" in k[:3]}


def golden_batch(golden: Golden) -> tuple[Tensor, Tensor]:
    feats = torch.from_numpy(golden["in/feats"].astype(np.float32)).transpose(1, 2)
    return feats, torch.ones(feats.shape[:2], dtype=torch.bool)


def golden_targets(golden: Golden) -> list[Targets]:
    segments = [torch.from_numpy(golden[f"in/gt_frames_{i}"] / SKIP_FRAMES) for i in range(2)]
    return [Targets(s, torch.zeros(len(s), dtype=torch.int64)) for s in segments]


def as_map(predictions: Predictions, max_duration: int) -> Tensor:
    """The official ``(B, 2, D, T)``."""
    both = torch.cat([predictions.regression, predictions.logits.sigmoid()], -1)
    return both.unflatten(1, (max_duration, -1)).movedim(-1, 1)


def test_outputs_equal_the_official_ones(golden: Golden, golden_head: GTAD) -> None:
    levels = golden_head.eval().encode(*golden_batch(golden))
    for name, (level, _) in zip(("base", "gcnext"), levels, strict=False):
        expected = torch.from_numpy(golden[f"mid/{name}"]).transpose(1, 2)
        torch.testing.assert_close(level, expected, atol=5e-6, rtol=1e-5)
    predictions = golden_head.predict(levels)
    expected = torch.from_numpy(golden["out/iou_map"])
    torch.testing.assert_close(as_map(predictions, 16), expected, atol=5e-6, rtol=0)
    for name in ("start", "end"):
        expected = torch.from_numpy(golden[f"out/{name}"])
        torch.testing.assert_close(predictions.extra[name].sigmoid(), expected, atol=5e-6, rtol=0)
    real = torch.from_numpy(golden["tgt/mask"]).bool()
    assert torch.equal(predictions.mask[0].unflatten(0, (16, 32)), real)


def test_targets_equal_the_official_ones(golden: Golden) -> None:
    """The official origin of the IoU lies two frames before that of the boundaries."""
    inside = torch.from_numpy(golden["tgt/mask"]).bool().expand(2, 16, 32)
    goal = anchors.goal(
        anchors.points(32, 16, 0.0, inside.device),
        inside,
        golden_targets(golden),
        num_labels=1,
        slot=1.0,
        shift=2 / SKIP_FRAMES,
    )
    for name, found in (("start", goal.start), ("end", goal.end)):
        torch.testing.assert_close(
            found, torch.from_numpy(golden[f"tgt/{name}"]), atol=1e-6, rtol=0
        )
    expected = torch.from_numpy(golden["tgt/iou_map"]) * inside
    torch.testing.assert_close(goal.overlap.squeeze(1), expected, atol=1e-6, rtol=0)


def test_training_step_equals_the_official_one(
    golden: Golden, golden_head: GTAD, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the recorded noise and targets; one IoU is 0.7 to the last digit but one."""
    noise = torch.from_numpy(np.stack([golden["loss/rand_middle"], golden["loss/rand_low"]]))
    monkeypatch.setattr(torch, "rand", lambda *shape, device: noise)
    start, end, overlap = (
        torch.from_numpy(golden[f"tgt/{k}"]) for k in ("start", "end", "iou_map")
    )
    overlap = (overlap * torch.from_numpy(golden["tgt/mask"])).unsqueeze(1)
    monkeypatch.setattr(anchors, "goal", lambda *_, **__: anchors.Goal(overlap, start, end))
    head = golden_head.train()
    terms = head.loss(head(*golden_batch(golden)), golden_targets(golden))
    assert terms.keys() == {"cls", "reg", "boundary"}
    assert terms["reg"].item() == pytest.approx(golden["loss/reg"].item(), rel=1e-5)
    assert terms["cls"].item() == pytest.approx(10 * golden["loss/cls"].item(), rel=1e-5)
    assert terms["boundary"].item() == pytest.approx(golden["loss/node"].item(), rel=1e-5)

    total = sum(terms.values(), torch.zeros(()))
    assert total.item() == pytest.approx(golden["loss/total"].item(), rel=1e-5)
    total.backward()
    gradients = [p.grad for p in head.parameters() if p.grad is not None]
    norm = torch.stack([g.norm() for g in gradients]).norm().item()
    assert norm == pytest.approx(golden["grad_norm_total"].item(), rel=1e-4)
    with torch.no_grad():
        for parameter, gradient in zip(head.parameters(), gradients, strict=True):
            parameter.copy_(gradient)  # so that gradients can be named as weights are
    named = official.to_official(head)
    recorded = {k.removeprefix("grad/"): v for k, v in golden.items() if k.startswith("grad/")}
    assert len(recorded) == 10
    for name, array in recorded.items():
        torch.testing.assert_close(named[name], torch.from_numpy(array), atol=2e-5, rtol=1e-3)


def test_candidates_and_suppression_equal_the_official_ones(
    golden: Golden, golden_head: GTAD
) -> None:
    decoded = golden_head.eval().decode(golden_head(*golden_batch(golden)))
    for i, found in enumerate(decoded):
        start, end, *scores = golden[f"dec/xmin_xmax_clr_reg_{i}"].T
        score = scores[0] * scores[1]
        order = np.lexsort((start, -score))
        assert not found.labels.any()
        np.testing.assert_allclose(found.scores, score[order], atol=2e-6)
        expected = np.stack([start, end], 1)[order] / SKIP_FRAMES
        np.testing.assert_array_equal(found.segments, expected)
        segments, kept, _ = suppress(
            found.segments.numpy(), found.scores.numpy(), found.labels.numpy(), SUPPRESSION
        )
        wanted = golden[f"nms/xmin_xmax_score_{i}"]
        np.testing.assert_allclose(segments * SKIP_FRAMES, wanted[:, :2], atol=1e-3)
        np.testing.assert_allclose(kept, wanted[:, 2], atol=2e-6)


def test_suppression_gives_the_published_numbers() -> None:
    """Segments of 300 frames and more are no candidates (``decode_below_steps``)."""
    segments = np.array([[0, 50], [10, 60], [20, 340], [5, 45], [100, 140]], dtype=np.float32)
    scores = np.array([0.9, 0.8, 0.95, 0.7, 0.3])
    short = segments[:, 1] - segments[:, 0] < 300
    kept, found, _ = suppress(
        segments[short], scores[short], np.zeros(4, dtype=np.int64), SUPPRESSION
    )
    assert found == pytest.approx([0.9, 0.304426, 0.3, 0.072199], abs=1e-6)
    assert kept.tolist() == [[0, 50], [10, 60], [100, 140], [5, 45]]


def test_a_recorded_official_state_goes_in_and_out_unchanged(
    golden: Golden, golden_head: GTAD
) -> None:
    state, back = golden_state(golden), official.to_official(golden_head)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("config", "dim", "num_parameters"),
    [
        (Config(), 2048, 5_617_540),  # THUMOS'14, TSN in two streams
        (Config(context="none", bins=(16, 0)), 2048, 5_617_540 - 16 * 256 * 512),
    ],
)
def test_official_settings_have_the_official_size(
    config: Config, dim: int, num_parameters: int
) -> None:
    with torch.device("meta"):
        head = config.build(dim, 1)
    state = official.to_official(head)
    assert sum(tensor.numel() for tensor in state.values()) == num_parameters
    assert state["localization.8.weight"].shape == (2, 128, 1, 1)


def test_the_settings_of_activitynet_have_the_official_shapes() -> None:
    """Of the official branch anet: TSN features of 400, 32 + 4 bins, 1 x 1 convolutions."""
    config = Config(bins=(32, 4), map_kernel=1, max_duration=100)
    with torch.device("meta"):
        state = official.to_official(config.build(400, 1))
    assert state["localization.0.weight"].shape == (512, 256 * 36, 1, 1)
    assert state["localization.4.weight"].shape == (128, 128, 1, 1)
    assert state["backbone1.0.weight"].shape == (256, 100, 3)
    assert state["regu_e.0.sconvs.2.weight"].shape == (128, 4, 1, 1)


def test_a_map_of_labels_is_not_the_official_one(golden: Golden) -> None:
    config = Config(embd_dim=32, map_dim=16, align_dim=64, max_duration=16)
    with pytest.raises(UserError, match=r"localization\.8.*expected \(4, .*found \(2, "):
        official.load_official(config.build(64, 3), golden_state(golden), "golden")
