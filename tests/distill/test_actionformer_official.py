"""The ActionFormer head against the official code's recorded run and published numbers."""

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

from tad_distill.data.timeline import Timeline
from tad_distill.distill import official
from tad_distill.distill.assignment import assign, pad
from tad_distill.distill.heads import Targets
from tad_distill.distill.heads.actionformer import ActionFormer, Config
from tad_distill.distill.layers import Residual
from tad_distill.evaluate.nms import NmsConfig, suppress

Golden = Mapping[str, NDArray[Any]]


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    """One run of the official code: inputs, weights, and everything that came out."""
    with np.load(shared / "golden/heads/actionformer_local_win9.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture
def golden_head(golden: Golden) -> ActionFormer:
    settings = json.loads(str(golden["config"]))
    ranges = tuple((low, high) for low, high in settings["regression_range"])
    config = Config(
        embd_dim=settings["embd_dim"],
        num_heads=settings["n_head"],
        arch=tuple(settings["backbone_arch"]),
        window=(settings["n_mha_win_size"],),
        ranges=ranges,
        padding="official",
    )
    head = config.build(settings["input_dim"], settings["num_classes"])
    state = {
        k.removeprefix("sd/"): torch.from_numpy(v) for k, v in golden.items() if "sd/" in k[:3]
    }
    official.load_official(head, state, "golden")
    return head


def golden_video(golden: Golden, name: str, num_steps: int) -> tuple[Tensor, Tensor]:
    found = torch.from_numpy(golden[name].astype(np.float32)).T
    feats = torch.zeros(1, num_steps, found.shape[1])
    feats[0, : len(found)] = found
    return feats, (torch.arange(num_steps) < len(found)).unsqueeze(0)


def golden_batch(golden: Golden) -> tuple[Tensor, Tensor]:
    videos = [golden_video(golden, f"in/feats_{i}", 128) for i in range(2)]
    return torch.cat([f for f, _ in videos]), torch.cat([m for _, m in videos])


def golden_targets(golden: Golden) -> list[Targets]:
    return [
        Targets(
            torch.from_numpy(golden[f"in/segments_{i}"]), torch.from_numpy(golden[f"in/labels_{i}"])
        )
        for i in range(2)
    ]


def joined(golden: Golden, name: str, prefix: str = "out") -> Tensor:
    axis = 0 if name == "points" else 1
    levels = [golden[f"{prefix}/{name}_{level}"] for level in range(4)]
    return torch.from_numpy(np.concatenate(levels, axis))


def without_drop_path(head: ActionFormer) -> ActionFormer:
    """In training mode, but keeping every residual."""
    head.train()
    for module in head.modules():
        if isinstance(module, Residual):
            module.eval()
    return head


def test_outputs_equal_the_official_ones(golden: Golden, golden_head: ActionFormer) -> None:
    feats, mask = golden_batch(golden)
    head = golden_head.eval()
    for level, (found, _) in enumerate(head.backbone(feats, mask, mask.sum(1))):
        expected = torch.from_numpy(golden[f"out/backbone_{level}"]).transpose(1, 2)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    predictions = head(feats, mask)
    logits, offsets = joined(golden, "cls_logits"), joined(golden, "offsets")
    torch.testing.assert_close(predictions.logits, logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(predictions.regression, offsets, atol=1e-5, rtol=1e-4)
    assert torch.equal(predictions.mask, joined(golden, "mask"))
    assert torch.equal(predictions.points, joined(golden, "points"))


def test_targets_equal_the_official_ones(golden: Golden, golden_head: ActionFormer) -> None:
    targets = golden_targets(golden)
    goal = assign(
        joined(golden, "points"),
        *pad([t.segments for t in targets], [t.labels for t in targets]),
        num_labels=5,
        center_radius=1.5,
    )
    classes, offsets = (torch.from_numpy(golden[f"tgt/{key}"]) for key in ("cls", "offsets"))
    assert torch.equal(goal.classes, classes)
    assert (classes.sum(-1) > 1).any()  # two labels for the same segment
    assert torch.equal(goal.positive, classes.any(-1))
    torch.testing.assert_close(goal.offsets[goal.positive], offsets[goal.positive])


def test_training_step_equals_the_official_one(golden: Golden, golden_head: ActionFormer) -> None:
    head = without_drop_path(golden_head)
    terms = head.loss(head(*golden_batch(golden)), golden_targets(golden))
    assert terms.keys() == {"cls", "reg"}
    assert terms["cls"].item() == pytest.approx(golden["loss/cls"].item(), rel=1e-5)
    assert terms["reg"].item() == pytest.approx(golden["loss/reg"].item(), rel=1e-5)
    normalizer = golden["loss/loss_normalizer_after"].item()
    assert head.loss_normalizer.item() == pytest.approx(normalizer)

    sum(terms.values(), torch.zeros(())).backward()
    gradients = [p.grad for p in head.parameters() if p.grad is not None]
    norm = torch.stack([g.norm() for g in gradients]).norm().item()
    assert norm == pytest.approx(golden["grad_norm_total"].item(), rel=1e-4)
    with torch.no_grad():
        for parameter, gradient in zip(head.parameters(), gradients, strict=True):
            parameter.copy_(gradient)  # so that gradients can be named as weights are
    named = official.to_official(head)
    compared = 0
    for name, recorded in golden.items():
        if name.startswith("grad/"):
            expected = torch.from_numpy(recorded)
            found = named[name.removeprefix("grad/")]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)
            compared += 1
    assert compared == 13


def test_candidates_and_detections_equal_the_official_ones(
    golden: Golden, golden_head: ActionFormer
) -> None:
    fps, stride, num_frames, *durations = golden["in/fps_stride_nframes_durations"].tolist()
    timeline = Timeline.of_clips(fps=fps, clip_frames=num_frames, stride_frames=stride)
    for i, duration in enumerate(durations):
        feats, mask = golden_video(golden, f"in/feats_{i}", 128)
        (candidates,) = golden_head.eval().decode(golden_head(feats, mask))
        found = candidates.segments.numpy(), candidates.scores.numpy(), candidates.labels.numpy()
        assert_same_scored(found, golden, f"dec/{{}}_{i}")
        segments, scores, labels = suppress(*found, NmsConfig())
        assert (np.diff(scores) <= 0).all()
        seconds = timeline.to_seconds(segments).clip(0, duration)
        assert_same_scored((seconds, scores, labels), golden, f"det/{{}}_{i}")


def assert_same_scored(
    found: tuple[NDArray[Any], NDArray[Any], NDArray[Any]], golden: Golden, name: str
) -> None:
    """The same sets: the official code leaves the order of equal scores open."""
    rows = []
    wanted = (golden[name.format(key)] for key in ("segments", "scores", "labels"))
    for segments, scores, labels in (found, tuple(wanted)):
        # In units of the tolerance: a grid step's thousandth, a score of 2e-5, the same label.
        rows.append(np.column_stack([segments / 1e-3, scores / 2e-5, labels * 1e6]))
    assert rows[0].shape == rows[1].shape
    distances = np.abs(rows[0][:, None] - rows[1]).max(-1)
    assert distances.min(0).max() < 1 and distances.min(1).max() < 1


def test_long_video_equals_the_official_one(golden: Golden, golden_head: ActionFormer) -> None:
    num_steps = int(golden["long/padded_len"])
    feats, mask = golden_video(golden, "long/feats", num_steps)
    predictions = golden_head.eval()(feats, mask)
    logits, offsets = (joined(golden, k, "long") for k in ("cls_logits", "offsets"))
    torch.testing.assert_close(predictions.logits, logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(predictions.regression, offsets, atol=1e-5, rtol=1e-4)
    assert torch.equal(predictions.mask, joined(golden, "mask", "long"))
    fps, stride, num_frames, *_ = golden["in/fps_stride_nframes_durations"].tolist()
    timeline = Timeline.of_clips(fps=fps, clip_frames=num_frames, stride_frames=stride)
    (found,) = golden_head.decode(predictions)
    segments, scores, labels = suppress(
        found.segments.numpy(), found.scores.numpy(), found.labels.numpy(), NmsConfig()
    )
    seconds = timeline.to_seconds(segments).clip(0, 27.2)  # the end of its last clip
    assert_same_scored((seconds, scores, labels), golden, "long/det_{}")


def test_own_padding_equals_the_official_long_padding(
    golden: Golden, golden_head: ActionFormer
) -> None:
    feats, mask = golden_video(golden, "long/feats", 201)
    own = replace(golden_head.config, padding="invariant").build(64, 5)
    own.load_state_dict(golden_head.state_dict())
    predictions = own.eval()(feats, mask)
    expected = joined(golden, "cls_logits", "long")[joined(golden, "mask", "long")]
    assert not torch.equal(predictions.mask, joined(golden, "mask", "long"))  # another length
    torch.testing.assert_close(predictions.logits[predictions.mask], expected, atol=1e-5, rtol=1e-4)


# A small case whose weights and features come from formulas.


def fill(shape: torch.Size, rank: int, name: str) -> Tensor:
    count = math.prod(shape)
    values = torch.sin(0.37 * torch.arange(1, count + 1, dtype=torch.float64) + 0.11 * rank)
    per_channel = len(shape) == 3 and shape[0] == shape[2] == 1
    if len(shape) >= 2 and not per_channel:
        values = values / math.sqrt(math.prod(shape[1:]))
    elif name.endswith(("weight", "scale")):
        values = 1 + 0.1 * values
    else:
        values = 0.1 * values
    return values.reshape(shape).float()


@pytest.mark.parametrize(("smoothing", "cls"), [(0.0, 1.524742), (0.1, 1.412039)])
def test_formula_weights_give_the_published_numbers(smoothing: float, cls: float) -> None:
    config = Config(
        embd_dim=16,
        arch=(2, 2, 2),
        window=(5,),
        ranges=((0, 4), (4, 8), (8, 1e4)),
        padding="official",
        label_smoothing=smoothing,
    )
    head = config.build(8, 3)
    shapes = official.to_official(head)
    state = {n: fill(shapes[n].shape, rank, n) for rank, n in enumerate(sorted(shapes))}
    official.load_official(head, state, "formula")
    steps = torch.arange(1, 2 * 8 * 32 + 1, dtype=torch.float64)
    feats = torch.sin((0.013 * steps**2) % (2 * math.pi)).float().reshape(2, 8, 32).transpose(1, 2)
    mask = torch.arange(32) < torch.tensor([[32], [21]])
    feats = feats * mask.unsqueeze(-1)

    head.eval()
    sums = [level.sum().item() for level, _ in head.backbone(feats, mask, mask.sum(1))]
    assert sums == pytest.approx([412.6016, 763.5511, 1066.4515], abs=1e-3)
    predictions = head(feats, mask)
    logits = predictions.logits.split([32, 16, 8], 1)
    sums = [level.sum().item() for level in logits]
    assert sums == pytest.approx([-14.2072, 43.3055, 28.3201], abs=1e-3)
    assert logits[0][0, :4, 0].tolist() == pytest.approx(
        [1.69718, 2.26369, 1.61406, 0.67920], abs=2e-5
    )
    sums = [level.sum().item() for level in predictions.regression.split([32, 16, 8], 1)]
    assert sums == pytest.approx([67.8727, 56.0012, 39.9603], abs=1e-3)
    targets = [
        Targets(torch.tensor([[3.2, 9.7], [3.2, 9.7], [12, 30.5]]), torch.tensor([0, 2, 1])),
        Targets(torch.tensor([[5.0, 6.5]]), torch.tensor([1])),
    ]
    terms = without_drop_path(head).loss(predictions, targets)
    assert head.loss_normalizer.item() == pytest.approx(90.8)
    assert terms["cls"].item() == pytest.approx(cls, abs=2e-6)
    assert terms["reg"].item() == pytest.approx(0.057945, abs=1e-6)


# The other variants: the official code with the same formulas, run once at 61ea7eb. For each what
# its settings are called here, how many names its state dict has, and of a batch of 32 and 21 steps
# and of one video of 45 steps in 48: sum and absolute sum of the logits, sum of the distances, and
# the first three logits of label 0.
Numbers = tuple[float, float, float, list[float]]
VARIANTS: dict[str, tuple[dict[str, Any], int, Numbers, Numbers]] = {
    "fpn": (
        {"neck": "fpn"},
        145,
        (38.6128, 405.2684, 109.598, [-1.64264, -2.35575, -2.00692]),
        (-142.8541, 373.664, 0.0, [-1.35713, -2.27526, -2.33286]),
    ),
    "absolute": (
        {"positions": "absolute"},
        139,
        (80.6226, 391.5319, 156.0356, [1.69428, 2.32537, 1.63883]),
        (299.2711, 344.3098, 133.1436, [-0.05984, 0.70411, 1.43876]),
    ),
    "relative": (
        {"relative_positions": True},
        143,
        (-38.4074, 361.6512, 37.578, [0.73162, 1.54254, 1.64208]),
        (-13.3092, 319.1111, 67.844, [-0.03075, -1.195, -1.96306]),
    ),
    "full attention, absolute": (
        {"window": (-1,), "positions": "absolute"},
        139,
        (31.8099, 396.276, 125.8243, [1.69804, 2.32654, 1.85652]),
        (317.0464, 339.9333, 127.934, [0.02537, 0.79448, 1.46832]),
    ),
    "convolution": (
        {"backbone": "convolution"},
        51,
        (-55.7364, 412.0263, 94.8138, [1.6495, 2.15415, 1.71749]),
        (-45.8224, 322.5116, 47.9267, [0.42808, -0.4624, -1.40586]),
    ),
    "fpn, absolute, relative": (
        {"neck": "fpn", "positions": "absolute", "relative_positions": True},
        149,
        (-2.7341, 378.6224, 90.8451, [-0.51132, -0.19553, 0.15925]),
        (318.3832, 344.0074, 59.0169, [-0.51906, -0.23794, -0.02391]),
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_every_variant_equals_the_official_one(variant: str) -> None:
    settings, num_names, short, long = VARIANTS[variant]
    plain = {"window": (5,), "ranges": ((0, 4), (4, 8), (8, 1e4))}
    sizes = {"embd_dim": 16, "arch": (2, 2, 2), "max_len": 32}
    head = Config(**{**plain, **sizes, **settings}, padding="official").build(8, 3).eval()
    shapes = official.to_official(head)
    assert len(shapes) == num_names
    state = {n: fill(shapes[n].shape, rank, n) for rank, n in enumerate(sorted(shapes))}
    official.load_official(head, state, "formula")
    for lengths, num_steps, numbers in (((32, 21), 32, short), ((45,), 48, long)):
        steps = torch.arange(1, len(lengths) * 8 * num_steps + 1, dtype=torch.float64)
        feats = torch.sin((0.013 * steps**2) % (2 * math.pi)).float()
        feats = feats.reshape(len(lengths), 8, num_steps).transpose(1, 2)
        mask = torch.arange(num_steps) < torch.tensor(lengths).unsqueeze(1)
        found = head(feats * mask.unsqueeze(-1), mask)
        sums = [found.logits.sum(), found.logits.abs().sum(), found.regression.sum()]
        assert [s.item() for s in sums] == pytest.approx(numbers[:3], abs=5e-3)
        assert found.logits[0, :3, 0].tolist() == pytest.approx(numbers[3], abs=3e-5)
