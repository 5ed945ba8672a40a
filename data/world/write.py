"""Write a world to a folder: in parallel, resumable, the same files whatever the workers.

``world.json`` is written first and says which world the folder is for; every file is written
under ``.partial`` and renamed, so a file in its place is whole.
"""

import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tad_distill import config as settings
from tad_distill.console import UserError, check_stop, log, progress
from tad_distill.data.world import clips
from tad_distill.data.world.config import VERSION, WorldConfig
from tad_distill.data.world.plan import CLASSES, SPLITS, Plan, plan_video, random
from tad_distill.data.world.render import render


@dataclass(frozen=True)
class Piece:
    """One file to render: video ``index`` of a split, or a reel of clips."""

    path: str
    split: int = 0
    index: int = 0
    reel: clips.Reel | None = None


def write_world(config: WorldConfig, seed: int, out: Path, workers: int) -> Path:
    """Render what is missing of a world.

    Args:
        config: Its settings.
        seed: With the settings and :data:`VERSION` it decides every frame.
        out: Folder for ``videos/``, ``clips/`` and ``annotations.json``.
        workers: Processes; 1 renders in this one.

    Returns:
        The path of the annotations.

    Raises:
        UserError: The folder holds another world, or a file cannot be written.
        Interrupted: A signal asked for a stop; finished files are kept.
    """
    annotations = out / "annotations.json"
    block = {"version": VERSION, "seed": seed, "settings": settings.dump(config)}
    _claim(out, block)
    missing = [p for p in _pieces(config) if not (out / p.path).exists()]
    tables = [annotations, out / "clips" / "clips.csv"]
    if not missing and all(path.exists() for path in tables):
        log("world", state="complete, nothing to do", out=out)
        return annotations
    (out / ".partial").mkdir(exist_ok=True)
    for folder in ("videos", "clips"):
        (out / folder).mkdir(exist_ok=True)
    log("world", out=out, files=len(missing), seed=seed, workers=workers)
    weights = {p.path: _frames_of(p, config) for p in missing}
    with progress("world, frames", sum(weights.values())) as step:
        for path in _render_all(missing, config, seed, out, workers):
            step(weights[path])
            check_stop(f"finished videos are kept in {out}")
    _write_text(tables[1], clips.table(config, seed), out)
    _write_text(annotations, json.dumps(_annotations(config, seed, block), indent=1), out)
    for left in (out / ".partial").iterdir():
        left.unlink()
    (out / ".partial").rmdir()
    return annotations


def video_name(split: str, index: int) -> str:
    """The name of a video, the stem of its file."""
    return f"{split}_{index:04d}"


def plan_of(config: WorldConfig, seed: int, split: int, index: int) -> Plan:
    """What happens in video ``index`` of a split, from its own seed."""
    return plan_video(config, random(seed, split, index, 0))


def _sizes(config: WorldConfig) -> tuple[int, int, int]:
    return config.num_training, config.num_validation, config.num_test


def _pieces(config: WorldConfig) -> list[Piece]:
    """All files to render; the longest first, so that no worker ends up alone with one."""
    found = [Piece(path=f"clips/{reel.name}.mp4", reel=reel) for reel in clips.reels(config.clips)]
    for split, total in enumerate(_sizes(config)):
        for index in range(total):
            path = f"videos/{video_name(SPLITS[split], index)}.mp4"
            found.append(Piece(path=path, split=split, index=index))
    return sorted(found, key=lambda piece: -_frames_of(piece, config))


def _frames_of(piece: Piece, config: WorldConfig) -> int:
    if piece.reel is None:
        return config.num_frames
    return piece.reel.num_clips * config.clips.num_frames


