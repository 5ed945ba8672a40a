"""Every kind of mismatch between annotations, files, features and detections is found and named."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tad_distill.cli import main
from tad_distill.console import UserError
from tad_distill.data.annotations import Annotation, AnnotationSet, Video
from tad_distill.data.check import KINDS, Checker, FileFacts, name_hint
from tad_distill.data.store import Store, Stream, StreamSpec


def annotated(**durations_s: float | None) -> AnnotationSet:
    videos = {
        name: Video(name, "test", duration_s, 10.0, (Annotation("Jump", 1.0, 2.0),))
        for name, duration_s in durations_s.items()
    }
    return AnnotationSet(videos, ("Jump",))


def probe(facts: Mapping[str, FileFacts | str]) -> Callable[[Path], FileFacts]:
    """A probe that answers from a table; a text is the reason why a file is broken."""

    def answer(path: Path) -> FileFacts:
        found = facts[path.stem]
        if isinstance(found, str):
            raise UserError(f"{path}: {found}")
        return found

    return answer


def kinds(checker: Checker) -> dict[str, str]:
    """The mismatches by video."""
    return {mismatch.video: mismatch.kind for mismatch in checker.report.mismatches}


def files(*names: str) -> list[Path]:
    return [Path("videos") / f"{name}.mp4" for name in names]


def test_files_and_annotations_that_agree_are_clean() -> None:
    checker = Checker(annotated(a=10.0, b=20.0))
    checker.annotations()
    checker.files(files("a", "b"), probe({"a": FileFacts(10.3), "b": FileFacts(19.8)}))
    assert checker.report.mismatches == []
    assert checker.report.checked == {"annotated videos": 2, "video files": 2}


def test_every_mismatch_of_files_is_named() -> None:
    checker = Checker(annotated(a=10.0, b=20.0, c=30.0, d=None, e=5.0))
    checker.files(
        [*files("a", "b", "d", "e", "x"), Path("more/a.avi")],
        probe(
            {
                "a": FileFacts(12.0),
                "b": "no frame decodes",
                "d": FileFacts(1.2),
                "e": FileFacts(5.0, ("damaged at 1 place(s)",)),
                "x": "the file is empty",
            }
        ),
    )
    found = [(m.kind, m.video, m.message) for m in checker.report.mismatches]
    assert found == [
        ("twin_files", "a", "videos/a.mp4 has the same name"),
        ("no_file", "c", "annotated, but not among the video files"),
        ("no_annotation", "x", "not annotated"),
        ("broken_file", "b", "no frame decodes"),
        ("broken_file", "x", "the file is empty"),
        ("duration", "a", "lasts 12.00 s, by the annotations 10.00 s"),
        ("outside", "d", "annotation 0 (Jump): [1, 2] s in a video of 1.20 s"),
        ("broken_file", "e", "damaged at 1 place(s)"),
    ]


def test_annotations_beyond_the_duration_beside_them_are_named() -> None:
    checker = Checker(annotated(a=1.4, b=1.6))
    checker.annotations()
    assert kinds(checker) == {"a": "outside"}


def test_the_tolerance_decides_what_differs() -> None:
    for tolerance_s, expected in ((0.5, {}), (0.1, {"a": "duration"})):
        checker = Checker(annotated(a=10.0), tolerance_s)
        checker.files(files("a"), probe({"a": FileFacts(10.3)}))
        assert kinds(checker) == expected


def test_videos_of_other_subsets_are_annotated() -> None:
    checker = Checker(annotated(a=10.0))
    checker.also_known(["other"])
    checker.files(files("a", "other"), probe({"a": FileFacts(10.0), "other": FileFacts(10.0)}))
    assert checker.report.mismatches == []


def feats(num_steps: int) -> np.ndarray:
    return np.zeros((num_steps, 3), np.float32)


def stream_of(
    path: Path,
    videos: Mapping[str, tuple[int, float | None]],
    failed: Mapping[str, str] | None = None,
) -> Stream:
    """A stream of 16-frame clips every 4 frames at 10 frames per second: steps and duration."""
    spec = StreamSpec(
        stream="m:rgb", backbone="m", modality="rgb", weights={}, fps=None, clip_frames=16,
        stride_frames=4, offset_frames=8, shape=(3,), dtype="float32", details={}, software={},
    )  # fmt: skip
    stream = Store.create(path).create_stream(spec)
    writer = stream.writer("all")
    for video, (num_steps, duration_s) in videos.items():
        writer.commit(video, feats(num_steps), fps=10.0, duration_s=duration_s, source_hash="h")
    for video, reason in (failed or {}).items():
        writer.fail(video, reason=reason, source_hash="h", traceback="")
    writer.seal()
    stream.refresh()
    return stream


def test_features_that_cover_the_video_are_clean(tmp_path: Path) -> None:
    # Clips of 16 frames every 4 frames, wholly inside 100 frames: the last one is number 21.
    checker = Checker(annotated(a=10.0))
    checker.stream(stream_of(tmp_path, {"a": (22, 10.0)}))
    assert checker.report.mismatches == []


def test_every_mismatch_of_a_stream_is_named(tmp_path: Path) -> None:
    checker = Checker(annotated(short=10.0, long=10.0, lasts=10.0, gone=10.0, broken=10.0, ok=10.0))
    stream = stream_of(
        tmp_path,
        {
            "short": (10, 10.0),
            "long": (40, 10.0),
            "lasts": (72, 30.0),
            "extra": (22, 10.0),
            "ok": (22, None),
        },
        failed={"broken": "no frame decodes"},
    )
    checker.stream(stream)
    assert kinds(checker) == {
        "broken": "failed_features",
        "gone": "no_features",
        "extra": "no_annotation",
        "short": "short_features",
        "long": "long_features",
        "lasts": "duration",
    }
    (short,) = (m for m in checker.report.mismatches if m.kind == "short_features")
    # The tenth clip ends 9 * 4 + 16 = 52 frames after the start.
    assert short.message.startswith("10 features end at 5.20 s of 10.00 s")
    assert short.where == "stream m:rgb"


def test_every_mismatch_of_detections_is_named() -> None:
    rows = [("a", "Jump", 0.5, 0.0, 11.0), ("x", "Fly", 0.5, 0.0, 1.0), ("a", "Fly", 0.5, 0.0, 1.0)]
    table = pd.DataFrame(rows, columns=["video", "label", "score", "start_s", "end_s"])
    checker = Checker(annotated(a=10.0, b=10.0, c=10.0))
    checker.detections(table, ["a", "x", "c"])
    found = [(m.kind, m.video) for m in checker.report.mismatches]
    assert found == [
        ("no_detections", "b"), ("no_annotation", "x"), ("unknown_label", "Fly"), ("outside", "a"),
    ]  # fmt: skip
    assert checker.report.mismatches[2].message == "2 detections have it"


def test_no_detections_at_all_are_named() -> None:
    table = pd.DataFrame(columns=["video", "label", "score", "start_s", "end_s"])
    checker = Checker(annotated(a=10.0))
    checker.detections(table.astype({"end_s": float}), [])
    assert kinds(checker) == {"a": "no_detections"}


@pytest.mark.parametrize(
    ("lacking", "strange", "hint"),
    [
        (["v_a", "v_b", "v_c"], ["a", "b", "x"], "a leading v_: 2 of 3 would fit"),
        (["Run"], ["run"], "upper and lower case: 1 of 1 would fit"),
        (["a"], ["a.resized"], "what follows a dot: 1 of 1 would fit"),
        (["a"], ["b"], ""),
        ([], ["b"], ""),
    ],
)
def test_names_that_differ_in_a_usual_way_give_a_hint(
    lacking: list[str], strange: list[str], hint: str
) -> None:
    assert hint in name_hint(lacking, strange)
    assert bool(hint) == bool(name_hint(lacking, strange))


def test_a_stop_request_ends_the_probing(monkeypatch: pytest.MonkeyPatch) -> None:
    from tad_distill import console

    monkeypatch.setattr(console, "_stop_signal", 15)
    with pytest.raises(console.Interrupted, match="SIGTERM"):
        Checker(annotated(a=1.0)).files(files("a"), probe({"a": FileFacts(1.0)}))


# The command


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["data", "check", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def world(tmp_path: Path, shared: Path) -> dict[str, Path]:
    """A folder of real videos with annotations that fit them."""
    folder = tmp_path / "videos"
    folder.mkdir()
    database: dict[str, Any] = {}
    for name, duration_s in (("v_GGSY1Qvo990", 18.09), ("tennis26", 11.27)):
        source = shared / "real" / "videos" / "untrimmed" / f"{name}.mp4"
        (folder / source.name).write_bytes(source.read_bytes())
        annotations = [{"label": "Run", "segment": [1, 2]}]
        database[name] = {"subset": "test", "duration": duration_s, "annotations": annotations}
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"database": database}))
    return {"videos": folder, "annotations": path}


def test_the_command_ends_with_0_when_all_fits(
    world: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--annotations", world["annotations"], "--videos", world["videos"], "--decode") == 0
    assert capsys.readouterr().out.splitlines() == [
        "checked: 2 annotated videos, 2 video files",
        "no mismatch",
    ]


def test_the_command_names_what_is_wrong_and_ends_with_1(
    world: dict[str, Path], tmp_path: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("corrupted.mp4", "result.webm"):
        (world["videos"] / name).write_bytes((shared / "real" / "odd" / name).read_bytes())
    detections = tmp_path / "found.json"
    found = [{"label": "Fly", "score": 1, "segment": [0, 1]}]
    detections.write_text(json.dumps({"results": {"tennis26": found}}))
    stream_of(tmp_path / "store", {"tennis26": (10, 11.27)})
    arguments = ["--annotations", world["annotations"], "--videos", world["videos"],
                 "--store", tmp_path / "store", "--detections", detections]  # fmt: skip
    assert run(*arguments) == 1
    assert "broken_file: 1 (a file is no video, or is damaged)" in capsys.readouterr().out
    assert run(*arguments, "--decode", "--json") == 1  # finds what opening a file does not
    document = json.loads(capsys.readouterr().out)
    assert document["counts"] == {
        "no_annotation": 2,
        "broken_file": 2,
        "no_features": 1,
        "short_features": 1,
        "no_detections": 1,
        "unknown_label": 1,
    }
    assert {m["kind"] for m in document["mismatches"]} == document["counts"].keys()
    ignored = [option for kind in document["counts"] for option in ("--ignore", kind)]
    assert run(*arguments, *ignored) == 0


def test_many_mismatches_are_cut_short_unless_asked_for(
    tmp_path: Path, world: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "many.csv"
    rows = "\n".join(f"video{i},Run,0,1" for i in range(50))
    path.write_text(f"video,label,start_s,end_s\n{rows}\n")
    arguments = ["--annotations", path, "--videos", world["videos"]]
    assert run(*arguments) == 1
    assert "  ... and 30 more: --all or --json" in capsys.readouterr().out
    assert run(*arguments, "--all") == 1
    assert capsys.readouterr().out.count("annotated, but not among the video files") == 50


def test_an_unknown_kind_is_misuse(
    world: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--annotations", world["annotations"], "--ignore", "ghosts") == 2
    error = capsys.readouterr().err
    assert all(kind in error for kind in KINDS)
