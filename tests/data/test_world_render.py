"""Frames: seeds, the exact moment a motion starts, and what colour and motion look like."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tad_distill.config import load
from tad_distill.data.world.config import WorldConfig
from tad_distill.data.world.motions import BENCHMARK_MOTIONS, act, join, rest
from tad_distill.data.world.objects import BENCHMARK_COLOURS, LUMA, Look, draw_look
from tad_distill.data.world.plan import Actor, Plan, plan_video, random
from tad_distill.data.world.render import render
from tad_distill.data.world.scenes import Backdrop

STILL_CAMERA = [
    "camera.jitter_px=0", "camera.pan=0", "camera.gain_drift=0", "camera.noise=0",
    "scenes.num_decoys=[0, 0]", "time.distractors_per_minute=0",
]  # fmt: skip


def video(config: WorldConfig, index: int) -> tuple[Plan, NDArray[np.uint8]]:
    plan = plan_video(config, random(7, 0, index, 0))
    return plan, render(plan, config, random(7, 0, index, 1))


def stage(look: Look, motion: str, config: WorldConfig) -> NDArray[np.uint8]:
    """One object in the middle: one second of rest, two of motion, one of rest."""
    poses = join([rest(8), act(motion, 16, 8.0, 1.0, np.random.default_rng(0)), rest(8)])
    actor = Actor(look, 0, poses.moved(0.5, 0.6), motion, (8, 24))
    return render(Plan(32, Backdrop(0, 0, ()), (actor,)), config, random(0))


def test_the_seed_decides_every_pixel() -> None:
    config = WorldConfig()
    plan, frames = video(config, 0)
    assert frames.shape == (160, 48, 48, 3)
    assert frames.dtype == np.uint8
    np.testing.assert_array_equal(frames, video(config, 0)[1])
    other = render(plan, config, random(8, 0, 0, 1))  # the same events, another camera
    assert (frames != other).mean() > 0.5


@pytest.mark.parametrize("motion", BENCHMARK_MOTIONS)
def test_a_segment_covers_exactly_the_frames_that_the_motion_changes(motion: str) -> None:
    config = load(WorldConfig, {}, STILL_CAMERA)
    for seed in range(5):
        look = draw_look(np.random.default_rng(seed), "red", config.objects, 0.5)
        frames = stage(look, motion, config).astype(int)
        changes = np.abs(np.diff(frames, axis=0)).max((1, 2, 3))  # change into frame 1, 2, ...
        assert not changes[:7].any()  # frames 1 to 7
        assert changes[7] > 10  # frame 8, the first of the motion
        assert changes[22] > 2  # frame 23, its last
        assert not changes[23:].any()


def test_annotated_times_are_those_of_optical_change() -> None:
    # Without idling an object appears with its motion and is gone in the frame after it.
    config = load(WorldConfig, {}, [*STILL_CAMERA, "time.idle_s=0"])
    for index in range(6):
        plan, frames = video(config, index)
        changes = np.abs(np.diff(frames.astype(int), axis=0)).max((1, 2, 3))
        changed = set((np.flatnonzero(changes) + 1).tolist())
        allowed = set()
        for begin, end in [a.action for a in plan.actors if a.action]:
            assert begin in changed
            assert end in changed or end == plan.num_frames
            allowed |= set(range(begin, end + 1))
        assert changed <= allowed


def test_the_colour_can_be_read_from_the_pixels_of_a_segment() -> None:
    config = load(WorldConfig, {}, [*STILL_CAMERA, "time.idle_s=0"])
    hits = []
    for index in range(12):
        plan, frames = video(config, index)
        for actor in plan.actors:
            assert actor.action
            begin, end = actor.action
            pixels = np.abs(frames[begin - 1].astype(int) - frames[(begin + end) // 2]).max(2) > 25
            hsv = cv2.cvtColor(frames[(begin + end) // 2], cv2.COLOR_RGB2HSV)[pixels].astype(float)
            angle = np.angle((hsv[:, 1] * np.exp(2j * np.pi * hsv[:, 0] / 180)).sum())
            hue = angle / (2 * np.pi) * 180
            nearest = min(
                BENCHMARK_COLOURS,
                key=lambda c: abs((hue - BENCHMARK_COLOURS[c] + 90) % 180 - 90),
            )
            hits.append(nearest == actor.look.colour)
    assert len(hits) > 30
    assert np.mean(hits) > 0.95


def test_motions_differ_in_nothing_but_motion() -> None:
    flat = [*STILL_CAMERA, "scenes.contrast=0", "scenes.tint=0"]
    config = load(WorldConfig, {}, flat)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        look = draw_look(rng, "blue", config.objects, 0.5)
        # The mean colour of a frame: the object's, as the background is grey.
        means = np.stack(
            [stage(look, motion, config)[8:24].mean((0, 1, 2)) for motion in BENCHMARK_MOTIONS]
        )
        assert np.abs(means - means[0]).max() < 0.25  # of 255
        assert abs(means[0, 2] - means[0, 0]) > 1  # it is visibly blue


def test_luminance_tells_no_hue() -> None:
    config = load(WorldConfig, {}, STILL_CAMERA)
    by_colour = []
    for colour, hue in BENCHMARK_COLOURS.items():
        look = draw_look(np.random.default_rng(5), "red", config.objects, 0.5)
        recoloured = Look(**{**vars(look), "colour": colour, "hue": hue})
        by_colour.append(stage(recoloured, "sway", config) @ LUMA)
    spread = np.ptp(np.stack(by_colour), axis=0)
    assert spread.max() < 1.5  # rounding to eight bits, no more


def test_brightness_noise_and_shake_are_as_set() -> None:
    look = draw_look(np.random.default_rng(0), "red", WorldConfig().objects, 0.5)
    noisy = load(WorldConfig, {}, [*STILL_CAMERA[:3], "camera.noise=0.02"])
    clean = load(WorldConfig, {}, STILL_CAMERA)
    plan = Plan(40, Backdrop(1, 0, ()), (Actor(look, 0, rest(40).moved(0.5, 0.5)),))
    difference = render(plan, noisy, random(0)).astype(int) - render(plan, clean, random(0))
    assert difference.std() == pytest.approx(0.02 * 255, rel=0.05)
    shaken = load(WorldConfig, {}, [*STILL_CAMERA[1:], "camera.jitter_px=0.5"])
    frames = render(plan, shaken, random(0))
    assert np.abs(np.diff(frames.astype(int), axis=0)).mean() > 0.5


def test_a_scene_looks_alike_in_two_videos_and_unlike_another_scene() -> None:
    config = load(WorldConfig, {}, STILL_CAMERA)

    def colour(scene: int, seed: int) -> NDArray[np.float64]:
        frames = render(Plan(1, Backdrop(scene, seed, ()), ()), config, random(0))
        return frames[0].mean((0, 1)) - frames.mean()

    same = [np.abs(colour(s, 0) - colour(s, 1)).max() for s in range(5)]
    other = [np.abs(colour(s, 0) - colour(t, 0)).max() for s in range(5) for t in range(s)]
    assert max(same) < min(other)
