"""Checkpoints of the other networks, written here in exactly their published form.

The digests are of the names and shapes in the state dicts of the official model code (pytorch-i3d
at 05783d1, PySlowFast at 287ec00, PyTorchVideo at f3142bb, mmaction2 at 4d6c934 and
temporal-shift-module at 1f6a834, each run once): what is written here has the same. Every tensor
holds one number of its own, so that the files are small and a mix-up shows.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tad_distill.console import UserError
from tad_distill.extract.backbones import Backbone, build
from tad_distill.extract.weights import fits, load, prepare, read

State = dict[str, Tensor]
NORMALISED = {"stem.lateral.bn.weight"}
LAYERS = {f"layer{number}": f"s{number + 1}" for number in range(1, 5)} | {"stem": "s1"}


def numbered(name: str, channels: int = 3, keys: set[str] | None = None) -> State:
    """A state dict in which each tensor is filled with its position."""
    with torch.device("meta"):
        backbone = build(name)
        backbone.adapt_channels(channels)
        backbone.adapt_to(keys or set())
    return {
        key: torch.tensor(number, dtype=value.dtype).expand(value.shape)
        for number, (key, value) in enumerate(backbone.state_dict().items())
    }


def renamed(state: State, rules: list[tuple[str, str]]) -> State:
    """Apply the first rule that matches each key."""
    named = {}
    for key, value in state.items():
        for pattern, replacement in rules:
            if re.match(pattern, key):
                named[re.sub(pattern, replacement, key, count=1)] = value
                break
        else:
            raise AssertionError(key)
    return named


def head(named: State, key: str, *shape: int) -> State:
    return named | {f"{key}.weight": torch.zeros(shape), f"{key}.bias": torch.zeros(shape[0])}


def pytorch_i3d(state: State) -> dict[str, Any]:
    kernels = {"1a": "7x7", "2b": "1x1", "2c": "3x3"}
    named = {}
    for key, value in state.items():
        if key.startswith("conv_"):
            stem = key[5:7]
            name = f"Conv3d_{stem}_{kernels[stem]}{key[7:]}"
        else:
            name = key.partition(".")[2].replace("mixed", "Mixed", 1)
        named[name.replace(".conv.", ".conv3d.")] = value
    return head(named, "logits.conv3d", 400, 1024, 1, 1, 1)


def pyslowfast(state: State) -> dict[str, Any]:
    named = {}
    for key, value in state.items():
        part, pathway, *rest = key.split(".")
        stage = LAYERS[part]
        number = {"slow": 0, "fast": 1}.get(pathway)
        if pathway == "lateral":
            name = f"{stage}_fuse.{'conv_f2s' if rest[0] == 'conv' else 'bn'}"
        elif part == "stem":
            name = f"s1.pathway{number}_stem.{rest[0]}"
        elif rest[1] == "downsample":
            name = f"{stage}.pathway{number}_res{rest[0]}.branch1{['', '_bn'][int(rest[2])]}"
        else:
            letter = "abc"[int(rest[1][-1]) - 1]
            letter += "_bn" if rest[1].startswith("bn") else ""
            name = f"{stage}.pathway{number}_res{rest[0]}.branch2.{letter}"
        named[f"{name}.{rest[-1]}"] = value
    return {"epoch": 1, "model_state": head(named, "head.projection", 400, 2304), "cfg": "text"}


def pytorchvideo(state: State) -> dict[str, Any]:
    named = {}
    for key, value in state.items():
        part, pathway, *rest = key.split(".")
        block = 0 if part == "stem" else int(part[-1])
        at = f"blocks.{block}.multipathway_blocks.{0 if pathway == 'slow' else 1}"
        if pathway == "lateral":
            kind = "conv_fast_to_slow" if rest[0] == "conv" else "norm"
            name = f"blocks.{block}.multipathway_fusion.{kind}"
        elif part == "stem":
            name = f"{at}.{'conv' if rest[0] == 'conv' else 'norm'}"
        elif rest[1] == "downsample":
            name = f"{at}.res_blocks.{rest[0]}.branch1_{['conv', 'norm'][int(rest[2])]}"
        else:
            kind, letter = rest[1][:-1], "abc"[int(rest[1][-1]) - 1]
            kind = {"conv": "conv", "bn": "norm"}[kind]
            name = f"{at}.res_blocks.{rest[0]}.branch2.{kind}_{letter}"
        named[f"{name}.{rest[-1]}"] = value
    return {"model_state": head(named, "blocks.6.proj", 400, 2304)}


BLOCK = [
    (r"(.*)\.conv(\d)\.weight$", r"\1.conv\2.conv.weight"),
    (r"(.*)\.bn(\d)\.", r"\1.conv\2.bn."),
    (r"(.*)\.downsample\.0\.", r"\1.downsample.conv."),
    (r"(.*)\.downsample\.1\.", r"\1.downsample.bn."),
]


def mmaction_slowfast(state: State) -> dict[str, Any]:
    named = renamed(
        state,
        [
            (r"stem\.lateral\.", "slow_path.conv1_lateral."),
            (r"(layer\d)\.lateral\.", r"slow_path.\1_lateral."),
            (r"stem\.(slow|fast)\.", r"\1_path.conv1."),
            *BLOCK,
        ],
    )
    named = {re.sub(r"^(layer\d)\.(slow|fast)\.", r"\2_path.\1.", k): v for k, v in named.items()}
    named = {f"backbone.{key}": value for key, value in named.items()}
    return {"meta": {}, "state_dict": head(named, "cls_head.fc_cls", 400, 2304)}


def mmaction_resnet(state: State) -> dict[str, Any]:
    stem = [
        (r"stem\.(conv|bn)\.", r"conv1.\1."),
        (r"conv1\.", "conv1.conv."),
        (r"bn1\.", "conv1.bn."),
    ]
    named = {f"backbone.{key}": value for key, value in renamed(state, stem + BLOCK).items()}
    return {"state_dict": head(named, "cls_head.fc_cls", 400, 2048)}


def mit_tsn(state: State) -> dict[str, Any]:
    named = {f"module.base_model.{key}": value for key, value in state.items()}
    return {"arch": "resnet50", "state_dict": head(named, "module.new_fc", 400, 2048)}


@dataclass(frozen=True)
class Case:
    """A file of a layout: how it is written and what becomes of it."""

    write: Callable[[State], dict[str, Any]]
    layout: str
    digest: str
    name: str
    channels: int = 3
    keys: frozenset[str] = frozenset()
    normalisation: str = "imagenet"

    def state(self) -> State:
        return numbered(self.name, self.channels, set(self.keys))

    def backbone(self) -> Backbone:
        """The network with nothing in it, which takes no time."""
        with torch.device("meta"):
            backbone = build(self.name)
            backbone.adapt_channels(self.channels)
        return backbone.to_empty(device="cpu")


FAIR = frozenset(NORMALISED)
SF4, SF8 = "slowfast50_4x16", "slowfast50_8x8"
CASES = [
    Case(pytorch_i3d, "pytorch-i3d", "97cd133f75d479bd", "i3d", normalisation="symmetric"),
    Case(pytorch_i3d, "pytorch-i3d", "2835be2d0168bb59", "i3d", 2, normalisation="symmetric"),
    Case(pyslowfast, "pyslowfast", "1b5c48f9b8cbb147", SF4, 3, FAIR, "kinetics"),
    Case(pyslowfast, "pyslowfast", "d9653fafacc7ebbb", SF8, 3, FAIR, "kinetics"),
    Case(pytorchvideo, "pytorchvideo", "7702b9885c4ea50b", SF4, 3, FAIR, "kinetics"),
    Case(pytorchvideo, "pytorchvideo", "b64258d537dd0d36", SF8, 3, FAIR, "kinetics"),
    Case(mmaction_slowfast, "mmaction2-slowfast", "4443ec6a5e740e42", SF4),
    Case(mmaction_slowfast, "mmaction2-slowfast", "086d740794df7d20", SF8),
    Case(
        mmaction_resnet,
        "mmaction2-slowonly",
        "2cfe9b9e5b938cef",
        "slowonly50_8x8",
        2,
        FAIR,
        "mmaction",
    ),
    Case(mmaction_resnet, "mmaction2-tsn", "8812fad8837a42a7", "tsn50", 10, FAIR, "mmaction"),
    Case(mit_tsn, "mit-tsn", "c4eaaf2ad37d7965", "tsn50"),
]


def named_by_case(case: Case) -> str:
    return f"{case.layout}-{case.name}-{case.channels}"


ALL = pytest.mark.parametrize("case", CASES, ids=named_by_case)
ONE_OF_EACH = pytest.mark.parametrize(
    "case", list({case.layout: case for case in CASES}.values()), ids=named_by_case
)


def saved(folder: Path, content: object) -> Path:
    path = folder / "weights.pth"
    torch.save(content, path)
    return path


def tensors(content: dict[str, Any]) -> State:
    named: State = content.get("state_dict") or content.get("model_state") or content
    return named


@ALL
def test_what_is_written_here_has_the_official_names_and_shapes(case: Case) -> None:
    named = tensors(case.write(case.state()))
    official = {key: value for key, value in named.items() if not key.startswith("cls_head.")}
    lines = "\n".join(f"{key} {tuple(value.shape)}" for key, value in sorted(official.items()))
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == case.digest


@ALL
def test_every_tensor_arrives_at_its_place(case: Case, tmp_path: Path) -> None:
    state = case.state()
    path = saved(tmp_path, case.write(state))
    backbone = case.backbone()
    provenance = load(backbone, path)
    assert backbone.state_dict().keys() == state.keys()
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert provenance["layout"] == case.layout
    assert provenance["num_loaded"] == len(state)
    assert provenance["num_counters_missing"] == 0
    assert len(provenance["ignored"]) == 2
    assert backbone.normalisation == case.normalisation
    assert case.name in fits(read(path))


@ONE_OF_EACH
def test_files_of_an_older_pytorch_lack_only_counters(case: Case, tmp_path: Path) -> None:
    state = case.state()
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    provenance = load(case.backbone(), saved(tmp_path, case.write(old)))
    assert provenance["num_loaded"] == len(old)
    assert provenance["num_counters_missing"] == len(state) - len(old) > 0


@ONE_OF_EACH
def test_a_missing_or_unknown_key_is_an_error_that_names_it(case: Case, tmp_path: Path) -> None:
    state = case.state()
    content = case.write(state)
    named = tensors(content)
    lost = next(key for key in reversed(list(state)) if key.endswith("running_var"))
    official = next(key for key, value in named.items() if value is state[lost])
    del named[official]
    named["surplus.weight"] = torch.zeros(1)
    with pytest.raises(UserError, match=f"1 missing: {lost}; 1 left over: surplus.weight"):
        load(case.backbone(), saved(tmp_path, content))


def test_weights_of_another_variant_say_what_they_fit(tmp_path: Path) -> None:
    path = saved(tmp_path, mmaction_slowfast(numbered(SF8)))
    with pytest.raises(
        UserError, match=r"stem\.lateral\.conv\.weight \(16, 8, 7.*they fit slowfast50_8x8$"
    ):
        load(build(SF4), path)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, pytorch_i3d(numbered("i3d")))
    with pytest.raises(
        UserError, match="holds weights of i3d in the layout pytorch-i3d, wanted are weights of tsm"
    ):
        load(build("tsm18"), path)
    path = saved(tmp_path, mit_tsn(numbered("tsn50")))
    with pytest.raises(UserError, match="holds weights of tsn .*without the temporal shift"):
        load(build("tsm50"), path)


def test_flow_weights_do_not_load_into_colour(tmp_path: Path) -> None:
    path = saved(tmp_path, pytorch_i3d(numbered("i3d", 2)))
    with pytest.raises(UserError, match=r"conv_1a\.conv\.weight \(64, 2, 7, 7, 7\) instead of"):
        load(build("i3d"), path)


def test_the_other_port_of_i3d_is_not_mistaken_for_ours(tmp_path: Path) -> None:
    named = {"conv3d_1a_7x7.conv3d.weight": torch.zeros(64, 3, 7, 7, 7)}
    with pytest.raises(UserError, match="hassony2's port of I3D, which pads otherwise"):
        load(build("i3d"), saved(tmp_path, named))


def test_weights_for_five_pairs_of_flow_read_one_pair_as_five_equal_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    trained = build("tsn50").eval()
    trained.adapt_channels(10)
    path = saved(tmp_path, mmaction_resnet(dict(trained.state_dict())))
    single, provenance = prepare("tsn50", "flow", 2, path)
    assert provenance["first_convolution"] == {"conv1.weight": "summed over its 5 pairs of flow"}
    assert "modality.flow.stack=5" in capsys.readouterr().err
    pair = torch.randn(1, 2, 2, 32, 32)
    with torch.inference_mode():
        expected = trained(pair.repeat(1, 1, 5, 1, 1))
        torch.testing.assert_close(single(pair), expected, rtol=1e-4, atol=1e-4)


def test_our_own_layout_keeps_the_variant_and_the_input(tmp_path: Path) -> None:
    for keys, normalisation in ((NORMALISED, "kinetics"), (set[str](), "imagenet")):
        own = {"layout": "tad-distill", "backbone": SF4, "modality": "rgb"}
        path = saved(tmp_path, own | {"state_dict": numbered(SF4, keys=keys)})
        backbone, provenance = prepare(SF4, "rgb", 3, path)
        assert backbone.normalisation == normalisation
        assert provenance["num_loaded"] == 640 + 20 * bool(keys)
    own = {"layout": "tad-distill", "backbone": "tsn50", "modality": "flow"}
    own["normalisation"] = "mmaction"
    path = saved(tmp_path, own | {"state_dict": numbered("tsn50", 2)})
    assert prepare("tsn50", "flow", 2, path)[0].normalisation == "mmaction"
