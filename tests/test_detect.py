"""A run and a video file give detections, without anything else at hand."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tad_distill.detect import named_videos

pytestmark = pytest.mark.slow


def tad_distill(*args: object) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-P", "-m", "tad_distill", *map(str, args)]
    return subprocess.run(line, capture_output=True, text=True)


def done(*args: object) -> str:
    ended = tad_distill(*args)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny world, its features and a barely trained student with its teacher."""
    out = tmp_path_factory.mktemp("detect")
    done("data", "world", out / "world", "--size", "tiny")
    streams = ["--stream", "tsm_mini:rgb", "--weights", "tsm_mini:rgb=random:0"]
    streams += ["--stream", "tsm_mini:tg_luma", "--weights", "tsm_mini:tg_luma=random:1"]
    streams += ["--stream", "tsm_mini:rgb@layer2", "--weights", "tsm_mini:rgb@layer2=random:0"]
    videos, annotations = out / "world/videos", out / "world/annotations.json"
    done("extract", videos, *streams, "--store", out / "features", "--preset", "world")
    data = ["--store", out / "features", "--annotations", annotations, "--set", "train.steps=3"]
    done("train", "--preset", "world_teacher", *data, "--out", out / "teacher")
    teacher = ["--teacher", out / "teacher"]
    done("train", "--preset", "world_student", *data, *teacher, "--out", out / "student")
    return out


def test_a_video_gives_the_detections_that_its_stored_features_give(
    world: Path, tmp_path: Path
) -> None:
    video = world / "world/videos/test_0001.mp4"
    student = ["--model", world / "student"]
    done("detect", video, *student, "--out", tmp_path / "a.json")
    done("detect", world / "features", *student, "--out", tmp_path / "b.json")
    from_video = json.loads((tmp_path / "a.json").read_text())
    from_store = json.loads((tmp_path / "b.json").read_text())
    assert list(from_video["results"]) == ["test_0001"]
    found, stored = (d["results"]["test_0001"] for d in (from_video, from_store))
    assert len(found) == len(stored) > 0
    for one, other in zip(found, stored, strict=True):
        assert one["label"] == other["label"]
        assert one["segment"] == pytest.approx(other["segment"], abs=1e-3)
    assert from_video["provenance"]["preset"] == "world_student"
    assert (tmp_path / "a.csv").read_text().count("\n") == len(found) + 1
    assert (tmp_path / "a_timelines/test_0001.png").stat().st_size > 5_000
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith("tmp")} == set()


def test_a_student_with_an_adapter_reads_a_video_as_it_reads_the_store(
    world: Path, tmp_path: Path
) -> None:
    data = ["--store", world / "features", "--annotations", world / "world/annotations.json"]
    adapt = ["adapt", "--preset", "world_adapter", *data, "--set", "train.steps=2"]
    done(*adapt, "--out", world / "adapter")
    train = ["train", "--preset", "world_adapter_student", *data, "--set", "train.steps=3"]
    done(*train, "--teacher", world / "teacher", "--out", tmp_path / "run")
    video, kept = world / "world/videos/test_0001.mp4", tmp_path / "kept"
    model = ["--model", tmp_path / "run"]
    done("detect", video, *model, "--store", kept, "--out", tmp_path / "a.json")
    done("detect", world / "features", *model, "--out", tmp_path / "b.json")
    made = sorted(path.name for path in kept.iterdir() if path.is_dir())
    assert made == ["tsm_mini.rgb", "tsm_mini.rgb+motion"]
    found, stored = (
        json.loads((tmp_path / name).read_text())["results"]["test_0001"]
        for name in ("a.json", "b.json")
    )
    assert len(found) == len(stored) > 0
    # The store's features of the copy went through maps in half precision.
    for one, other in zip(found[:20], stored[:20], strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=5e-3)


