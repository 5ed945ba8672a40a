"""Official checkpoint layouts, written here in exactly their form, are read to the last key."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tad_distill.console import UserError
from tad_distill.extract.backbones import Backbone, build
from tad_distill.extract.video import content_hash
from tad_distill.extract.weights import load, prepare

State = dict[str, Tensor]
NAMES = ("tsm18", "tsm50")


@pytest.fixture(scope="module", params=NAMES)
def trained(request: pytest.FixtureRequest) -> tuple[str, State]:
    """A name and a state dict without classifier, as torchvision names its keys."""
    torch.manual_seed(1)
    return request.param, build(request.param).state_dict()


def mit(state: State) -> dict[str, Any]:
    """temporal-shift-module: DataParallel over a TSN model around a wrapped ResNet."""
    named = {
        f"module.base_model.{k.replace('.conv1.', '.conv1.net.') if 'layer' in k else k}": v
        for k, v in state.items()
        if not k.endswith("num_batches_tracked")
    }
    width = state["layer4.1.bn2.weight"].numel()
    named |= {"module.new_fc.weight": torch.zeros(400, width), "module.new_fc.bias": torch.zeros(1)}
    return {"epoch": 50, "arch": "resnet", "best_prec1": 71.2, "state_dict": named}


def mmaction(state: State) -> dict[str, Any]:
    """mmaction2: ConvModule (conv, bn) in a Recognizer2D."""
    named: State = {}
    for key, value in state.items():
        *path, kind, leaf = key.split(".")
        if path and path[-1] == "downsample":
            kind = {"0": "conv", "1": "bn"}[kind]
        elif kind.startswith("conv"):
            wrapped = path and kind == "conv1"
            path, kind = [*path, kind, "conv"], "net" if wrapped else ""
        else:
            path, kind = [*path, f"conv{kind[2:]}"], "bn"
        named[".".join(["backbone", *path, *([kind] if kind else []), leaf])] = value
    named |= {"cls_head.fc_cls.weight": torch.zeros(400, 8), "cls_head.fc_cls.bias": torch.zeros(8)}
    return {"meta": {"mmaction_version": "1.0"}, "state_dict": named}


def torchvision(state: State) -> dict[str, Any]:
    return dict(state) | {"fc.weight": torch.zeros(1000, 8), "fc.bias": torch.zeros(1000)}


def own(state: State, name: str = "tsm18", modality: str = "rgb") -> dict[str, Any]:
    return {
        "layout": "tad-distill",
        "backbone": name,
        "modality": modality,
        "state_dict": dict(state),
        "pretraining": {"data": "trimmed clips", "steps": 100},
    }


def saved(folder: Path, content: object) -> Path:
    path = folder / "weights.pth"
    torch.save(content, path)
    return path


def assert_same(backbone: Backbone, state: State) -> None:
    for key, value in backbone.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, state[key], rtol=0, atol=0)


def test_the_layouts_written_here_are_the_official_ones() -> None:
    state = build("tsm50").state_dict()
    in_mit, in_mmaction = mit(state)["state_dict"], mmaction(state)["state_dict"]
    assert {
        "module.base_model.conv1.weight",
        "module.base_model.bn1.running_mean",
        "module.base_model.layer1.0.conv1.net.weight",
        "module.base_model.layer1.0.conv2.weight",
        "module.base_model.layer2.0.downsample.0.weight",
        "module.base_model.layer2.0.downsample.1.bias",
    } <= in_mit.keys()
    assert {
        "backbone.conv1.conv.weight",
        "backbone.conv1.bn.weight",
        "backbone.layer1.0.conv1.conv.net.weight",
        "backbone.layer1.0.conv1.bn.running_var",
        "backbone.layer1.0.conv3.conv.weight",
        "backbone.layer2.0.downsample.conv.weight",
        "backbone.layer2.0.downsample.bn.bias",
    } <= in_mmaction.keys()


@pytest.mark.parametrize("layout", [mit, mmaction, torchvision])
def test_every_tensor_of_an_official_layout_arrives(
    layout: Callable[[State], dict[str, Any]], trained: tuple[str, State], tmp_path: Path
) -> None:
    name, state = trained
    path = saved(tmp_path, layout(state))
    backbone = build(name)
    provenance = load(backbone, path)
    assert_same(backbone, state)
    assert provenance["sha256"] == content_hash(path)
    assert len(provenance["ignored"]) == 2
    counters = sum(k.endswith("num_batches_tracked") for k in state)
    assert provenance["num_loaded"] == len(state) - (counters if layout is mit else 0)


def test_our_own_layout_brings_its_pretraining_along(tmp_path: Path) -> None:
    state = build("tsm18").state_dict()
    path = saved(tmp_path, own(state))
    backbone, provenance = prepare("tsm18", "rgb", 3, path)
    assert_same(backbone, state)
    assert not backbone.training
    assert provenance["pretraining"] == {"data": "trimmed clips", "steps": 100}
    assert (provenance["layout"], provenance["modality"]) == ("tad-distill", "rgb")


def test_imagenet_weights_are_announced_as_not_kinetics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    provenance = load(build("tsm18"), saved(tmp_path, torchvision(build("tsm18").state_dict())))
    assert "imagenet, not Kinetics" in provenance["pretraining"]
    assert "imagenet, not Kinetics" in capsys.readouterr().err


@pytest.mark.parametrize("layout", [mit, mmaction, torchvision, own])
def test_a_missing_or_unknown_key_is_an_error_that_names_it(
    layout: Callable[[State], dict[str, Any]], tmp_path: Path
) -> None:
    state = build("tsm18").state_dict()
    removed = state.copy()
    del removed["layer3.1.bn2.weight"]
    with pytest.raises(UserError, match=r"1 missing: layer3\.1\.bn2\.weight"):
        load(build("tsm18"), saved(tmp_path, layout(removed)))
    with pytest.raises(UserError, match=r"1 left over: layer5"):
        load(
            build("tsm18"),
            saved(tmp_path, layout(state | {"layer5.0.conv2.weight": torch.zeros(1)})),
        )


def test_weights_of_another_depth_do_not_load(tmp_path: Path) -> None:
    path = saved(tmp_path, mit(build("tsm50").state_dict()))
    with pytest.raises(UserError, match="165 left over.*23 of another shape"):
        load(build("tsm18"), path)


def test_weights_trained_without_the_shift_are_refused(tmp_path: Path) -> None:
    content = mit(build("tsm18").state_dict())
    content["state_dict"] = {k.replace(".net.", "."): v for k, v in content["state_dict"].items()}
    with pytest.raises(UserError, match="without the temporal shift"):
        load(build("tsm18"), saved(tmp_path, content))


def test_one_channel_weights_show_grey_as_three_equal_colours(tmp_path: Path) -> None:
    path = saved(tmp_path, mit(build("tsm18").state_dict()))
    grey = torch.randn(1, 2, 1, 32, 32)
    colour, _ = prepare("tsm18", "rgb", 3, path)
    single, provenance = prepare("tsm18", "tg_luma", 1, path)
    assert provenance["first_convolution"] == {"conv1.weight": "summed over its 3 input channels"}
    with torch.inference_mode():
        expected = colour(grey.expand(-1, -1, 3, -1, -1))
        torch.testing.assert_close(single(grey), expected, rtol=1e-4, atol=1e-4)


def test_flow_weights_do_not_load_into_colour(tmp_path: Path) -> None:
    flow = build("tsm18")
    flow.adapt_channels(10)
    with pytest.raises(UserError, match=r"conv1\.weight \(64, 10, 7, 7\) instead of \(64, 3"):
        load(build("tsm18"), saved(tmp_path, mit(flow.state_dict())))


def test_random_weights_follow_their_seed_and_say_so() -> None:
    before = torch.random.get_rng_state()
    first, provenance = prepare("tsm18", "rgb", 3, Path("random:7"))
    again, _ = prepare("tsm18", "rgb", 3, Path("random:7"))
    other, _ = prepare("tsm18", "rgb", 3, Path("random:8"))
    assert provenance == {"layout": "random", "seed": 7, "pretraining": "none: random weights"}
    assert_same(first, dict(again.state_dict()))
    assert not torch.equal(first.state_dict()["conv1.weight"], other.state_dict()["conv1.weight"])
    assert torch.equal(before, torch.random.get_rng_state())


def test_another_backbone_is_refused_and_another_modality_is_announced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = build("tsm18").state_dict()
    with pytest.raises(UserError, match="holds a tsm50, wanted is a tsm18"):
        prepare("tsm18", "rgb", 3, saved(tmp_path, own(state, name="tsm50")))
    prepare("tsm18", "rgb", 3, saved(tmp_path, own(state, modality="tg")))
    assert "trained on tg, used for rgb" in capsys.readouterr().err


def test_a_file_that_could_run_code_is_not_loaded(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": {}, "extra": Path("x")})
    with pytest.raises(UserError, match="not a checkpoint of plain tensors"):
        load(build("tsm18"), path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="not a checkpoint of plain tensors"):
        load(build("tsm18"), path)
    with pytest.raises(UserError, match="cannot read the weights"):
        load(build("tsm18"), tmp_path / "absent.pth")
    with pytest.raises(UserError, match="layout is none of"):
        load(build("tsm18"), saved(tmp_path, {"a.weight": torch.zeros(1)}))


def test_a_real_checkpoint_of_another_network_is_refused(shared: Path) -> None:
    with pytest.raises(UserError, match=r"missing: bn1\.weight|missing: layer"):
        load(build("tsm18"), shared / "real/weights/resnet20-12fca82f.th")
    with pytest.raises(UserError, match="layout is none of"):
        load(build("tsm18"), shared / "real/weights/shufflenetv2_fastestdet.pth")
