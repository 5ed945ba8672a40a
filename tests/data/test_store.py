"""What is written is what is read, by this program and by h5py alone."""

import json
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from tad_distill.console import UserError
from tad_distill.data import catalog
from tad_distill.data.shards import Handle
from tad_distill.data.store import Store, Stream, StreamSpec, rebuild_index
from tad_distill.data.timeline import Timeline

Feats = NDArray[np.floating]
Spec = Callable[..., StreamSpec]
Filled = Callable[[Path, Mapping[str, Feats]], Stream]


def commit(stream: Stream, video: str, feats: Feats, source: str = "s", unit: str = "u") -> None:
    stream.writer(unit).commit(video, feats, fps=25.0, duration_s=None, source_hash=source)


def test_reads_back_bit_for_bit_before_and_after_sealing(
    tmp_path: Path, spec_of: Spec, feats_by_video: dict[str, Feats]
) -> None:
    store = Store.create(tmp_path / "s")
    stream = store.create_stream(spec_of())
    writer = stream.writer("0")
    for video, feats in feats_by_video.items():
        writer.commit(video, feats, fps=25.0, duration_s=None, source_hash="x")
    old = store.stream("i3d:rgb")
    assert old.videos == sorted(feats_by_video)
    assert writer.seal() is not None
    for reader in (old, store.stream("i3d:rgb")):  # the old one still looks for parts
        for video, feats in feats_by_video.items():
            assert np.array_equal(reader.read(video), feats)
    assert not list((tmp_path / "s").rglob("*.tmp")) and not catalog.list_parts(stream.folder)


def test_reads_windows(tmp_path: Path, filled: Filled) -> None:
    feats = np.arange(50 * 32, dtype="<f2").reshape(50, 32) % 2000
    stream = filled(tmp_path / "s", {"a": feats, "b": feats + 1})
    assert np.array_equal(stream.read("b", 7, 19), feats[7:19] + 1)
    assert np.array_equal(stream.read("b", 49), feats[49:] + 1)
    assert stream.read("b", 5, 5).shape == (0, 32)
    for start, stop in ((-1, 3), (0, 51), (6, 5)):
        with pytest.raises(ValueError, match="of 50"):
            stream.read("b", start, stop)


def test_reading_gives_a_fresh_array(tmp_path: Path, filled: Filled) -> None:
    stream = filled(tmp_path / "s", {"a": np.ones((3, 32), "<f2")})
    stream.read("a")[:] = 7
    assert (stream.read("a") == 1).all()


def test_maps_keep_their_shape(tmp_path: Path, spec_of: Spec) -> None:
    stream = Store.create(tmp_path / "s").create_stream(spec_of(shape=(8, 3, 2), dtype="float32"))
    maps = np.random.default_rng(0).standard_normal((5, 8, 3, 2)).astype("<f4")
    commit(stream, "a", maps)
    stream.writer("u").seal()
    assert np.array_equal(stream.read("a"), maps)
    assert np.array_equal(stream.read("a", 1, 3), maps[1:3])
    with h5py.File(stream.folder / stream.catalog.files[0]) as file:
        assert file["x"].shape == (5, 48)


def test_entry_and_timeline_come_back(tmp_path: Path, spec_of: Spec) -> None:
    store = Store.create(tmp_path / "s")
    own_rate = store.create_stream(spec_of())
    fixed = store.create_stream(spec_of(stream="tsm18:rgb", fps=10))
    for stream in (own_rate, fixed):
        writer = stream.writer("u")
        feats = np.zeros((4, 32))
        writer.commit("a", feats, fps=30000 / 1001, duration_s=1.5, source_hash="é")
        writer.commit("b", feats, fps=25, duration_s=None, source_hash="")
        writer.seal()
    entry = own_rate.entry("a")
    assert (entry.num_steps, entry.fps, entry.duration_s, entry.source_hash) == (
        4,
        30000 / 1001,
        1.5,
        "é",
    )
    assert own_rate.entry("b").duration_s is None and own_rate.entry("b").source_hash == ""
    timing = {"stride_frames": 4.0, "offset_frames": 8.0}
    assert own_rate.timeline("a") == Timeline(fps=30000 / 1001, **timing)
    assert fixed.timeline("a") == Timeline(fps=10.0, **timing)


