"""Features made elsewhere come in unchanged, and what cannot come in is named."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from tad_distill.cli import main
from tad_distill.console import UsageError, UserError
from tad_distill.data.importers import Clock, Report, Selection, Target, import_features
from tad_distill.data.store import Store, Stream
from tad_distill.data.timeline import Timeline

Feats = NDArray[np.floating]

CLOCK: dict[str, Any] = {"fps": 30.0, "clip_frames": 16.0, "stride_frames": 4.0}


def take(
    form: str, source: Path, store: Path, clock: Clock | None = None, **selection: Any
) -> tuple[Report, Stream]:
    target = Target(store=store, stream="i3d:rgb", dtype="float32")
    chosen = Selection(**selection)
    report = import_features(form, source, chosen, clock or Clock.of(**CLOCK), target)
    return report, Store.open(store).stream("i3d:rgb")


@pytest.fixture
def arrays() -> dict[str, Feats]:
    rng = np.random.default_rng(0)
    names = ["video_a", "v_ß -2", "c"]
    return {n: rng.standard_normal((5 + i, 12)).astype("<f4") for i, n in enumerate(names)}


def write_npy(folder: Path, arrays: dict[str, Feats]) -> None:
    folder.mkdir()
    for name, feats in arrays.items():
        np.save(folder / f"{name}.npy", feats)


def write_csv(folder: Path, arrays: dict[str, Feats], header: bool = True) -> None:
    folder.mkdir()
    for name, feats in arrays.items():
        top = ",".join(f"f{i}" for i in range(feats.shape[1])) if header else ""
        np.savetxt(folder / f"{name}.csv", feats, "%.9g", ",", header=top, comments="")
        if not header:
            text = (folder / f"{name}.csv").read_text()
            (folder / f"{name}.csv").write_text(text.lstrip("\n"))


def write_h5(path: Path, arrays: dict[str, Feats]) -> None:
    with h5py.File(path, "w") as file:
        for name, feats in arrays.items():
            file[name] = feats


def write_npz(path: Path, arrays: dict[str, Feats]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


WRITERS: dict[str, Callable[[Path, dict[str, Feats]], None]] = {
    "npy": write_npy,
    "csv": write_csv,
    "h5": write_h5,
    "npz": write_npz,
}


@pytest.mark.parametrize("form", WRITERS)
def test_every_form_comes_in_unchanged(tmp_path: Path, arrays: dict[str, Feats], form: str) -> None:
    WRITERS[form](tmp_path / "src", arrays)
    report, stream = take(form, tmp_path / "src", tmp_path / "s")
    assert (report.num_sources, report.num_done, report.num_failed) == (3, 3, 0)
    assert stream.videos == sorted(arrays)
    for name, feats in arrays.items():
        assert np.array_equal(stream.read(name), feats)
        assert stream.timeline(name) == Timeline(fps=30, stride_frames=4, offset_frames=8)
    again, _ = take(form, tmp_path / "src", tmp_path / "s")
    assert (again.num_done, again.num_there) == (0, 3)


def test_csv_without_a_header(tmp_path: Path, arrays: dict[str, Feats]) -> None:
    write_csv(tmp_path / "src", arrays, header=False)
    _, stream = take("csv", tmp_path / "src", tmp_path / "s")
    for name, feats in arrays.items():
        assert np.array_equal(stream.read(name), feats)


def test_npz_with_joined_rows(tmp_path: Path, arrays: dict[str, Feats]) -> None:
    joined = np.concatenate(list(arrays.values()))
    offsets = np.cumsum([0, *(len(feats) for feats in arrays.values())])
    path = tmp_path / "x.npz"
    np.savez(
        path, names=list(arrays), labels=list("xyz"), offsets=offsets, rgb=joined, flow=-joined
    )
    _, stream = take("npz", path, tmp_path / "s", key="flow")
    for name, feats in arrays.items():
        assert np.array_equal(stream.read(name), -feats)
    with pytest.raises(UserError, match="rgb, flow; name the one to take with --key"):
        take("npz", path, tmp_path / "t")
    np.savez(path, names=list(arrays), offsets=offsets[:-1], rgb=joined)
    with pytest.raises(UserError, match="expected"):
        take("npz", path, tmp_path / "t")


def test_npz_with_a_file_per_video(tmp_path: Path, arrays: dict[str, Feats]) -> None:
    (tmp_path / "src").mkdir()
    for name, feats in arrays.items():
        np.savez(tmp_path / "src" / f"{name}.npz", feats=feats, other=np.zeros(3))
    _, stream = take("npz", tmp_path / "src", tmp_path / "s")
    assert np.array_equal(stream.read("c"), arrays["c"])


def test_channels_names_and_rates_are_chosen(tmp_path: Path, arrays: dict[str, Feats]) -> None:
    write_npy(tmp_path / "src", {f"v_{name}_rgb": feats for name, feats in arrays.items()})
    table = tmp_path / "rates.json"
    table.write_text(json.dumps({"video_a": 24.0, "v_ß -2": 25, "c": 29.97}))
    clock = Clock.of(fps_from=table, clip_frames=16, stride_frames=8, offset_frames=0)
    report, stream = take(
        "npy", tmp_path / "src", tmp_path / "s", clock, channels=(4, 8), prefix="v_", suffix="_rgb"
    )
    assert report.num_failed == 0 and stream.spec.shape == (4,)
    assert np.array_equal(stream.read("video_a"), arrays["video_a"][:, 4:8])
    assert stream.timeline("c") == Timeline(fps=29.97, stride_frames=8, offset_frames=0)
    assert stream.spec.details["channels"] == [4, 8]


def test_rows_that_divide_a_video_evenly_lie_where_it_says(tmp_path: Path) -> None:
    write_npy(tmp_path / "src", {"a": np.zeros((100, 12)), "b": np.zeros((50, 12))})
    annotations = tmp_path / "annotations.json"
    entry = {"subset": "training", "duration": 20.0, "fps": 30.0, "annotations": []}
    annotations.write_text(json.dumps({"database": {"a": entry, "b": entry}}))
    clock = Clock.of(fps_from=annotations, evenly=True)
    _, stream = take("npy", tmp_path / "src", tmp_path / "s", clock)
    for name, num_steps in (("a", 100), ("b", 50)):
        timeline = stream.timeline(name)
        step = 20 / num_steps
        assert timeline.to_seconds(0.0) == pytest.approx(step / 2)
        assert timeline.to_seconds(num_steps - 1.0) == pytest.approx(20 - step / 2)
        assert stream.entry(name).duration_s == 20


def test_what_is_wrong_with_a_source_is_named_and_the_others_come_in(
    tmp_path: Path, arrays: dict[str, Feats], capsys: pytest.CaptureFixture[str]
) -> None:
    src = tmp_path / "src"
    write_npy(src, arrays)
    np.save(src / "nan.npy", np.full((4, 12), np.nan))
    np.save(src / "narrow.npy", np.zeros((4, 11)))
    np.save(src / "cube.npy", np.zeros((4, 12, 1)))
    np.save(src / "none.npy", np.zeros((0, 12)))
    np.save(src / "objects.npy", np.array([{}, {}], object), allow_pickle=True)
    np.save(src / "words.npy", np.full((4, 12), "x"))
    (src / "empty.npy").touch()
    (src / "text.npy").write_text("hello")
    (src / "notes.txt").write_text("not a feature file")
    np.save(src / "cut.npy", np.zeros((4, 12)))
    (src / "cut.npy").write_bytes((src / "cut.npy").read_bytes()[:-50])
    code = run("import", "npy", src, "--store", tmp_path / "s", *options())
    said = capsys.readouterr()
    assert code == 1 and "Error: 9 of 12 sources were not imported" in said.err
    for name, reason in {
        "nan": "48 of 48 features are not finite",
        "narrow": "(4, 11), i3d:rgb has (T, 12)",
        "cube": "(4, 12, 1), expected (T, C)",
        "none": "no features (0 steps)",
        "objects": "expected a (T, C) array",
        "words": "expected numbers",
        "empty": "expected a (T, C) array",
        "text": "expected a (T, C) array",
        "cut": "expected a (T, C) array",
    }.items():
        lines = [line for line in said.err.splitlines() if f"{src / name}.npy" in line]
        assert len(lines) == 1 and reason in lines[0], (name, lines)
    stream = Store.open(tmp_path / "s").stream("i3d:rgb")
    assert stream.videos == sorted(arrays)
    assert np.array_equal(stream.read("c"), arrays["c"].astype("<f2"))


def test_a_video_without_a_rate_is_named(
    tmp_path: Path, arrays: dict[str, Feats], capsys: pytest.CaptureFixture[str]
) -> None:
    write_npy(tmp_path / "src", arrays)
    table = tmp_path / "rates.json"
    table.write_text(json.dumps({"video_a": 24.0}))
    clock = Clock.of(fps_from=table, clip_frames=16, stride_frames=8)
    report, stream = take("npy", tmp_path / "src", tmp_path / "s", clock)
    assert stream.videos == ["video_a"] and report.num_failed == 2
    assert "no frames per second for video c in" in capsys.readouterr().err


def test_one_odd_file_in_front_does_not_decide_the_width(
    tmp_path: Path, arrays: dict[str, Feats]
) -> None:
    write_npy(tmp_path / "src", {"0": np.zeros((3, 5)), **arrays})
    report, stream = take("npy", tmp_path / "src", tmp_path / "s")
    assert stream.spec.shape == (12,) and report.num_failed == 1


def test_two_files_of_one_name_are_named(
    tmp_path: Path, arrays: dict[str, Feats], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "src").mkdir()
    write_h5(tmp_path / "src" / "val.h5", arrays)
    write_h5(tmp_path / "src" / "test.h5", {"c": arrays["c"] + 1})
    with h5py.File(tmp_path / "src" / "test.h5", "a") as file:
        file.create_group("meta")
    report, stream = take("h5", tmp_path / "src", tmp_path / "s")
    said = capsys.readouterr().err
    assert "val.h5: c: video c again, as in" in said and "meta: is a group" in said
    assert report.num_failed == 2 and np.array_equal(stream.read("c"), arrays["c"] + 1)


def test_other_settings_for_the_same_stream_are_refused(
    tmp_path: Path, arrays: dict[str, Feats]
) -> None:
    write_npy(tmp_path / "src", arrays)
    take("npy", tmp_path / "src", tmp_path / "s")
    with pytest.raises(UserError, match="stride_frames: 8.0 here, 4.0 there"):
        take("npy", tmp_path / "src", tmp_path / "s", Clock.of(**(CLOCK | {"stride_frames": 8.0})))


def test_nothing_to_import_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    with pytest.raises(UserError, match=r"no \.npy file"):
        take("npy", tmp_path / "src", tmp_path / "s")
    with pytest.raises(UserError, match="no such file or folder"):
        take("npy", tmp_path / "absent", tmp_path / "s")
    np.save(tmp_path / "src" / "a.npy", np.zeros((4, 12, 1)))
    target = Target(store=tmp_path / "s", stream="i3d:rgb")
    report = import_features("npy", tmp_path / "src", Selection(), Clock.of(**CLOCK), target)
    assert report.num_failed == 1 and not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"fps": 30.0},
        {"clip_frames": 16.0, "stride_frames": 4.0},
        {"evenly": True},
        {"evenly": True, "fps": 30.0},
    ],
)
def test_time_must_be_said_completely(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--"):
        Clock.of(**bad)


def options() -> list[str]:
    return "--stream i3d:rgb --fps 30 --clip-frames 16 --stride-frames 4".split()


def run(*words: object) -> int:
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    handlers = [signal.getsignal(number) for number in numbers]
    with pytest.raises(SystemExit) as ended:
        main(["data", *map(str, words)])
    for number, handler in zip(numbers, handlers, strict=True):  # main lets them ask for a stop
        signal.signal(number, handler)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_misuse_of_the_command_exits_2(
    tmp_path: Path, arrays: dict[str, Feats], capsys: pytest.CaptureFixture[str]
) -> None:
    write_npy(tmp_path / "src", arrays)
    base = ["import", "npy", tmp_path / "src", "--store", tmp_path / "s"]
    assert run(*base, *options(), "--channels", "8") == 2
    assert run(*base, *options(), "--channels", "8:4") == 2
    assert run(*base, "--stream", "i3d", *options()[2:]) == 2
    assert run(*base, *options()[:4]) == 2
    assert run("import", "tar", tmp_path / "src") == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_real_gym_features_come_in(shared: Path, tmp_path: Path) -> None:
    path = shared / "real/features/gym_i3d/gym_i3d.npz"
    clock = Clock.of(fps=25, clip_frames=64, stride_frames=64)
    with np.load(path) as file:
        names, offsets, flow = file["names"], file["offsets"], file["flow"]
    few = tmp_path / "few.npz"
    np.savez(few, names=names[:30], offsets=offsets[:31], flow=flow[: offsets[30]])
    target = Target(store=tmp_path / "s", stream="i3d:flow")
    report = import_features("npz", few, Selection(), clock, target)
    assert report.num_done == 30
    stream = Store.open(tmp_path / "s").stream("i3d:flow")
    for i, name in enumerate(names[:30]):
        assert np.array_equal(stream.read(str(name)), flow[offsets[i] : offsets[i + 1]])


def test_real_activitynet_csv_comes_in(shared: Path, tmp_path: Path) -> None:
    folder = shared / "real/features/anet_tsn"
    table = tmp_path / "durations.csv"
    table.write_text("video,duration\nv_test1,211.5\nv_test2,30\n")
    clock = Clock.of(fps_from=table, evenly=True)
    target = Target(store=tmp_path / "s", stream="tsn:rgb", dtype="float32")
    report = import_features("csv", folder / "v_test1.csv", Selection(), clock, target)
    assert report.num_done == 1
    stream = Store.open(tmp_path / "s").stream("tsn:rgb")
    expected = np.loadtxt(folder / "v_test1.csv", delimiter=",", skiprows=1, dtype=np.float32)
    assert np.array_equal(stream.read("v_test1"), expected)
    last = stream.timeline("v_test1").to_seconds(len(expected) - 0.5)
    assert last == pytest.approx(211.5)
