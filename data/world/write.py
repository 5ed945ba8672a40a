"""Write a world to a folder: in parallel, resumable, the same files whatever the workers.

``world.json`` comes first and says which world the folder is for. Every file is written under
another name and renamed, so a file in its place is whole. The annotations come last.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tad_distill import config as settings
from tad_distill.console import UserError, check_stop, log, progress
from tad_distill.data import durable
from tad_distill.data.world import clips
from tad_distill.data.world.config import VERSION, WorldConfig
from tad_distill.data.world.mp4 import write_mp4
from tad_distill.data.world.plan import CLASSES, SPLITS, Plan, plan_video, random
from tad_distill.data.world.render import render
from tad_distill.data.world.workers import run_all


@dataclass(frozen=True)
class World:
    """A world and the folder it is written to.

    Attributes:
        config: Its settings.
        seed: With the settings and :data:`VERSION` it decides every frame.
        out: Folder for ``videos/``, ``clips/`` and ``annotations.json``.
    """

    config: WorldConfig
    seed: int
    out: Path

    @property
    def partial(self) -> Path:
        """Where videos are until they are whole."""
        return self.out / ".partial"

    @property
    def identity(self) -> dict[str, Any]:
        """What tells this world from others; plain values."""
        block = {
            "version": VERSION,
            "seed": self.seed,
            "settings": settings.dump(self.config),
        }
        plain: dict[str, Any] = json.loads(json.dumps(block))
        return plain

    def videos(self) -> Iterator[tuple[str, int, int]]:
        """Name, split and index within the split of each video."""
        totals = (self.config.num_training, self.config.num_validation, self.config.num_test)
        for split, total in enumerate(totals):
            for index in range(total):
                yield f"{SPLITS[split]}_{index:04d}", split, index

    def plan(self, split: int, index: int) -> Plan:
        """What happens in a video, from its own seed."""
        return plan_video(self.config, random(self.seed, split, index, 0))


@dataclass(frozen=True)
class Piece:
    """One file to render: video ``index`` of a split, or a reel of clips."""

    path: str
    num_frames: int
    split: int = 0
    index: int = 0
    reel: clips.Reel | None = None


def write_world(world: World, workers: int) -> Path:
    """Render what is missing of a world.

    Args:
        world: Which one, and where.
        workers: Processes; 1 renders in this one.

    Returns:
        The path of the annotations.

    Raises:
        UserError: The folder holds another world, is in use, or a file cannot be written.
        Interrupted: A signal asked for a stop; finished files are kept.
    """
    out, annotations = world.out, world.out / "annotations.json"
    _claim(world)
    with _alone(out):
        missing = [piece for piece in _pieces(world) if not (out / piece.path).exists()]
        table = out / "clips" / "clips.csv"
        if not missing and table.exists() and annotations.exists():
            log("world", state="complete, nothing to do", out=out)
            return annotations
        for folder in (out / "videos", out / "clips", world.partial):
            folder.mkdir(exist_ok=True)
        log("world", out=out, files=len(missing), seed=world.seed, workers=workers)
        _render_all(world, missing, workers)
        durable.write_bytes(table, clips.table(world.config, world.seed).encode())
        durable.write_bytes(annotations, json.dumps(annotate(world), indent=1).encode())
        for left in world.partial.iterdir():  # by an earlier run that was killed
            left.unlink()
        world.partial.rmdir()
    return annotations


def annotate(world: World) -> dict[str, Any]:
    """The annotation file in ActivityNet's form.

    A segment ``[s, e)`` in seconds covers the frames ``s * fps`` to ``e * fps - 1``: exactly
    those that the motion made different from the frame before.
    """
    fps = world.config.fps
    database, scenes = {}, {}
    for name, split, index in world.videos():
        plan = world.plan(split, index)
        scenes[name] = plan.backdrop.scene
        actions = [(a.label, *a.action) for a in plan.actors if a.action]
        database[name] = {
            "subset": SPLITS[split],
            "duration": plan.num_frames / fps,
            "fps": float(fps),
            "annotations": [
                {"label": label, "segment": [begin / fps, end / fps]}
                for label, begin, end in actions
            ],
        }
    labels = [f"{colour} {motion}" for colour, motion in CLASSES]
    software = {"numpy": np.__version__, "opencv": cv2.__version__}
    block = {**world.identity, "labels": labels, "scenes": scenes, "software": software}
    return {"version": f"tad-distill world {VERSION}", "database": database, "world": block}


def _pieces(world: World) -> list[Piece]:
    """All files to render; the longest first, so that no worker ends up alone with one."""
    config = world.config
    found = [
        Piece(f"clips/{reel.name}.mp4", reel.num_clips * config.clips.num_frames, reel=reel)
        for reel in clips.reels(config.clips)
    ]
    for name, split, index in world.videos():
        found.append(Piece(f"videos/{name}.mp4", config.num_frames, split, index))
    return sorted(found, key=lambda piece: -piece.num_frames)


def _render_all(world: World, pieces: list[Piece], workers: int) -> None:
    total = sum(piece.num_frames for piece in pieces)
    with (
        progress("world, frames", total) as step,
        closing(run_all(partial(_render_piece, world), pieces, workers)) as done,
    ):
        for num_frames in done:
            step(num_frames)
            check_stop(f"finished videos are kept in {world.out}")


def _render_piece(world: World, piece: Piece) -> int:
    config, seed = world.config, world.seed
    with _one_thread():
        if piece.reel is not None:
            frames = clips.render_reel(piece.reel, config, seed)
        else:
            plan = world.plan(piece.split, piece.index)
            frames = render(plan, config, random(seed, piece.split, piece.index, 1))
        assert len(frames) == piece.num_frames
        write_mp4(frames, config.fps, world.out / piece.path, world.partial)
    return piece.num_frames


@contextmanager
def _one_thread() -> Iterator[None]:
    """The workers are the parallelism; small images only lose by OpenCV's threads."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _claim(world: World) -> None:
    """Say in ``world.json`` which world the folder is for, or hold that against what it says."""
    out, path = world.out, world.out / "world.json"
    if not path.exists():
        if out.exists() and any(not p.name.startswith(".") for p in out.iterdir()):
            raise UserError(f"{out}: not empty and without a world.json; choose a new folder")
        out.mkdir(parents=True, exist_ok=True)
        durable.write_bytes(path, json.dumps(world.identity, indent=1).encode())
        return
    there, asked = _flat(settings.read(path)), _flat(world.identity)
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
    """One level, the keys as ``--set`` takes them."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        inner = "" if key == "settings" else f"{at}{key}."
        flat.update(_flat(value, inner) if isinstance(value, dict) else {at + key: value})
    return flat


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep a second process from rendering into the same folder; ends with this process."""
    with (out / "world.json").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{out}: another process is rendering into it; wait for it or choose another folder"
            ) from None
        yield