def test_h5py_alone_reads_a_shard(tmp_path: Path, filled: Filled) -> None:
    feats = {name: np.full((3 + i, 32), i, "<f2") for i, name in enumerate(["b", "ä", "a"])}
    stream = filled(tmp_path / "s", feats)
    (path,) = catalog.list_shards(stream.folder)
    with h5py.File(path) as file:
        index = file["index"]
        names = index["id"].asstr()[:].tolist()
        assert names == ["a", "b", "ä"]
        for name, off, length, crc in zip(
            names, index["off"], index["len"], index["crc"], strict=True
        ):
            rows = file["x"][off : off + length]
            assert np.array_equal(rows, feats[name]) and zlib.crc32(rows.tobytes()) == crc
        assert file["x"].chunks is None and file["x"].dtype == np.dtype("<f2")
        assert file.attrs["num_videos"] == 3 and file.attrs["max_abs"] == 2
    # Superblock 2: HDF5 checksums its own metadata, and no flag "open for writing" exists.
    assert path.read_bytes()[8] == 2


def test_repacked_and_compressed_shards_still_read(
    tmp_path: Path, filled: Filled, feats_by_video: dict[str, Feats]
) -> None:
    stream = filled(tmp_path / "s", feats_by_video)
    (path,) = catalog.list_shards(stream.folder)
    with h5py.File(path, "a") as file:
        x = file["x"][:]
        del file["x"]
        file.create_dataset("x", data=x, chunks=(16, 32), compression="gzip")
    rebuild_index(stream)
    stream.refresh()
    assert Handle(path, "float16", 32).offset is None
    for video, feats in feats_by_video.items():
        assert np.array_equal(stream.read(video), feats)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf, 65520.0, -1e6])
def test_what_float16_cannot_hold_is_an_error_naming_the_video(
    tmp_path: Path, spec_of: Spec, bad: float, dtype: type
) -> None:
    stream = Store.create(tmp_path / "s").create_stream(spec_of())
    feats = np.zeros((5, 32), np.float64)
    feats[3, 1] = bad
    with np.errstate(over="ignore"):
        feats = feats.astype(dtype)  # in float16 the large ones are infinite
    with pytest.raises(UserError, match=r"video clip_7: .*(step 3|magnitude)"):
        commit(stream, "clip_7", feats)
    assert "clip_7" not in stream
    feats[3, 1] = -65504
    commit(stream, "clip_7", feats)


@pytest.mark.parametrize(
    ("feats", "says"),
    [
        (np.zeros((0, 32)), "no features"),
        (np.zeros((3, 31)), r"\(3, 31\), i3d:rgb has \(T, 32\)"),
        (np.zeros(32), "has"),
        (np.zeros(()), "has"),
        (np.zeros((3, 32), object), "expected numbers"),
    ],
)
def test_what_is_no_feature_array_is_refused(
    tmp_path: Path, spec_of: Spec, feats: Feats, says: str
) -> None:
    stream = Store.create(tmp_path / "s").create_stream(spec_of())
    with pytest.raises(UserError, match=says):
        commit(stream, "a", feats)


@pytest.mark.parametrize("name", ["", "a/b", "a\0b", "x" * 256, "é" * 128, "\udcff"])
def test_impossible_names_are_refused(tmp_path: Path, spec_of: Spec, name: str) -> None:
    stream = Store.create(tmp_path / "s").create_stream(spec_of())
    with pytest.raises(UserError, match="name"):
        commit(stream, name, np.zeros((1, 32)))


def test_names_that_file_systems_confuse_stay_apart(tmp_path: Path, filled: Filled) -> None:
    names = ["video", "VIDEO", "vid/eo".replace("/", "_"), "caf\u00e9", "cafe\u0301", "a", "a."]
    feats = {name: np.full((2, 32), i, "<f2") for i, name in enumerate(names)}
    stream = filled(tmp_path / "s", feats)
    for name in names:
        assert np.array_equal(stream.read(name), feats[name])
    for absent in ("vide", "videos", "", "x" * 300, "\udcff"):
        assert absent not in stream
        with pytest.raises(UserError, match="has no video"):
            stream.read(absent)


def test_another_spec_is_refused_and_the_differing_keys_are_named(
    tmp_path: Path, spec_of: Spec
) -> None:
    store = Store.create(tmp_path / "s")
    store.create_stream(spec_of(software={"torch": "2.11"}))
    store.create_stream(spec_of(software={"torch": "2.13"}, clip_frames=16.0))  # the same
    other = spec_of(details={"size": 256, "crop": "centre"}, fps=30)
    with pytest.raises(UserError) as caught:
        store.create_stream(other)
    for key in ("details.size: 256 here, 224 there", "details.crop", "fps: 30.0 here, null there"):
        assert key in str(caught.value)
    for key in ("stride_frames", "software", "weights"):
        assert key not in str(caught.value)