def test_a_student_is_given_rgb_alone(world: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    video = world / "world/videos/test_0000.mp4"
    options = ["--model", world / "student", "--store", kept, "--out", tmp_path / "d.json"]
    done("detect", video, *options)
    assert [path.name for path in kept.iterdir() if path.is_dir()] == ["tsm_mini.rgb"]


def test_a_broken_video_is_named_and_the_others_are_read(world: Path, tmp_path: Path) -> None:
    shutil.copy(world / "world/videos/test_0000.mp4", tmp_path / "good.mp4")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    ended = tad_distill(
        "detect", tmp_path, "--model", world / "student", "--out", tmp_path / "d.csv"
    )
    assert ended.returncode == 1
    assert "empty" in ended.stderr and "noise" in ended.stderr
    assert "Traceback" not in ended.stderr
    rows = (tmp_path / "d.csv").read_text().splitlines()[1:]
    assert rows and {row.split(",")[0] for row in rows} == {"good"}


def test_what_cannot_be_done_is_said_in_one_line(world: Path, tmp_path: Path) -> None:
    video, out = world / "world/videos/test_0000.mp4", ["--out", tmp_path / "d.json"]
    student = ["--model", world / "student"]
    features = world / "features"
    cases: list[tuple[int, str, list[object]]] = [
        (1, "not a run", [video, "--model", tmp_path, *out]),
        (2, "no such file or folder", [tmp_path / "absent.mp4", *student, *out]),
        (2, "expected a name that ends in", [video, *student, "--out", tmp_path / "d.txt"]),
        (2, "--subset needs --annotations", [features, *student, "--subset", "test", *out]),
        (2, "only source", [features, video, *student, *out]),
    ]
    for code, message, args in cases:
        ended = tad_distill("detect", *args)
        assert (ended.returncode, ended.stderr.count("\n")) == (code, 1), ended.stderr
        assert message in ended.stderr
    assert not (tmp_path / "d.json").exists()


def test_weights_that_are_gone_are_asked_for_by_their_hash(world: Path, tmp_path: Path) -> None:
    import torch

    from tad_distill.extract import weights

    backbone, _ = weights.prepare("tsm_mini", "rgb", 3, Path("random:0"))
    file = tmp_path / "weights.pt"
    content = {"layout": "tad-distill", "backbone": "tsm_mini", "modality": "rgb"}
    torch.save({**content, "state_dict": backbone.state_dict(), "pretraining": {}}, file)
    videos, annotations = world / "world/videos", world / "world/annotations.json"
    stream = ["--stream", "tsm_mini:rgb", "--weights", f"tsm_mini:rgb={file}"]
    store = tmp_path / "features"
    done("extract", videos, *stream, "--store", store, "--preset", "world")
    data = ["--store", store, "--annotations", annotations, "--set", "train.steps=2"]
    done("train", "--preset", "world_rgb", *data, "--out", tmp_path / "rgb")
    moved = file.rename(tmp_path / "moved.pt")
    detect = ["detect", videos / "test_0000.mp4", "--model", tmp_path / "rgb"]
    detect += ["--out", tmp_path / "d.json"]
    ended = tad_distill(*detect)
    assert ended.returncode == 1
    assert "--weights tsm_mini:rgb=FILE (sha256 " in ended.stderr
    done(*detect, "--weights", f"tsm_mini:rgb={moved}")
    backbone.load_state_dict({k: v * 0.5 for k, v in backbone.state_dict().items()})
    torch.save({**content, "state_dict": backbone.state_dict(), "pretraining": {}}, moved)
    ended = tad_distill(*detect, "--weights", f"tsm_mini:rgb={moved}")
    assert ended.returncode == 1
    assert "weights.sha256" in ended.stderr


def test_several_subsets_are_one_list_of_videos(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    facts = {"duration": 9.0, "annotations": [{"label": "a", "segment": [1, 2]}]}
    subsets = {"a": "training", "b": "test", "c": "validation", "d": "test"}
    database = {video: {"subset": subset, **facts} for video, subset in subsets.items()}
    path.write_text(json.dumps({"database": database}))
    assert named_videos(path, ["validation", "test", "test"]) == ["c", "b", "d"]
    assert named_videos(path, []) == ["a", "b", "c", "d"]
    assert named_videos(None, []) is None
