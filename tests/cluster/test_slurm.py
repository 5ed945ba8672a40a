"""The printed script on a real SLURM: an array whose every task is put back into the queue."""

import re
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from slurm import Slurm, wait_for, why_not

from tad_distill.data.store import Store

NUM_TASKS, VIDEOS_PER_TASK = 8, 3
# A network that takes a second a video: a task has to be at work still when it is sent back.
STREAM = "tsm18:rgb"
STREAM_FOLDER = STREAM.replace(":", ".")


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=f"did not run on a real SLURM: {why_not()}")
def test_an_array_loses_nothing_and_does_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    names = [f"v{number:02d}" for number in range(NUM_TASKS * VIDEOS_PER_TASK)]
    for seed, name in enumerate(names):
        write_video(tmp_path / f"videos/{name}.mp4", seed)
    extract = ["extract", "videos", "--stream", STREAM, "--weights", f"{STREAM}=random:0"]
    # Small batches, so that no video waits for another.
    settings = ("short_side_px=48", "crop_px=48", "window_frames=64", "batch_frames=64")
    extract += [word for setting in settings for word in ("--set", setting)]
    tad_distill(tmp_path, *extract, "--store", "store", "--plan")
    asked = ["--units", NUM_TASKS, "--cpus", 1, "--gpus", 0, "--time", "10", "--warn-s", 60]
    asked += ["--setup", f"export PATH={Path(sys.executable).parent}:$PATH"]
    script = tad_distill(tmp_path, "job", *asked, *extract, "--store", "store")
    (tmp_path / "job.sh").write_text(script)
    (tmp_path / "logs").mkdir()
    (tmp_path / "slurm").mkdir()
    with Slurm(tmp_path / "slurm") as cluster:
        text = cluster.run("sbatch", "--parsable", f"--chdir={tmp_path}", str(tmp_path / "job.sh"))
        job = text.strip()
        assert job.isdigit(), text
        for task in requeue_each(cluster, job, tmp_path):
            wait_for(partial(has_completed, cluster, task), 300)
        restarts = [
            re.search(r"Restarts=(\d+)", cluster.run("scontrol", "show", "job", f"{job}_{i}"))
            for i in range(NUM_TASKS)
        ]
    assert all(found and int(found[1]) >= 1 for found in restarts)
    assert_complete(tmp_path, names)
    tad_distill(tmp_path, *extract, "--store", "at_once")
    stores = [Store.open(tmp_path / name).stream(STREAM) for name in ("store", "at_once")]
    for name in names:
        np.testing.assert_array_equal(stores[0].read(name), stores[1].read(name))


def requeue_each(cluster: Slurm, job: str, folder: Path) -> list[str]:
    """Put every task back into the queue, once it has finished a video; returns the tasks."""
    waiting = set(range(NUM_TASKS))

    def one_is_at_work() -> bool:
        # Its files say so at once; SLURM's own programs take longer than a task has left.
        for number in waiting:
            parts = folder / f"store/{STREAM_FOLDER}/parts/{number:04d}-of-{NUM_TASKS:04d}"
            if list(parts.glob("*.h5")):
                cluster.run("scontrol", "requeue", f"{job}_{number}")
                waiting.discard(number)
                return True
        return False

    while waiting:
        wait_for(one_is_at_work, 120)
    return [f"{job}_{number}" for number in range(NUM_TASKS)]


def assert_complete(folder: Path, names: list[str]) -> None:
    """Every video once in the store, and once in all logs; every unit sealed, nothing left over."""
    logs = "\n".join(path.read_text() for path in (folder / "logs").iterdir())
    done = Counter(re.findall(r"^event=video video=(\S+)", logs, flags=re.MULTILINE))
    assert done == dict.fromkeys(names, 1)
    assert "Traceback" not in logs
    stream = folder / "store" / STREAM_FOLDER
    assert len(list((stream / "shards").glob("*.h5"))) == NUM_TASKS
    assert not [path for path in (stream / "parts").rglob("*") if path.is_file()]
    assert set(Store.open(folder / "store").stream(STREAM).videos) == set(names)


def has_completed(cluster: Slurm, task: str) -> bool:
    """Whether a task has ended, and well."""
    return state(cluster, task) == "COMPLETED"


def state(cluster: Slurm, task: str) -> str:
    """The state of a task as SLURM names it."""
    found = re.search(r"JobState=(\w+)", cluster.run("scontrol", "show", "job", task))
    return found[1] if found else ""


def tad_distill(folder: Path, *words: object) -> str:
    """What a command prints."""
    command = [sys.executable, "-P", "-m", "tad_distill", *map(str, words)]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def write_video(path: Path, seed: int) -> None:
    """A video of 12 s at 30 frames per second: a second or so of work."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, (64, 64))
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC)
    for number in range(360):
        writer.write(np.roll(image, number, axis=1))
    writer.release()
