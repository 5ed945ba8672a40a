"""The single and the decomposed detector: what they compute, read and leave out."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tad_distill import config
from tad_distill.config import ConfigError
from tad_distill.distill.fusions import concat, local
from tad_distill.distill.heads import HeadConfig, Predictions, actionformer
from tad_distill.distill.model import Decomposed, Detector, ModelConfig, Single, build

DIMS = {"net:rgb": 5, "net:tg": 3, "net:rgb+motion": 4}
NUM_LABELS = 3
SINGLE = ModelConfig(streams=("net:rgb", "net:tg"), dim=8)
DECOMPOSED = ModelConfig(kind="decomposed", appearance="net:rgb", motion="net:rgb", dim=8)
ADAPTED = ModelConfig(kind="decomposed", appearance="net:rgb", motion="net:rgb+motion", dim=8)
APART = ModelConfig(
    kind="decomposed", appearance="net:rgb", motion="net:rgb", dim=8, share="classifier_regressor"
)
BOTH = pytest.mark.parametrize("model", [SINGLE, DECOMPOSED, ADAPTED], ids=["single", "dec", "ada"])

Make = Callable[..., Detector]


@pytest.fixture
def make(tiny_head: HeadConfig) -> Make:
    def made(model: ModelConfig, seed: int = 0, head: HeadConfig = tiny_head) -> Detector:
        torch.manual_seed(seed)
        return build(model, head, local.Config(), DIMS, NUM_LABELS)

    return made


def features(
    num_steps: int = 8, lengths: tuple[int, ...] = (8, 5)
) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(3)
    mask = torch.arange(num_steps) < torch.tensor(lengths).unsqueeze(1)
    feats = {
        stream: torch.randn(len(lengths), num_steps, dim, generator=generator) * mask.unsqueeze(-1)
        for stream, dim in DIMS.items()
    }
    return feats, mask


def assert_equal(one: Predictions, other: Predictions) -> None:
    for name in ("logits", "regression", "mask", "points"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


@BOTH
def test_detection_equals_the_joint_predictions_of_training(make: Make, model: ModelConfig) -> None:
    actionformer_head = actionformer.Config(embd_dim=8, num_heads=2, arch=(1, 1, 2), window=(5,))
    for head in ({}, {"head": actionformer_head}):
        detector = make(model, **head).eval()
        feats, mask = features()
        assert_equal(detector.detect(feats, mask), detector(feats, mask).joint)


def test_detection_runs_only_the_branches_the_fusion_and_the_joint_head(make: Make) -> None:
    for model in (DECOMPOSED, APART):
        detector = make(model)
        assert isinstance(detector, Decomposed)
        called: list[torch.nn.Module] = []
        for module in detector.modules():
            module.register_forward_hook(lambda module, *_, called=called: called.append(module))
        detector.detect(*features())
        needed = (detector.appearance, detector.motion, detector.fusion, detector.joint_head)
        assert set(called) <= {*needed, *(m for part in needed for m in part.modules())}
        assert set(needed) <= set(called)


@BOTH
def test_widths_and_streams_are_what_was_promised(make: Make, model: ModelConfig) -> None:
    detector = make(model)
    feats, mask = features()
    read = {stream: feats[stream] for stream in detector.streams}
    outputs = detector(read, mask)
    assert detector.streams == model.all_streams
    assert {name: made.shape for name, made in outputs.feats.items()} == {
        name: (2, 8, width) for name, width in detector.widths.items()
    }
    predicted = [p for p in (outputs.joint, outputs.appearance, outputs.motion) if p is not None]
    assert len(predicted) == (1 if model.kind == "single" else 3)
    assert all(p.logits.shape == (2, 8 + 4, NUM_LABELS) for p in predicted)


@BOTH
def test_padding_does_not_change_features_or_predictions(make: Make, model: ModelConfig) -> None:
    detector = make(model).eval()
    for module in detector.modules():
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.normal_(module.bias)  # what padding would leak through a norm
    statistics(detector)
    feats, mask = features()
    garbage = {s: torch.where(mask.unsqueeze(-1), f, 1e4) for s, f in feats.items()}
    alone = detector({s: f[1:, :5] for s, f in feats.items()}, mask[1:, :5])
    for padded in (feats, garbage):
        together = detector(padded, mask)
        for name in alone.feats:
            torch.testing.assert_close(together.feats[name][1:, :5], alone.feats[name])
            assert together.feats[name][~mask].eq(0).all()
        real = together.joint.mask[1]
        torch.testing.assert_close(together.joint.logits[1, real], alone.joint.logits[0])
        torch.testing.assert_close(together.joint.regression[1, real], alone.joint.regression[0])


@BOTH
@pytest.mark.parametrize("num_steps", [0, 1, 8])
def test_a_batch_without_any_real_step_is_finite(
    make: Make, model: ModelConfig, num_steps: int
) -> None:
    detector = make(model)
    feats, mask = features(num_steps, (0, 0))
    outputs = detector(feats, mask)
    total = sum(made.square().sum() for made in outputs.feats.values())
    (total + outputs.joint.logits.square().sum()).backward()
    assert outputs.joint.logits.isfinite().all() and not outputs.joint.mask.any()
    assert all(p.grad is None or p.grad.isfinite().all() for p in detector.parameters())


@BOTH
def test_equal_seeds_make_equal_weights(make: Make, model: ModelConfig) -> None:
    one, same, other = make(model, 1), make(model, 1), make(model, 2)
    assert one.state_dict().keys() == same.state_dict().keys()
    assert all(torch.equal(w, same.state_dict()[k]) for k, w in one.state_dict().items())
    assert any(not torch.equal(w, other.state_dict()[k]) for k, w in one.state_dict().items())


def gradients(detector: Detector, loss: Tensor) -> set[str]:
    """The parameters that a loss moves."""
    names, weights = zip(*detector.named_parameters(), strict=True)
    moved = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    return {name for name, grad in zip(names, moved, strict=True) if grad is not None}


def test_the_branches_share_one_head_with_its_own_weights_beside_the_joint_head(make: Make) -> None:
    detector = make(DECOMPOSED)
    outputs = detector(*features())
    for branch in ("appearance", "motion"):
        moved = gradients(detector, getattr(outputs, branch).logits.sum())
        assert {name.partition(".")[0] for name in moved} == {branch, "branch_head"}
    moved = gradients(detector, outputs.joint.logits.sum())
    assert {name.partition(".")[0] for name in moved} == {
        "appearance",
        "motion",
        "fusion",
        "joint_head",
    }


def test_the_branches_may_share_only_the_classifier_and_the_regressor(make: Make) -> None:
    detector = make(APART)
    moved = gradients(detector, detector(*features()).motion.logits.sum())
    heads = {name for name in moved if not name.startswith("motion.")}
    assert heads == {
        "branch_head.classifier.weight",
        "branch_head.classifier.bias",
        "motion_encoder.encoder.weight",
        "motion_encoder.encoder.bias",
    }


def test_each_branch_reads_its_own_stream(make: Make) -> None:
    detector = make(ADAPTED).eval()
    feats, mask = features()
    before = detector(feats, mask)
    feats["net:rgb+motion"] = feats["net:rgb+motion"] + 1
    after = detector(feats, mask)
    assert torch.equal(before.feats["appearance"], after.feats["appearance"])
    assert not torch.equal(before.feats["motion"], after.feats["motion"])


def statistics(detector: Detector) -> None:
    for i, stream in enumerate(detector.streams):
        dim = DIMS[stream]
        detector.set_statistics(stream, torch.arange(dim) + float(i), torch.arange(dim) * 0.5 + 1)


@BOTH
def test_set_statistics_standardise_every_branch_that_reads_the_stream(
    make: Make, model: ModelConfig
) -> None:
    detector = make(model).eval()
    plain = make(model).eval()
    statistics(detector)
    feats, mask = features()
    by_hand = {
        stream: (feats[stream] - (torch.arange(DIMS[stream]) + float(i)))
        / (torch.arange(DIMS[stream]) * 0.5 + 1)
        for i, stream in enumerate(detector.streams)
    }
    torch.testing.assert_close(
        detector(feats, mask).joint.logits, plain(by_hand, mask).joint.logits
    )
    torch.testing.assert_close(
        detector.standardised(feats, mask), plain.standardised(by_hand, mask)
    )


def test_statistics_travel_with_the_weights_and_half_precision_is_read(make: Make) -> None:
    one, other = make(SINGLE, 0).eval(), make(SINGLE, 1).eval()
    statistics(one)
    other.load_state_dict(one.state_dict())
    feats, mask = features()
    assert_equal(one.detect(feats, mask), other.detect(feats, mask))
    half = {stream: values.half() for stream, values in feats.items()}
    torch.testing.assert_close(
        one.detect(half, mask).logits, one.detect(feats, mask).logits, atol=0.01, rtol=0.01
    )


@pytest.mark.parametrize(
    "table, message",
    [
        ({}, "a single detector needs streams"),
        ({"streams": ["a"], "motion": "b"}, "a single detector needs streams"),
        ({"streams": ["a", "a"]}, "named twice"),
        ({"kind": "decomposed", "appearance": "a"}, "needs appearance and motion"),
        ({"kind": "decomposed", "appearance": "a", "motion": "b", "streams": ["a"]}, "no streams"),
        ({"streams": ["a"], "kernel_size": 2}, "kernel_size odd"),
        ({"streams": ["a"], "dim": 0}, "dim must be positive"),
        ({"streams": ["a"], "num_layers": -1}, "num_layers must be at least 1, or 0"),
        (
            {"kind": "decomposed", "appearance": "a", "motion": "b", "num_layers": 0},
            "num_layers must be at least 1, or 0 with kind=single",
        ),
        ({"streams": ["a"], "noise": -1.0}, "noise must not be negative"),
        ({"streams": ["a"], "dropout": 1.0}, r"dropout lie in \[0, 1\)"),
        ({"kind": "triple"}, "expected one of 'single', 'decomposed'"),
    ],
)
def test_settings_that_cannot_be_built_are_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.build(ModelConfig, table, at="model")


def test_settings_survive_writing_and_reading() -> None:
    for model in (SINGLE, DECOMPOSED, ADAPTED):
        assert config.build(ModelConfig, config.dump(model)) == model


def test_a_decomposed_detector_with_concatenation_differs_in_the_fusion_alone(
    tiny_head: HeadConfig,
) -> None:
    torch.manual_seed(0)
    detector = build(DECOMPOSED, tiny_head, concat.Config(), DIMS, NUM_LABELS)
    outputs = detector(*features())
    halves = torch.cat([outputs.feats["appearance"], outputs.feats["motion"]], dim=-1)
    assert torch.equal(outputs.feats["joint"], halves)


def test_without_a_projection_the_head_reads_the_streams_themselves(tiny_head: HeadConfig) -> None:
    streams = ("net:rgb", "net:tg")
    model = ModelConfig(streams=streams, dim=7, num_layers=0)
    detector = build(model, tiny_head, concat.Config(), DIMS, NUM_LABELS)
    feats, mask = features()
    read = torch.cat([feats[stream] for stream in streams], -1) * mask.unsqueeze(-1)
    assert torch.equal(detector(feats, mask).feats["joint"], read)
    assert detector.widths == {"joint": sum(DIMS[stream] for stream in streams)}
    assert {name.partition(".")[0] for name, _ in detector.named_parameters()} == {"joint_head"}


def test_a_single_detector_with_one_layer_still_projects(tiny_head: HeadConfig) -> None:
    model = ModelConfig(streams=("net:tg",), dim=8, num_layers=1, kernel_size=1)
    detector = build(model, tiny_head, concat.Config(), DIMS, NUM_LABELS)
    assert isinstance(detector, Single)
    assert detector(*features()).feats["joint"].shape == (2, 8, 8)