def test_every_setting_but_the_software_changes_the_hash(spec_of: Spec) -> None:
    changes: list[dict[str, Any]] = [
        {"stream": "i3d:flow"}, {"backbone": "r50"}, {"modality": "flow"}, {"weights": {}},
        {"fps": 25}, {"clip_frames": 8}, {"stride_frames": 8}, {"offset_frames": 0},
        {"shape": (8, 4)}, {"dtype": "float32"}, {"details": {"size": 225}},
    ]  # fmt: skip
    hashes = {spec_of(**change).hash for change in changes} | {spec_of().hash}
    assert len(hashes) == len(changes) + 1
    assert spec_of(software={"x": "1"}).hash == spec_of().hash
    assert StreamSpec.from_table(json.loads(spec_of().json())) == spec_of()


@pytest.mark.parametrize(
    "bad",
    [{"stride_frames": 0}, {"clip_frames": float("nan")}, {"fps": -1}, {"shape": ()},
     {"shape": (0,)}, {"dtype": "int8"}, {"stream": "../x"}, {"stream": ""}],
)  # fmt: skip
def test_impossible_specs_are_refused(spec_of: Spec, bad: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        spec_of(**bad)


def test_opening_what_is_no_store_is_an_error(tmp_path: Path, spec_of: Spec) -> None:
    with pytest.raises(UserError, match="no feature store"):
        Store.open(tmp_path)
    with pytest.raises(UserError, match="no feature store"):
        Store.open(tmp_path / "absent")
    (tmp_path / "photo.jpg").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        Store.create(tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        Store.create(tmp_path / "photo.jpg")
    store = Store.create(tmp_path / "s")
    with pytest.raises(UserError, match=r"no stream 'i3d:rgb' \(there are: none\)"):
        store.stream("i3d:rgb")
    store.create_stream(spec_of())
    with pytest.raises(UserError, match=r"no stream 'x' \(there are: i3d:rgb\)"):
        store.stream("x")


def test_an_empty_stream_reads_as_empty(tmp_path: Path, spec_of: Spec) -> None:
    stream = Store.create(tmp_path / "s").create_stream(spec_of())
    assert stream.videos == [] and len(stream) == 0 and stream.failed() == []
    assert stream.writer("u").seal() is None
    assert rebuild_index(stream) == 0
    stream.refresh()
    assert stream.videos == []


def test_state_follows_the_source(tmp_path: Path, spec_of: Spec) -> None:
    stream = Store.create(tmp_path / "s").create_stream(spec_of())
    writer = stream.writer("u")
    assert writer.state("a", "1") == "missing"
    writer.fail("a", reason="no frames", source_hash="1", traceback="...")
    assert writer.state("a", "1") == "failed" and writer.state("a", "2") == "missing"
    (failure,) = stream.failed()
    assert (failure.video, failure.reason, failure.unit) == ("a", "no frames", "u")
    commit(stream, "a", np.full((2, 32), 2), source="2")
    for sealed in (False, True):
        if sealed:
            stream.writer("u").seal()
        stream.refresh()
        again = stream.writer("u")
        assert again.state("a", "2") == "done"
        assert stream.writer("another-unit").state("a", "2") == "done"
        assert stream.failed() == []


def test_a_success_ends_all_failures_of_a_video_and_of_no_other(
    tmp_path: Path, spec_of: Spec
) -> None:
    stream = Store.create(tmp_path / "s").create_stream(spec_of())
    for video, source, unit in (("a b", "1", "u"), ("a b", "2", "v"), ("a_b", "1", "u")):
        stream.writer(unit).fail(video, reason="broken", source_hash=source)
    assert [f.video for f in stream.failed()] == ["a b", "a b", "a_b"]
    commit(stream, "a b", np.ones((2, 32)), source="3", unit="w")
    assert [f.video for f in stream.failed()] == ["a_b"]
    stream.refresh()
    stream.writer("w").fail("a b", reason="the new cut is broken", source_hash="4")
    assert [f.reason for f in stream.failed()] == ["the new cut is broken", "broken"]
    assert "a b" in stream and stream.writer("w").state("a b", "4") == "failed"


def test_a_damaged_failure_record_is_named(tmp_path: Path, spec_of: Spec) -> None:
    stream = Store.create(tmp_path / "s").create_stream(spec_of())
    stream.writer("u").fail("a", reason="broken", source_hash="1")
    (path,) = (stream.folder / "failed" / "u").iterdir()
    path.write_text("{")
    with pytest.raises(UserError, match="delete it"):
        stream.failed()


def test_a_changed_source_replaces_the_video_and_the_newest_counts(
    tmp_path: Path, spec_of: Spec
) -> None:
    stream = Store.create(tmp_path / "s").create_stream(spec_of())
    # Forth and back again, sealed at once or together.
    for step, source in enumerate(["old", "new", "old", "newer", "old"]):
        commit(stream, "a", np.full((2, 32), step), source=source)
        if step != 2:
            stream.writer("u").seal()
        stream.refresh()
        assert (stream.read("a") == step).all() and len(stream) == 1
        writer = stream.writer("u")
        assert [s for s in ("old", "new", "newer") if writer.state("a", s) == "done"] == [source]
    rebuild_index(stream)
    stream.refresh()
    assert (stream.read("a") == 4).all() and stream.catalog.num_superseded > 0


def test_the_same_unit_has_the_same_shard_name_wherever_it_is_packed(
    tmp_path: Path, filled: Filled, feats_by_video: dict[str, Feats]
) -> None:
    turned = dict(reversed(feats_by_video.items()))
    names = {
        catalog.list_shards(filled(tmp_path / place, feats).folder)[0].name
        for place, feats in (("s", feats_by_video), ("t", turned))
    }
    assert len(names) == 1
    some = dict(list(feats_by_video.items())[1:])
    assert catalog.list_shards(filled(tmp_path / "u", some).folder)[0].name not in names


def test_shards_of_two_stores_merge_by_moving_files(
    tmp_path: Path, filled: Filled, feats_by_video: dict[str, Feats]
) -> None:
    names = sorted(feats_by_video)
    ours = filled(tmp_path / "a", {name: feats_by_video[name] for name in names[:10]})
    theirs = filled(tmp_path / "b", {name: feats_by_video[name] for name in names[8:]})
    (shard,) = catalog.list_shards(theirs.folder)
    shard.rename(ours.folder / "shards" / shard.name)
    assert rebuild_index(ours) == len(names)
    ours.refresh()
    for video, feats in feats_by_video.items():
        assert np.array_equal(ours.read(video), feats)


def test_a_shard_made_with_other_settings_is_refused(
    tmp_path: Path, spec_of: Spec, filled: Filled
) -> None:
    stream = filled(tmp_path / "a", {"a": np.ones((1, 32), "<f2")})
    other = Store.create(tmp_path / "b").create_stream(spec_of(stride_frames=8))
    commit(other, "b", np.ones((1, 32)))
    shard = other.writer("u").seal()
    assert shard is not None
    shard.rename(stream.folder / "shards" / shard.name)
    stream.refresh()
    with pytest.raises(UserError, match="other settings"):
        stream.read("a")


def test_parts_of_a_crashed_seal_are_dropped_on_resume(
    tmp_path: Path, filled: Filled, spec_of: Spec
) -> None:
    feats = {"a": np.ones((2, 32), "<f2"), "b": np.zeros((2, 32), "<f2")}
    stream = filled(tmp_path / "s", feats)
    commit(stream, "a", feats["a"], source="hash of a", unit="0")  # as if never unlinked
    assert len(catalog.list_parts(stream.folder)) == 1
    assert stream.writer("0").state("a", "hash of a") == "done"
    assert catalog.list_parts(stream.folder) == []


def test_more_shards_than_may_be_open_are_read(
    tmp_path: Path, spec_of: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tad_distill.data.stream.MAX_OPEN_SHARDS", 2)
    stream = Store.create(tmp_path / "s").create_stream(spec_of())
    for i in range(5):
        commit(stream, f"v{i}", np.full((2, 32), i))
        stream.writer("u").seal()
    for i in [*range(5), *reversed(range(5))]:
        assert (stream.read(f"v{i}") == i).all()
    assert len(stream._handles) == 2


def test_units_have_safe_names(tmp_path: Path, spec_of: Spec) -> None:
    stream = Store.create(tmp_path / "s").create_stream(spec_of())
    for name in ("", "../x", ".x", "a b", "a/b"):
        with pytest.raises(UserError, match="unit"):
            stream.writer(name)


def test_importing_the_store_does_not_import_torch() -> None:
    code = "import sys, tad_distill.data.store; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
