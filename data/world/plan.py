"""What happens in a video or a clip, drawn from its own seed before any pixel is.

The plan alone decides the annotations. Noise, camera and pixels are drawn from a second seed, so
that other settings of the camera leave plan and annotations as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tad_distill.data.world.config import TimeConfig, WorldConfig
from tad_distill.data.world.motions import (
    BENCHMARK_MOTIONS,
    NON_ACTIONS,
    SOURCE_MOTIONS,
    Poses,
    act,
    join,
    loiter,
)
from tad_distill.data.world.objects import BENCHMARK_COLOURS, SOURCE_COLOURS, Look, draw_look
from tad_distill.data.world.scenes import BACKGROUND_LUMA, Backdrop, draw_backdrop

SPLITS = ("training", "validation", "test")
# (colour, motion) of each label, in the order of their ids.
CLASSES = tuple((colour, motion) for colour in BENCHMARK_COLOURS for motion in BENCHMARK_MOTIONS)


@dataclass(frozen=True)
class Actor:
    """One object over its stay in view.

    Attributes:
        look: Its appearance.
        first: The frame in which it appears.
        poses: One for each frame of its stay, places absolute.
        motion: What it does; None for a distractor.
        action: First frame of the motion and the first frame after it; None for a distractor.
    """

    look: Look
    first: int
    poses: Poses
    motion: str | None = None
    action: tuple[int, int] | None = None

    @property
    def last(self) -> int:
        """The first frame without it."""
        return self.first + len(self.poses)

    @property
    def label(self) -> str:
        """The words of its label, "red spin" say."""
        return f"{self.look.colour} {self.motion}"


@dataclass(frozen=True)
class Plan:
    """All that happens in one video or clip; ``actors`` are listed from back to front."""

    num_frames: int
    backdrop: Backdrop
    actors: tuple[Actor, ...]


def random(seed: int, *key: int) -> np.random.Generator:
    """The random numbers of one thing: they depend on the seed and its key and nothing else."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def plan_video(config: WorldConfig, rng: np.random.Generator) -> Plan:
    """Draw what happens in an untrimmed video."""
    scene = int(rng.integers(config.scenes.num_scenes))
    colours = list(BENCHMARK_COLOURS)
    backdrop = draw_backdrop(rng, scene, colours, config.scenes.num_decoys, config.objects)
    total = config.num_frames
    actors: list[Actor] = []
    minutes = config.time.video_s / 60
    for _ in range(rng.poisson(config.time.distractors_per_minute * minutes)):
        actors.append(_place(_distractor(config, rng), actors, rng))
    before = 0
    for begin, end in _times(config.time, config.fps, total, rng):
        colour, motion = CLASSES[_draw_class(scene, config, rng)]
        # It comes when the action before is over, so it never hides one.
        early = min(_idle_frames(config, rng), begin - before)
        late = min(_idle_frames(config, rng), total - end)
        look = draw_look(rng, colour, config.objects, BACKGROUND_LUMA)
        amplitude = rng.uniform(*config.objects.amplitude)
        parts = [
            *_pastime(early, config.fps, rng),
            act(motion, end - begin, config.fps, amplitude, rng),
            *_pastime(late, config.fps, rng),
        ]
        actor = Actor(look, begin - early, join(parts), motion, (begin, end))
        actors.append(_place(actor, actors, rng))
        before = end
    return Plan(num_frames=total, backdrop=backdrop, actors=tuple(actors))


