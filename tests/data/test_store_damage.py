"""Damage to any file of a store is an error by name, never other numbers; and can be repaired."""

import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from tad_distill.console import UserError
from tad_distill.data import catalog
from tad_distill.data.repair import pack_parts
from tad_distill.data.shards import Damaged
from tad_distill.data.store import Store, Stream, StreamSpec, rebuild_index, repair, verify

Feats = NDArray[np.floating]
Spec = Callable[..., StreamSpec]
Filled = Callable[[Path, Mapping[str, Feats]], Stream]


def truncate(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def zero_page(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(0, len(data), 4096)
    return data[:at] + bytes(len(data[at : at + 4096])) + data[at + 4096 :]


def flip_bit(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def damage_metadata(data: bytes, chance: random.Random) -> bytes:
    """Flip a bit outside the features, which are 32 float16 a row in one block."""
    return flip_bit(data[:2048], chance) + data[2048:]


def outcome(path: Path, feats_by_video: dict[str, Feats]) -> str:
    """How a reader of everything fares: an error, the right numbers, or other ones."""
    try:
        stream = Store.open(path).stream("i3d:rgb")
        if stream.videos != sorted(feats_by_video):
            return "silent"
        for video, feats in feats_by_video.items():
            entry = stream.entry(video)
            if not np.array_equal(stream.read(video), feats) or entry.fps != 25.0:
                return "silent"
    except UserError:
        return "error"
    return "right"


@pytest.mark.parametrize("kind", [truncate, zero_page, flip_bit, damage_metadata])
@pytest.mark.parametrize("which", ["shard", "part", "index", "spec"])
def test_no_damage_is_silent(
    tmp_path: Path,
    filled: Filled,
    feats_by_video: dict[str, Feats],
    kind: Callable[[bytes, random.Random], bytes],
    which: str,
) -> None:
    some = {name: feats_by_video[name] for name in sorted(feats_by_video)[:6]}
    stream = filled(tmp_path / "s", some)
    extra = feats_by_video["video_test_0000019"]
    writer = stream.writer("1")
    writer.commit("extra", extra, fps=25.0, duration_s=9.5, source_hash="s")
    (part,) = catalog.list_parts(stream.folder)
    target = {
        "shard": catalog.list_shards(stream.folder)[0],
        "part": part,
        "index": stream.folder / "index.h5",
        "spec": stream.folder / "spec.json",
    }[which]
    expected = some | {"extra": extra}
    good, chance = target.read_bytes(), random.Random(f"{kind.__name__} {which}")
    counts = {"error": 0, "right": 0, "silent": 0}
    for _ in range(40):
        target.write_bytes(kind(good, chance))
        found = outcome(tmp_path / "s", expected)
        counts[found] += 1
        if found == "error":
            try:
                assert verify(Store.open(tmp_path / "s")) != [], "verify overlooks it"
            except UserError:
                assert which == "spec"
    assert counts["silent"] == 0
    if which in ("shard", "part") and kind in (truncate, flip_bit):
        assert counts["error"] > 20, "the damage did not hit"
    target.write_bytes(good)
    assert outcome(tmp_path / "s", expected) == "right"


def test_a_window_of_a_truncated_shard_is_an_error(
    tmp_path: Path, filled: Filled, feats_by_video: dict[str, Feats]
) -> None:
    stream = filled(tmp_path / "s", feats_by_video)
    stream.read(stream.videos[0])
    (shard,) = catalog.list_shards(stream.folder)
    last = max(stream.videos, key=lambda v: stream.catalog.columns["off"][stream.catalog.find(v)])
    with shard.open("r+b") as file:  # under the open handle
        file.truncate(5000)
    with pytest.raises(Damaged, match="ends before"):
        stream.read(last, 0, 1)


def test_a_missing_or_changed_shard_is_an_error_by_name_and_never_zeros(
    tmp_path: Path, filled: Filled, feats_by_video: dict[str, Feats]
) -> None:
    stream = filled(tmp_path / "s", feats_by_video)
    (shard,) = catalog.list_shards(stream.folder)
    video = stream.videos[0]
    kept = shard.rename(tmp_path / "kept.h5")
    with pytest.raises(UserError, match=rf"{shard.name}: gone"):
        stream.read(video)
    fresh = Store.open(tmp_path / "s").stream("i3d:rgb")
    with pytest.raises(UserError, match=rf"{shard.name}: is missing, index.h5 lists it"):
        fresh.read(video)
    with pytest.raises(UserError, match="is missing"):
        fresh.writer("0")
    shard.write_bytes(kept.read_bytes() + b"x")
    with pytest.raises(UserError, match=r"index.h5 says [\d,]+"):
        fresh.read(video)
    shutil.copy(kept, shard)
    assert np.array_equal(fresh.read(video), feats_by_video[video])


def test_verify_names_every_damaged_video_and_quick_only_what_it_can_see(
    tmp_path: Path, filled: Filled, feats_by_video: dict[str, Feats]
) -> None:
    stream = filled(tmp_path / "s", feats_by_video)
    (shard,) = catalog.list_shards(stream.folder)
    store = Store.open(tmp_path / "s")
    assert verify(store) == []
    bad = ["video_test_0000003", "日本 の ビデオ"]
    columns = stream.catalog.columns
    with h5py.File(shard) as file:
        offset = file["x"].id.get_offset()
    data = bytearray(shard.read_bytes())
    for video in bad:
        data[offset + 64 * int(columns["off"][stream.catalog.find(video)])] ^= 1
    shard.write_bytes(data)
    assert verify(store, quick=True) == []
    findings = verify(store)
    assert [finding.video for finding in findings] == bad
    assert all(finding.damaged and shard.name in str(finding) for finding in findings)
    shard.unlink()
    assert sorted(f.video or "" for f in verify(store, quick=True)) == sorted(feats_by_video)


def test_repair_loses_only_the_damaged_videos(
    tmp_path: Path, filled: Filled, feats_by_video: dict[str, Feats]
) -> None:
    stream = filled(tmp_path / "s", feats_by_video)
    (shard,) = catalog.list_shards(stream.folder)
    data = bytearray(shard.read_bytes())
    with h5py.File(shard) as file:
        at = file["x"].id.get_offset()
        names = file["index/id"].asstr()[:].tolist()
        span = int(file["index/len"][0]) * 64
    data[at + 5] ^= 4  # in the first video
    data[at + span + 3] ^= 4  # and in the second
    shard.write_bytes(data)
    store = Store.open(tmp_path / "s")
    done = repair(store)
    assert done.lost == [("i3d:rgb", name) for name in names[:2]]
    assert done.num_salvaged == len(names) - 2
    assert [p.parent.name for p in done.quarantined] == ["quarantine"]
    assert verify(store) == []
    stream.refresh()
    assert stream.videos == names[2:]
    for video in names[2:]:
        assert np.array_equal(stream.read(video), feats_by_video[video])
    writer = stream.writer("0")
    states = {name: writer.state(name, f"hash of {name}") for name in names}
    assert [name for name, state in states.items() if state == "missing"] == names[:2]
    again = repair(store)
    assert not (again.lost or again.quarantined or again.num_salvaged)


def test_repair_of_a_wreck_lists_its_videos(
    tmp_path: Path, filled: Filled, feats_by_video: dict[str, Feats]
) -> None:
    stream = filled(tmp_path / "s", feats_by_video)
    (shard,) = catalog.list_shards(stream.folder)
    shard.write_bytes(b"not HDF5")
    store = Store.open(tmp_path / "s")
    done = repair(store)
    assert [video for _, video in done.lost] == sorted(feats_by_video)
    assert verify(store) == []
    shard.write_bytes(b"again")  # another file of the same name is not overwritten in quarantine
    assert len(repair(store).quarantined) == 1
    assert len(list((stream.folder / "quarantine").iterdir())) == 2


def test_repair_after_a_lost_shard_forgets_it(
    tmp_path: Path, filled: Filled, feats_by_video: dict[str, Feats]
) -> None:
    stream = filled(tmp_path / "s", feats_by_video)
    catalog.list_shards(stream.folder)[0].unlink()
    done = repair(Store.open(tmp_path / "s"))
    assert len(done.lost) == len(feats_by_video) and done.quarantined == []
    stream.refresh()
    assert stream.videos == []


def test_the_index_may_be_deleted_or_damaged_without_loss(
    tmp_path: Path,
    filled: Filled,
    feats_by_video: dict[str, Feats],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = filled(tmp_path / "s", feats_by_video)
    index = stream.folder / "index.h5"
    whole = index.read_bytes()
    index.unlink()
    assert outcome(tmp_path / "s", feats_by_video) == "right"
    index.write_bytes(whole[:-100])
    assert outcome(tmp_path / "s", feats_by_video) == "right"
    assert "index.h5: ignored" in capsys.readouterr().err
    assert rebuild_index(stream) == len(feats_by_video)
    assert verify(Store.open(tmp_path / "s")) == []


def test_verify_tells_features_that_do_not_reproduce(tmp_path: Path, spec_of: Spec) -> None:
    store = Store.create(tmp_path / "s")
    stream = store.create_stream(spec_of())
    for unit, value in (("0", 1.0), ("1", 2.0), ("2", 1.0)):
        writer = stream.writer(unit)
        for video in ("a", f"only in {unit}"):
            writer.commit(
                video, np.full((2, 32), value), fps=25.0, duration_s=None, source_hash="s"
            )
    findings = verify(store)
    assert {finding.video for finding in findings} == {"a"}
    assert all("not deterministic" in str(f) and not f.damaged for f in findings)
    for unit in ("0", "1", "2"):
        stream.writer(unit).seal()
    assert verify(store) == []  # the first that was sealed stays, the other parts are dropped
    assert (stream.read("a") == 1).all()


def test_verify_tells_two_sources_that_both_count(tmp_path: Path, spec_of: Spec) -> None:
    store = Store.create(tmp_path / "s")
    stream = store.create_stream(spec_of())
    writers = [stream.writer(unit) for unit in "01"]  # neither knows of the other
    for writer, source in zip(writers, ("one", "two"), strict=True):
        writer.commit("a", np.ones((2, 32)), fps=25.0, duration_s=None, source_hash=source)
    (finding,) = verify(store)
    assert "another source" in str(finding) and not finding.damaged


def test_parts_that_nobody_seals_can_be_packed(
    tmp_path: Path, spec_of: Spec, feats_by_video: dict[str, Feats]
) -> None:
    store = Store.create(tmp_path / "s")
    stream = store.create_stream(spec_of())
    for i, (video, feats) in enumerate(sorted(feats_by_video.items())):
        writer = stream.writer(f"unit-{i % 3}")
        writer.commit(video, feats, fps=25.0, duration_s=9.5, source_hash="s")
    assert len(pack_parts(store)) == 3
    assert catalog.list_parts(stream.folder) == []
    assert outcome(tmp_path / "s", feats_by_video) == "right"


def test_a_damaged_part_is_not_packed(
    tmp_path: Path, spec_of: Spec, feats_by_video: dict[str, Feats]
) -> None:
    store = Store.create(tmp_path / "s")
    stream = store.create_stream(spec_of())
    writer = stream.writer("0")
    for video in ("video_test_0000001", "video_test_0000002"):
        writer.commit(video, feats_by_video[video], fps=25.0, duration_s=None, source_hash="s")
    part = catalog.list_parts(stream.folder)[0]
    data = bytearray(part.read_bytes())
    with h5py.File(part) as file:
        data[file["x"].id.get_offset()] ^= 1
    part.write_bytes(data)
    with pytest.raises(Damaged, match="video_test_0000001"):
        writer.seal()
    assert catalog.list_shards(stream.folder) == [] and len(catalog.list_parts(stream.folder)) == 2
    assert repair(store).quarantined
    assert stream.writer("0").state("video_test_0000001", "s") == "missing"
    assert writer.seal() is not None
