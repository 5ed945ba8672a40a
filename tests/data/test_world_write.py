"""Files: what is written, that it is the same whoever writes it, and what survives a kill."""

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from tad_distill.config import ConfigError, load
from tad_distill.console import Interrupted, UserError
from tad_distill.data import annotations
from tad_distill.data.world import clips, write
from tad_distill.data.world.commands import world as world_command
from tad_distill.data.world.config import WorldConfig
from tad_distill.data.world.plan import random
from tad_distill.data.world.render import render
from tad_distill.data.world.write import World, write_world

SMALL = [
    "num_training=3", "num_validation=1", "num_test=2", "time.video_s=6.0",
    "clips.num_training=25", "clips.num_validation=5", "clips.per_reel=10",
]  # fmt: skip


def small(out: Path, *overrides: str, seed: int = 0) -> World:
    return World(load(WorldConfig, {}, [*SMALL, *overrides]), seed, out)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = small(tmp_path_factory.mktemp("world") / "new")
    write_world(world, workers=1)
    return world


def contents(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()
    }


def decode(path: Path) -> tuple[NDArray[np.uint8], float]:
    capture = cv2.VideoCapture(str(path))
    frames: list[NDArray[np.uint8]] = []
    while True:
        there, frame = capture.read()
        if not there:
            return np.array(frames, np.uint8)[..., ::-1], capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame.astype(np.uint8))


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "clips" / "clips.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_annotations_are_read_and_name_every_video(written: World) -> None:
    found = annotations.read(written.out / "annotations.json")
    assert set(found.videos) == {path.stem for path in (written.out / "videos").iterdir()}
    subsets = [video.subset for video in found.videos.values()]
    assert [subsets.count(s) for s in ("training", "validation", "test")] == [3, 1, 2]
    block = found.extra["world"]
    assert block["seed"] == 0
    assert block["settings"]["num_training"] == 3
    assert set(block["scenes"]) == set(found.videos)
    assert {a.label for v in found.videos.values() for a in v.annotations} <= set(block["labels"])


def test_decoded_videos_have_the_annotated_duration_and_rate(written: World) -> None:
    for name, video in annotations.read(written.out / "annotations.json").videos.items():
        frames, fps = decode(written.out / "videos" / f"{name}.mp4")
        assert fps == video.fps == 8
        assert video.duration_s is not None
        assert len(frames) == video.duration_s * fps == 48
        for annotation in video.annotations:
            assert 0 < annotation.start_s < annotation.end_s <= video.duration_s
            assert (annotation.start_s * fps) % 1 == (annotation.end_s * fps) % 1 == 0


def test_decoded_frames_are_the_rendered_ones_in_order(written: World) -> None:
    plan = written.plan(0, 1)
    drawn = render(plan, written.config, random(0, 0, 1, 1)).astype(float)
    decoded, _ = decode(written.out / "videos" / "training_0001.mp4")
    errors = ((drawn[:, None] - decoded[None].astype(float)) ** 2).mean((2, 3, 4))
    assert np.diag(errors).max() < 120  # better than 27 dB, of which the noise is 34
    moving = np.abs(np.diff(drawn @ [0.3, 0.6, 0.1], axis=0)).max((1, 2)) > 60
    assert moving.any()
    for t in np.flatnonzero(moving):
        assert errors[t, t] < errors[t, t + 1]


def test_clips_tile_their_reels_and_do_not_bleed_into_each_other(written: World) -> None:
    table = rows(written.out)
    assert len(table) == 30
    for reel in clips.reels(written.config.clips):
        here = [row for row in table if row["video"] == reel.name]
        decoded, fps = decode(written.out / "clips" / f"{reel.name}.mp4")
        spans = [(float(r["start_s"]) * fps, float(r["end_s"]) * fps) for r in here]
        assert spans == [(10 * i, 10 * i + 10) for i in range(len(here))]
        assert len(decoded) == 10 * len(here)
        assert {row["split"] for row in here} == {reel.split}
        drawn = clips.render_reel(reel, written.config, 0)
        errors = ((drawn.astype(float) - decoded) ** 2).mean((1, 2, 3)).reshape(-1, 10)
        # The first frame of a clip is as exact as the others: nothing is left of its neighbour.
        assert errors[:, 0].mean() < 1.3 * errors[:, 1:].mean()
        assert errors[:, 9].mean() < 1.3 * errors[:, :9].mean()


def test_the_number_of_workers_changes_no_byte(written: World, tmp_path: Path) -> None:
    world = small(tmp_path / "two")
    write_world(world, workers=2)
    assert contents(world.out) == contents(written.out)


def test_another_seed_is_another_world(written: World, tmp_path: Path) -> None:
    world = small(tmp_path / "other", seed=1)
    write_world(world, workers=1)
    there, here = contents(world.out), contents(written.out)
    assert there.keys() == here.keys()
    assert all(there[name] != here[name] for name in there)