def plan_clip(config: WorldConfig, rng: np.random.Generator) -> Plan:
    """Draw a trimmed clip: one source object that moves, or loiters, all the time."""
    colours = list(SOURCE_COLOURS)
    scene = int(rng.integers(config.scenes.num_scenes))
    backdrop = draw_backdrop(rng, scene, colours, config.clips.num_decoys, config.objects, True)
    look = draw_look(rng, str(rng.choice(colours)), config.objects, BACKGROUND_LUMA, True)
    motion = str(rng.choice(SOURCE_MOTIONS + NON_ACTIONS))
    num_frames = config.clips.num_frames
    # The clip is cut from a longer motion, so that it begins at any phase.
    lead = int(rng.integers(0, 2 * config.fps))
    if motion in NON_ACTIONS:
        poses = loiter(motion, num_frames, config.fps, rng)
    else:
        amplitude = rng.uniform(*config.objects.amplitude)
        poses = act(motion, lead + num_frames, config.fps, amplitude, rng)[lead:]
    return Plan(num_frames, backdrop, (_place(Actor(look, 0, poses, motion), [], rng),))


def home(scene: int, num_scenes: int) -> list[int]:
    """The labels linked to a scene; each label is at home in exactly one."""
    return [label for label in range(len(CLASSES)) if label % num_scenes == scene]


def _draw_class(scene: int, config: WorldConfig, rng: np.random.Generator) -> int:
    linked = rng.uniform() < config.scenes.rho
    labels: Sequence[int] = home(scene, config.scenes.num_scenes) if linked else range(len(CLASSES))
    return int(rng.choice(labels))


def _times(
    time: TimeConfig, fps: int, total: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """First frame and first frame after each instance, one after the other, none cut off."""
    times: list[tuple[int, int]] = []
    at = 0
    while True:
        gap = max(1, round(float(np.clip(rng.exponential(time.gap_s), *time.gap_limits_s)) * fps))
        seconds = rng.lognormal(np.log(time.median_s), time.sigma)
        length = max(1, round(float(np.clip(seconds, *time.limits_s)) * fps))
        if at + gap + length > total:
            if times:
                return times
            # A short video gets one instance all the same, as long as there is room for.
            gap = max(1, round(time.gap_limits_s[0] * fps))
            length = min(length, total - gap)
        times.append((at + gap, at + gap + length))
        at += gap + length


def _distractor(config: WorldConfig, rng: np.random.Generator) -> Actor:
    length = round(rng.uniform(*config.time.distractor_s) * config.fps)
    length = min(max(1, length), config.num_frames)
    first = int(rng.integers(0, config.num_frames - length + 1))
    colour = str(rng.choice(list(BENCHMARK_COLOURS)))
    look = draw_look(rng, colour, config.objects, BACKGROUND_LUMA)
    return Actor(look, first, join(_pastime(length, config.fps, rng)))


def _idle_frames(config: WorldConfig, rng: np.random.Generator) -> int:
    return round(rng.uniform(0, config.time.idle_s) * config.fps)


def _pastime(num_frames: int, fps: int, rng: np.random.Generator) -> list[Poses]:
    """Fill a stay without action with non-actions of one to two seconds."""
    parts = []
    while num_frames > 0:
        length = min(num_frames, round(rng.uniform(1, 2) * fps))
        parts.append(loiter(str(rng.choice(NON_ACTIONS)), length, fps, rng))
        num_frames -= length
    return parts


def _place(actor: Actor, others: list[Actor], rng: np.random.Generator) -> Actor:
    """Move an actor to where its whole way fits into the frame, away from the others."""
    poses, radius = actor.poses, actor.look.diameter / 2
    best, best_room = poses, -np.inf
    present = [o for o in others if o.first < actor.last and actor.first < o.last]
    for _ in range(8):
        ways = []
        for way in (poses.x, poses.y):
            low, high = radius - way.min(), 1 - radius - way.max()
            ways.append(float(rng.uniform(low, high) if low < high else (low + high) / 2))
        moved = poses.moved(*ways)
        room = min(
            (
                float(
                    np.hypot(moved.x.mean() - o.poses.x.mean(), moved.y.mean() - o.poses.y.mean())
                )
                - radius
                - o.look.diameter / 2
                for o in present
            ),
            default=0.0,
        )
        if room > best_room:
            best, best_room = moved, room
        if room >= 0:
            break
    return Actor(actor.look, actor.first, best, actor.motion, actor.action)
