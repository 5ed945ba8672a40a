"""Official ActionFormer checkpoints: every name accounted for, exact both ways."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tad_distill.console import UserError
from tad_distill.distill import official
from tad_distill.distill.heads.actionformer import ActionFormer, Config

SMALL = Config(embd_dim=8, num_heads=2, arch=(2, 1, 1), window=(5,))


def small_head(seed: int = 0) -> ActionFormer:
    torch.manual_seed(seed)
    return SMALL.build(6, 3)


def checkpoint(head: ActionFormer, prefix: str = "module.") -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in official.to_official(head).items()}


@pytest.mark.parametrize(
    ("config", "dim", "num_labels", "num_parameters", "num_names"),
    [
        (Config(), 2048, 20, 29_251_612, 229),  # THUMOS'14, I3D
        (Config(embd_dim=256, window=(7, 7, 7, 7, 7, -1)), 512, 1, 6_943_497, 229),  # ANet, TSP
        (Config(embd_dim=16, arch=(2, 2, 2)), 8, 3, 18_968, 139),
    ],
)
def test_official_settings_have_the_official_size(
    config: Config, dim: int, num_labels: int, num_parameters: int, num_names: int
) -> None:
    with torch.device("meta"):
        head = config.build(dim, num_labels)
    state = official.to_official(head)
    assert len(state) == num_names
    assert sum(tensor.numel() for tensor in state.values()) == num_parameters


def test_a_recorded_official_state_goes_in_and_out_unchanged(shared: Path) -> None:
    with np.load(shared / "golden/heads/actionformer_local_win9.npz") as file:
        state = {k[3:]: torch.from_numpy(file[k]) for k in file.files if k.startswith("sd/")}
    head = Config(embd_dim=32, arch=(2, 2, 3), window=(9,)).build(64, 5)
    official.load_official(head, state, "golden")
    back = official.to_official(head)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_decay_follows_the_official_rule() -> None:
    """Weights of linear and convolution layers decay; the official names say which they are."""
    head = small_head()
    decayed = {
        name for name, p in head.named_parameters() if name.endswith("weight") and p.ndim > 1
    }
    names = dict(zip(official.to_official(head), dict(head.named_parameters()), strict=True))
    by_official_name = {
        ours
        for theirs, ours in names.items()
        if theirs.endswith("weight") and "norm" not in theirs and ".ln" not in theirs
    }
    assert decayed == by_official_name
    assert all(p.ndim <= 1 for n, p in head.named_parameters() if n not in decayed)


def test_a_checkpoint_file_gives_the_average_without_module_prefix(tmp_path: Path) -> None:
    raw, averaged = small_head(1), small_head(2)
    path = tmp_path / "epoch_034.pth.tar"
    content = {
        "epoch": 35,
        "state_dict": checkpoint(raw),
        "state_dict_ema": checkpoint(averaged),
        "scheduler": {"last_epoch": 35},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
    }
    torch.save(content, path)
    for ema, expected in ((True, averaged), (False, raw)):
        head = small_head()
        official.load_official(head, official.read(path, ema=ema), str(path))
        for name, parameter in head.named_parameters():
            assert torch.equal(parameter, dict(expected.named_parameters())[name])


def test_a_bare_state_dict_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(checkpoint(small_head(), prefix=""), path)
    assert official.read(path).keys() == official.to_official(small_head()).keys()


def test_missing_and_unknown_names_are_counted_and_nothing_is_copied() -> None:
    head, other = small_head(0), small_head(1)
    before = {name: p.clone() for name, p in head.named_parameters()}
    state = official.to_official(other)
    del state["cls_head.cls_head.conv.bias"]
    state["backbone.extra"] = torch.zeros(1)
    with pytest.raises(
        UserError, match=r"here\.pth: missing tensors: 1 \(cls_head.cls_head.conv"
    ) as e:
        official.load_official(head, state, "here.pth")
    assert "tensors not known to this head: 1 (backbone.extra)" in str(e.value)
    assert all(torch.equal(before[name], p) for name, p in head.named_parameters())


def test_another_width_is_named_with_both_shapes() -> None:
    state = official.to_official(replace(SMALL, embd_dim=16).build(6, 3))
    with pytest.raises(UserError, match=r"embd.*expected \(8, 6, 3\), found \(16, 6, 3\)"):
        official.load_official(small_head(), state, "wide.pth")


@pytest.mark.parametrize(
    "name",
    ["reg_head.scale.0.scale", "backbone.embd.0.conv.weight", "backbone.stem.0.ln1.weight"],
)
def test_another_rank_is_named(name: str) -> None:
    state = official.to_official(small_head())
    state[name] = torch.ones(1)
    with pytest.raises(UserError, match=rf"{name}: expected \(.*\), found \(1,\)"):
        official.load_official(small_head(), state, "odd.pth")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("backbone.proj.0.conv.weight", "a projection per input stream"),
        ("neck.lateral_convs.0.conv.weight", "set head.neck=fpn"),
        ("backbone.stem.0.attn.rel_pe", "set head.relative_positions=true"),
    ],
)
def test_parts_that_the_head_lacks_are_named(name: str, part: str) -> None:
    state = official.to_official(small_head()) | {name: torch.zeros(1)}
    with pytest.raises(UserError, match=part):
        official.load_official(small_head(), state, "other.pth")


class Surprise:
    """Stands for an object that a pickle could run."""


def test_files_that_are_no_checkpoint_are_refused_in_one_line(tmp_path: Path) -> None:
    text, pickled, listed = (tmp_path / name for name in ("a.pth", "b.pth", "c.pth"))
    text.write_text("not a checkpoint")
    torch.save({"state_dict": Surprise()}, pickled)
    torch.save([1, 2], listed)
    empty = tmp_path / "d.pth"
    empty.touch()
    raw = tmp_path / "e.pth"
    raw.write_bytes(pickle.dumps({"state_dict": 1}, protocol=2))
    for path in (text, pickled, listed, empty, raw, tmp_path / "missing.pth", tmp_path):
        with pytest.raises(UserError, match=path.name) as error:
            official.read(path)
        assert "\n" not in str(error.value)
