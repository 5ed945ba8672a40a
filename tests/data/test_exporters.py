"""What is exported is read by other programs at the same times with the same numbers."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from tad_distill.cli import main
from tad_distill.console import UserError
from tad_distill.data import catalog
from tad_distill.data.exporters import export_npy
from tad_distill.data.importers import Clock, Selection, Target, import_features
from tad_distill.data.store import Store, Stream, StreamSpec

Feats = NDArray[np.floating]
Spec = Callable[..., StreamSpec]
Filled = Callable[[Path, Mapping[str, Feats]], Stream]


def run(*words: object) -> int:
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    handlers = [signal.getsignal(number) for number in numbers]
    with pytest.raises(SystemExit) as ended:
        main(["data", *map(str, words)])
    for number, handler in zip(numbers, handlers, strict=True):  # main lets them ask for a stop
        signal.signal(number, handler)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_actionformer_finds_the_same_features_at_the_same_times(
    tmp_path: Path, filled: Filled, feats_by_video: dict[str, Feats]
) -> None:
    """As libs/datasets/thumos14.py (at 61ea7eb) reads: feat_folder, stride, offset."""
    names = [name for name in feats_by_video if len(name.encode()) < 200]
    stream = filled(tmp_path / "s", {name: feats_by_video[name] for name in names})
    exported = export_npy(Store.open(tmp_path / "s"), ["i3d:rgb"], tmp_path / "out")
    assert exported.num_done == len(names) and exported.failed == []
    told = exported.settings["actionformer"]
    segments = np.array([[0.0, 3.7], [1.25, 9.5]])
    for name in names:
        feats = np.load(tmp_path / "out" / f"{name}{told['file_ext']}").astype(np.float32)
        assert feats.shape[1] == told["input_dim"]
        assert np.array_equal(feats, feats_by_video[name])
        fps = stream.entry(name).fps
        feat_offset = 0.5 * told["num_frames"] / told["feat_stride"]
        theirs = segments * fps / told["feat_stride"] - feat_offset
        assert np.allclose(theirs, stream.timeline(name).to_grid(segments))


def test_export_and_import_return_the_same(
    tmp_path: Path, filled: Filled, feats_by_video: dict[str, Feats]
) -> None:
    names = [name for name in feats_by_video if len(name.encode()) < 200 and name[0] != "."]
    stream = filled(tmp_path / "s", {name: feats_by_video[name] for name in names})
    export_npy(Store.open(tmp_path / "s"), ["i3d:rgb"], tmp_path / "out")
    clock = Clock.of(fps=25, clip_frames=16, stride_frames=4)
    target = Target(store=tmp_path / "t", stream="i3d:rgb")
    import_features("npy", tmp_path / "out", Selection(), clock, target)
    back = Store.open(tmp_path / "t").stream("i3d:rgb")
    assert back.videos == sorted(names)
    for name in names:
        assert np.array_equal(back.read(name), stream.read(name))


def two_streams(path: Path, spec_of: Spec, stride: float, num_steps: int) -> Store:
    """i3d:rgb counts its steps, tsm18:tg tells the time of its steps in frames."""
    store = Store.create(path)
    first = store.create_stream(spec_of(shape=(3,), dtype="float32"))
    second = store.create_stream(
        spec_of(stream="tsm18:tg", shape=(2,), stride_frames=stride, dtype="float32")
    )
    for stream, feats in (
        (first, np.arange(20.0)[:, None] * 4 + 8 + [0, 1, 2]),
        (second, np.arange(num_steps)[:, None] * stride + 8 + [0, 1000]),
    ):
        writer = stream.writer("0")
        writer.commit("a", feats, fps=25.0, duration_s=None, source_hash="s")
        writer.seal()
    return store


def test_streams_of_one_timing_are_joined_in_order(tmp_path: Path, spec_of: Spec) -> None:
    store = two_streams(tmp_path / "s", spec_of, stride=4, num_steps=20)
    settings = export_npy(store, ["tsm18:tg", "i3d:rgb"], tmp_path / "out").settings
    assert settings["actionformer"]["input_dim"] == 5 == settings["opentad"]["in_channels"]
    expected = np.concatenate(
        [store.stream(name).read("a") for name in ("tsm18:tg", "i3d:rgb")], axis=1
    )
    assert np.array_equal(np.load(tmp_path / "out/a.npy"), expected)


def test_streams_of_other_timing_are_read_at_the_times_of_the_first(
    tmp_path: Path, spec_of: Spec
) -> None:
    store = two_streams(tmp_path / "s", spec_of, stride=3, num_steps=27)
    export_npy(store, ["i3d:rgb", "tsm18:tg"], tmp_path / "out")
    feats = np.load(tmp_path / "out/a.npy")
    assert feats.shape == (20, 5) and feats.dtype == np.float32
    assert np.allclose(feats[:, 0], feats[:, 3])  # the first channels are the time in frames


def test_videos_that_lack_a_stream_are_named_and_the_others_written(
    tmp_path: Path, spec_of: Spec, capsys: pytest.CaptureFixture[str]
) -> None:
    store = two_streams(tmp_path / "s", spec_of, stride=4, num_steps=20)
    writer = store.stream("i3d:rgb").writer("1")
    writer.commit("only rgb", np.ones((20, 3)), fps=25.0, duration_s=None, source_hash="s")
    command = ["export", tmp_path / "s", tmp_path / "out", "--stream", "i3d:rgb"]
    assert run(*command, "--stream", "tsm18:tg") == 1
    said = capsys.readouterr()
    assert "video only rgb: not in stream tsm18:tg" in said.err
    assert json.loads(said.out)["opentad"]["feature_stride"] == 4
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.npy"]
    assert run(*command) == 0
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_maps_and_doubled_streams_are_refused(tmp_path: Path, spec_of: Spec) -> None:
    store = two_streams(tmp_path / "s", spec_of, stride=4, num_steps=20)
    store.create_stream(spec_of(stream="tsm18:rgb@layer3", shape=(8, 2, 2)))
    with pytest.raises(UserError, match="use the pooled stream"):
        export_npy(store, ["tsm18:rgb@layer3"], tmp_path / "out")
    with pytest.raises(UserError, match="named twice"):
        export_npy(store, ["i3d:rgb", "i3d:rgb"], tmp_path / "out")
    with pytest.raises(UserError, match="there are: i3d:rgb, tsm18:rgb@layer3, tsm18:tg"):
        export_npy(store, ["x"], tmp_path / "out")


def test_info_tells_what_is_there(
    tmp_path: Path,
    filled: Filled,
    feats_by_video: dict[str, Feats],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = filled(tmp_path / "s", feats_by_video)
    writer = stream.writer("1")
    writer.fail("broken", reason="no frames", source_hash="s")
    writer.commit("late", np.ones((7, 32)), fps=25.0, duration_s=None, source_hash="s")
    assert run("info", tmp_path / "s", "--json") == 0
    (facts,) = json.loads(capsys.readouterr().out)["streams"]
    num_steps = sum(map(len, feats_by_video.values())) + 7
    assert (facts["videos"], facts["steps"]) == (len(feats_by_video) + 1, num_steps)
    assert (facts["failed"], facts["parts"], facts["shards"]) == (1, 1, 1)
    assert facts["failures"] == [{"video": "broken", "reason": "no frames", "unit": "1"}]
    assert facts["spec"]["details"] == {"size": 224} and facts["bytes"] > 64 * num_steps
    assert run("info", tmp_path / "s") == 0
    said = capsys.readouterr()
    assert "16/4 frames at own fps" in said.out and "no frames" in said.err
    assert run("info", tmp_path / "s", "--videos", "i3d:rgb", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    late = next(row for row in rows if row["video"] == "late")
    assert late["steps"] == 7 and late["duration_s"] is None and "parts/" in late["file"]
    assert run("info", tmp_path / "absent") == 1


def test_verify_repair_and_index_commands(
    tmp_path: Path,
    filled: Filled,
    feats_by_video: dict[str, Feats],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = filled(tmp_path / "s", feats_by_video)
    first = stream.videos[0]
    assert run("verify", tmp_path / "s") == 0 and run("verify", tmp_path / "s", "--quick") == 0
    (shard,) = catalog.list_shards(stream.folder)
    data = bytearray(shard.read_bytes())
    with h5py.File(shard) as file:
        data[file["x"].id.get_offset()] ^= 1
    shard.write_bytes(data)
    capsys.readouterr()
    assert run("verify", tmp_path / "s") == 1
    said = capsys.readouterr()
    assert said.out.count("\n") == 1 and f"video {first}: damaged" in said.out
    assert "data repair" in said.err
    assert run("repair", tmp_path / "s", "--pack") == 0
    assert capsys.readouterr().out == f"i3d:rgb\t{first}\n"
    assert run("index", tmp_path / "s") == 0
    assert "videos=23" in capsys.readouterr().err
    assert run("verify", tmp_path / "s") == 0


def test_the_listing_imports_no_command() -> None:
    code = (
        "import sys; from tad_distill.cli import main\n"
        "try: main(['data', '--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'h5py', 'numpy', 'pandas', 'tad_distill.data.world.commands'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for word in ("world", "check", "import", "export", "info", "verify", "repair", "index"):
        assert f"\n  {word} " in done.stdout
