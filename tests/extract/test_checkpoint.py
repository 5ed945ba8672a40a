"""Checkpoint files are read without running code: PyTorch's, and the pickles of Caffe2."""

import os
import pickle
import re
import struct
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from tad_distill.console import UserError
from tad_distill.extract.backbones import build
from tad_distill.extract.weights import load
from tad_distill.extract.weights.checkpoint import read_checkpoint


class Python2Pickler(pickle._Pickler):
    """Writes strings of bytes as Python 2 did, in which Caffe2's files were written."""

    write: Callable[[bytes], None]
    memoize: Callable[[object], None]
    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_string(self, value: bytes | str) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def python2(path: Path, content: object) -> Path:
    with path.open("wb") as file:
        Python2Pickler(file, 2).dump(content)
    # NumPy's module had another name then.
    path.write_bytes(path.read_bytes().replace(b"numpy._core.", b"numpy.core."))
    return path


def caffe2_blobs() -> dict[str, Any]:
    """SlowFast 4x16 in the blobs of its Caffe2 file; each filled with its position."""
    backbone = build("slowfast50_4x16")
    backbone.adapt_to({"stem.lateral.bn.weight"})
    blobs: dict[str, Any] = {}
    for number, (key, value) in enumerate(backbone.state_dict().items()):
        part, pathway, *rest, leaf = key.split(".")
        if leaf == "num_batches_tracked":
            continue
        stage = {"stem": 1}.get(part) or int(part[-1]) + 1
        fast = "t_" if pathway == "fast" else ""
        normal = rest[-1].startswith("bn") or rest[-2:] == ["downsample", "1"]
        if pathway == "lateral":
            last = {2: 2, 3: 3, 4: 5}.get(stage)
            name = (
                "t_pool1_subsample"
                if part == "stem"
                else f"t_res{stage}_{last}_branch2c_bn_subsample"
            )
        elif part == "stem":
            name = f"{fast}{'res_' if normal else ''}conv1"
        elif rest[1] == "downsample":
            name = f"{fast}res{stage}_{rest[0]}_branch1"
        else:
            name = f"{fast}res{stage}_{rest[0]}_branch2{'abc'[int(rest[1][-1]) - 1]}"
        short = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}[leaf]
        name += f"_bn_{short}" if normal else "_w"
        blobs[name] = np.full(value.shape, number, np.float16)
    return blobs


