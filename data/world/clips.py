"""Trimmed source clips for pretraining: back to back in reels, listed in ``clips.csv``."""

import csv
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tad_distill.data.world.config import ClipConfig, WorldConfig
from tad_distill.data.world.plan import plan_clip, random
from tad_distill.data.world.render import render

COLUMNS = ("video", "start_s", "end_s", "split", "object", "motion")
# First number of a clip's seed key; the videos' keys begin with the index of their split.
CLIP_KEYS = {"training": 3, "validation": 4}


@dataclass(frozen=True)
class Reel:
    """One file of clips, all of one split.

    Attributes:
        name: Stem of the file's name.
        split: "training" or "validation".
        first: Index of its first clip within the split.
        num_clips: How many clips it holds.
    """

    name: str
    split: str
    first: int
    num_clips: int


def reels(config: ClipConfig) -> list[Reel]:
    """Which clips go into which reel."""
    found: list[Reel] = []
    for split, total in (("training", config.num_training), ("validation", config.num_validation)):
        for first in range(0, total, config.per_reel):
            num_clips = min(config.per_reel, total - first)
            found.append(Reel(f"reel_{len(found):03d}", split, first, num_clips))
    return found


def render_reel(reel: Reel, config: WorldConfig, seed: int) -> NDArray[np.uint8]:
    """Draw a reel; clip ``i`` fills exactly the frames ``[i n, (i + 1) n)``, n frames a clip."""
    clips = []
    for index in range(reel.first, reel.first + reel.num_clips):
        key = (CLIP_KEYS[reel.split], index)
        plan = plan_clip(config, random(seed, *key, 0))
        clips.append(render(plan, config, random(seed, *key, 1)))
    return np.concatenate(clips)


def table(config: WorldConfig, seed: int) -> str:
    """The text of ``clips.csv``: one row a clip, times in seconds of its reel."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    length = config.clips.num_frames
    for reel in reels(config.clips):
        for i in range(reel.num_clips):
            plan = plan_clip(config, random(seed, CLIP_KEYS[reel.split], reel.first + i, 0))
            (actor,) = plan.actors
            start_s, end_s = i * length / config.fps, (i + 1) * length / config.fps
            writer.writerow(
                (reel.name, start_s, end_s, reel.split, actor.look.colour, actor.motion)
            )
    return text.getvalue()