def _annotations(config: WorldConfig, seed: int, block: dict[str, Any]) -> dict[str, Any]:
    """The annotation file in ActivityNet's form.

    A segment ``[s, e)`` in seconds covers the frames ``s * fps`` to ``e * fps - 1``: exactly
    those that the motion made different from the frame before.
    """
    database, scenes = {}, {}
    for split, total in enumerate(_sizes(config)):
        for index in range(total):
            plan, name = plan_of(config, seed, split, index), video_name(SPLITS[split], index)
            scenes[name] = plan.backdrop.scene
            database[name] = {
                "subset": SPLITS[split],
                "duration": config.num_frames / config.fps,
                "fps": float(config.fps),
                "annotations": [
                    {"label": a.label, "segment": [a.action[0] / config.fps,
                                                   a.action[1] / config.fps]}
                    for a in plan.actors if a.action
                ],
            }  # fmt: skip
    labels = [f"{colour} {motion}" for colour, motion in CLASSES]
    world = {**block, "labels": labels, "scenes": scenes}
    return {"version": f"tad-distill world {VERSION}", "database": database, "world": world}


def _claim(out: Path, block: dict[str, Any]) -> None:
    """Say in ``world.json`` which world the folder is for, or hold that against what it says."""
    path = out / "world.json"
    if not path.exists():
        if out.exists() and any(out.iterdir()):
            raise UserError(f"{out}: not empty and without a world.json; choose a new folder")
        out.mkdir(parents=True, exist_ok=True)
        _write_text(path, json.dumps(block, indent=1), out)
        return
    there, asked = _flat(settings.read(path)), _flat(json.loads(json.dumps(block)))
    differ = [
        f"{key} is {there.get(key, 'not set')}, asked for {asked.get(key, 'not set')}"
        for key in sorted(there.keys() | asked.keys())
        if there.get(key) != asked.get(key)
    ]
    if differ:
        raise UserError(
            f"{out}: holds another world ({'; '.join(differ)}); "
            "choose a new folder, or the settings it was begun with"
        )


def _flat(table: dict[str, Any], at: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat.update(_flat(value, f"{at}{key}.") if isinstance(value, dict) else {at + key: value})
    return flat


def _write_text(path: Path, text: str, out: Path) -> None:
    partial = (out / ".partial" if (out / ".partial").exists() else out) / f".{path.name}.partial"
    with partial.open("w") as file:
        file.write(text + ("" if text.endswith("\n") else "\n"))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _render_all(
    pieces: list[Piece], config: WorldConfig, seed: int, out: Path, workers: int
) -> Iterator[str]:
    """Render every piece, in any order, and name each that is done."""
    if workers <= 1:
        yield from (_render_piece(piece, config, seed, out) for piece in pieces)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(pieces) or 1), context, _prepare_worker)
    try:
        jobs = [pool.submit(_render_piece, piece, config, seed, out) for piece in pieces]
        for job in as_completed(jobs):
            yield job.result()
    except BrokenProcessPool as error:
        raise UserError(
            f"{out}: a rendering process was killed, perhaps for want of memory; "
            "run the same command again with fewer workers, finished videos are kept"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _prepare_worker() -> None:
    """Signals are the parent's business; a worker whose parent is gone leaves."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


def _render_piece(piece: Piece, config: WorldConfig, seed: int, out: Path) -> str:
    with _one_thread():
        if piece.reel is not None:
            frames = clips.render_reel(piece.reel, config, seed)
        else:
            plan = plan_of(config, seed, piece.split, piece.index)
            frames = render(plan, config, random(seed, piece.split, piece.index, 1))
        _write_video(frames, config.fps, out / piece.path, out / ".partial")
    return piece.path


@contextmanager
def _one_thread() -> Iterator[None]:
    """The workers are the parallelism; small images only lose by OpenCV's threads."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _write_video(frames: NDArray[np.uint8], fps: int, path: Path, partial: Path) -> None:
    """Write an mp4 under a temporary name and put it in place when it is whole."""
    temporary = partial / f"{path.stem}-{os.getpid()}.mp4"
    height, width = frames.shape[1:3]
    fourcc = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(temporary), fourcc, float(fps), (width, height))
    if not writer.isOpened():
        raise UserError(f"{temporary}: cannot write mp4 video; check the disk and OpenCV's build")
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    # OpenCV reports no failed write, a full disk say.
    capture = cv2.VideoCapture(str(temporary))
    written = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    if written != len(frames):
        raise UserError(f"{path}: {written} of {len(frames)} frames written; is the disk full?")
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def processors() -> int:
    """How many processors this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