def test_a_caffe2_pickle_of_slowfast_loads_to_the_last_blob(tmp_path: Path) -> None:
    blobs = caffe2_blobs()
    assert len(blobs) == 550  # of 552 that the official converter knows: without the classifier
    besides = {
        "pred_w": np.zeros((400, 2304), np.float32),
        "pred_b": np.zeros(400, np.float32),
        "conv1_w_momentum": np.zeros(3, np.float32),
        "model_iter": np.zeros(1, np.int64),
        "lr": np.float32(0.1),
    }
    path = python2(tmp_path / "SLOWFAST.pkl", {"blobs": blobs | besides})
    backbone = build("slowfast50_4x16")
    provenance = load(backbone, path)
    for number, (key, value) in enumerate(backbone.state_dict().items()):
        if not key.endswith("num_batches_tracked"):
            assert float(value[(0,) * value.ndim]) == number, key
    assert provenance["layout"] == "pyslowfast-caffe2"
    assert (provenance["num_loaded"], provenance["num_counters_missing"]) == (550, 110)
    assert provenance["ignored"] == ["conv1_w_momentum", "model_iter", "pred_b", "pred_w"]
    assert backbone.normalisation == "kinetics"
    del blobs["t_res3_3_branch2c_bn_subsample_bn_rm"]
    with pytest.raises(UserError, match=r"1 missing: layer2\.lateral\.bn\.running_mean"):
        load(backbone, python2(path, {"blobs": blobs}))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_arrays_arrive_from_pickles_of_every_protocol(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "blobs.pkl"
    array = np.arange(6, dtype=">f4").reshape(2, 3)
    with path.open("wb") as file:
        pickle.dump({"blobs": {"a": array, "b": np.int64(3), "c": [1, "x"]}}, file, protocol)
    blobs = read_checkpoint(path)["blobs"]
    assert torch.equal(blobs["a"], torch.arange(6.0).reshape(2, 3))
    assert (blobs["b"], blobs["c"]) == (3, [1, "x"])


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.made = function, arguments

    def __reduce__(self) -> Any:
        return self.made


@pytest.mark.parametrize(
    "function,arguments,named",
    [
        (os.system, ("touch {}",), r"posix\.system"),
        (eval, ("open('{}', 'w')",), r"builtin\w*\.eval"),
        (getattr, (np, "load"), r"builtin\w*\.getattr"),
        (np.load, ("{}",), r"numpy\.load"),
    ],
)
def test_a_pickle_that_calls_something_is_refused(
    function: Any, arguments: tuple[Any, ...], named: str, tmp_path: Path
) -> None:
    victim = tmp_path / "ran"
    filled = [a.format(victim) if isinstance(a, str) else "module" for a in arguments]
    for protocol in (0, 2, 4):
        path = tmp_path / "evil.pkl"
        path.write_bytes(pickle.dumps({"blobs": {"x": Call(function, *filled)}}, protocol))
        with pytest.raises(UserError, match=rf"evil\.pkl: refused, its pickle asks for .*{named}"):
            read_checkpoint(path)
    assert not victim.exists()


def test_the_allowed_names_cannot_be_turned_to_other_ends(tmp_path: Path) -> None:
    import _codecs

    multiarray = np.array(0).__reduce__()[0]
    crafted = {
        "codec": Call(_codecs.encode, "x", "rot13"),
        "array of a class": Call(multiarray, dict, (0,), b"b"),
        "memory": Call(multiarray, np.ndarray, (1 << 40,), b"b"),
    }
    for name, call in crafted.items():
        path = tmp_path / f"{name}.pkl"
        path.write_bytes(pickle.dumps({"blobs": call}, 2))
        with pytest.raises(UserError, match="refused, its pickle asks for"):
            read_checkpoint(path)


def test_damaged_pickles_end_in_one_line(tmp_path: Path) -> None:
    blobs = {f"w{i}": np.full((3, 4), i, np.float32) for i in range(5)}
    whole = pickle.dumps({"blobs": blobs, "lr": np.float32(1)}, 2)
    random, path = np.random.default_rng(0), tmp_path / "damaged.pkl"
    num_refused = 0
    for trial in range(300):
        data = bytearray(whole[: random.integers(1, len(whole))] if trial % 3 == 0 else whole)
        for place in random.integers(0, len(data), 3):
            data[place] = random.integers(0, 256)
        path.write_bytes(data)
        try:
            read_checkpoint(path)
        except UserError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
            num_refused += 1
    assert num_refused > 100


def test_mmengines_record_of_losses_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "mmengine.logging.history_buffer"
    module = types.ModuleType(name)
    buffer = type("HistoryBuffer", (), {"__module__": name})
    module.HistoryBuffer = buffer  # type: ignore[attr-defined]
    for part in ("mmengine", "mmengine.logging", name):
        monkeypatch.setitem(sys.modules, part, module)
    losses = buffer()
    losses._log_history = np.array([2.5, 1.5])
    content = {"state_dict": {"a": torch.ones(2)}, "message_hub": {"loss": losses}}
    for new in (True, False):
        torch.save(content, tmp_path / "ours.pth", _use_new_zipfile_serialization=new)
        for part in ("mmengine", "mmengine.logging", name):
            monkeypatch.delitem(sys.modules, part, raising=False)
        assert torch.equal(read_checkpoint(tmp_path / "ours.pth")["state_dict"]["a"], torch.ones(2))
        for part in ("mmengine", "mmengine.logging", name):
            monkeypatch.setitem(sys.modules, part, module)


@pytest.mark.parametrize(
    "data,message",
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>404", "a web page instead of a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"\x00\x01\x02 no pickle", "neither a file of PyTorch nor a whole pickle"),
        (pickle.dumps([1, 2], 2), "expected a checkpoint's dict, found list"),
    ],
)
def test_what_is_no_checkpoint_is_said_to_be_none(
    data: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(data)
    with pytest.raises(UserError, match=re.escape(message)):
        read_checkpoint(path)
    with pytest.raises(UserError, match="cannot read the weights"):
        read_checkpoint(tmp_path / "absent.pth")