def test_rendering_again_does_nothing_and_says_so(
    written: World, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in written.out.rglob("*")}
    assert write_world(written, workers=1) == written.out / "annotations.json"
    assert "nothing to do" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in written.out.rglob("*")} == before


def test_another_world_in_the_same_folder_is_refused(written: World) -> None:
    with pytest.raises(UserError, match=r"\(scenes\.rho is 0\.3, asked for 0\.6\)") as error:
        write_world(small(written.out, "scenes.rho=0.6"), workers=1)
    assert "seed" not in str(error.value)
    with pytest.raises(UserError, match="seed is 0, asked for 3"):
        write_world(small(written.out, seed=3), workers=1)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"not empty and without a world\.json"):
        write_world(small(tmp_path), workers=1)
    assert contents(tmp_path) == {"thesis.txt": b"mine"}


def test_a_stopped_run_is_completed_to_the_same_files(
    written: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = small(tmp_path / "stopped")

    def stop(what: str) -> None:
        if len(list((world.out / "videos").glob("*.mp4"))) >= 2:
            raise Interrupted(what)

    monkeypatch.setattr(write, "check_stop", stop)
    with pytest.raises(Interrupted, match="finished videos are kept"):
        write_world(world, workers=1)
    assert not (world.out / "annotations.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in world.out.rglob("*.mp4")}
    assert 2 <= len(kept) < 10
    monkeypatch.undo()
    write_world(world, workers=1)
    assert contents(world.out) == contents(written.out)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_killed_run_leaves_no_worker_and_is_completed(written: World, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    code = "from tad_distill.data.world.commands import world; world()"
    options = [f"--set={override}" for override in [*SMALL, "clips.num_training=4000"]]
    command = [sys.executable, "-c", code, str(out), "--workers=2", *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(out.glob("clips/*.mp4")) and time.monotonic() < deadline:
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = [int(child) for child in children.read_text().split()] if children.exists() else []
    assert len(workers) >= 2 or not children.exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    while time.monotonic() < deadline and any(_alive(pid) for pid in workers):
        time.sleep(0.02)
    assert not any(_alive(pid) for pid in workers)
    assert not (out / "annotations.json").exists()
    # The files there are whole, and go on being valid for the world they were begun for.
    (out / "world.json").write_text(json.dumps(small(out).identity))
    for path in out.glob("clips/*.mp4"):
        path.unlink()
    write_world(small(out), workers=1)
    assert contents(out).keys() == contents(written.out).keys()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.exists() and ") Z " in state.read_text())


def test_a_second_run_on_the_same_folder_is_refused(written: World) -> None:
    with (written.out / "world.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is rendering into it"):
            write_world(written, workers=1)


def test_a_lost_video_is_rendered_again(tmp_path: Path) -> None:
    world = small(tmp_path / "lost")
    write_world(world, workers=1)
    before = contents(world.out)
    (world.out / "videos" / "test_0001.mp4").unlink()
    write_world(world, workers=1)
    assert contents(world.out) == before


def test_a_video_that_came_out_short_is_an_error_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        """A writer that loses every frame, as on a full disk."""

        fourcc = staticmethod(cv2.VideoWriter.fourcc)

        def __init__(self, path: str, *rest: Any) -> None:
            Path(path).touch()

        def isOpened(self) -> bool:  # noqa: N802
            return True

        def write(self, frame: NDArray[np.uint8]) -> None: ...

        def release(self) -> None: ...

    monkeypatch.setattr(cv2, "VideoWriter", Full)
    with pytest.raises(UserError, match="0 of 50 frames written; free disk space"):
        write_world(small(tmp_path / "full", "clips.num_training=0"), workers=1)
    assert not list((tmp_path / "full").rglob("*.mp4"))


def test_no_videos_and_no_clips_are_an_empty_world(tmp_path: Path) -> None:
    nothing = [f"{k}=0" for k in ("num_training", "num_validation", "num_test")]
    world = small(tmp_path, *nothing, "clips.num_training=0", "clips.num_validation=0")
    write_world(world, workers=2)
    assert json.loads((tmp_path / "annotations.json").read_text())["database"] == {}
    assert rows(tmp_path) == []


def test_the_command_prints_where_the_annotations_are(tmp_path: Path) -> None:
    options = [f"--set={override}" for override in SMALL]
    run = CliRunner().invoke(world_command, [str(tmp_path), "--workers=1", "--seed=5", *options])
    assert run.exit_code == 0
    assert run.stdout.strip() == str(tmp_path / "annotations.json")
    assert json.loads((tmp_path / "world.json").read_text())["seed"] == 5
    wrong = CliRunner().invoke(world_command, [str(tmp_path), "--set=rho=1"])
    assert isinstance(wrong.exception, ConfigError)
