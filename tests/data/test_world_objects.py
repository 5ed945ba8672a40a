"""Looks and motions: what tells classes apart, and what must not."""

import cv2
import numpy as np
import pytest

from tad_distill.data.world.config import ObjectConfig
from tad_distill.data.world.motions import (
    BENCHMARK_MOTIONS,
    NON_ACTIONS,
    SOURCE_MOTIONS,
    act,
    join,
    loiter,
    rest,
)
from tad_distill.data.world.objects import (
    BENCHMARK_COLOURS,
    BENCHMARK_SHAPES,
    LUMA,
    SOURCE_COLOURS,
    SOURCE_SHAPES,
    TEXTURES,
    Look,
    colourise,
    draw_look,
    sprite,
)

SHAPES = BENCHMARK_SHAPES + SOURCE_SHAPES


def look(shape: str, texture: str, **changes: float) -> Look:
    numbers = {"hue": 0.0, "luma": 0.5, "diameter": 0.4, "heading": 0.0, "turn": 0.7, **changes}
    return Look(colour="red", shape=shape, texture=texture, seed=1, **numbers)


@pytest.mark.parametrize("hue", np.arange(0, 180, 12))
def test_a_hue_changes_no_luminance_and_stays_in_range(hue: int) -> None:
    luma = np.random.default_rng(0).uniform(0, 1, (20, 20)).astype(np.float32)
    rgb = colourise(luma, hue, chroma=1.0)
    np.testing.assert_allclose(rgb @ LUMA, luma, atol=1e-6)
    assert rgb.min() > -1e-6
    assert rgb.max() < 1 + 1e-6
    in_hsv = cv2.cvtColor(rgb[(luma > 0.1) & (luma < 0.9)][None], cv2.COLOR_RGB2HSV)
    distance = np.abs((in_hsv[..., 0] / 2 - hue + 90) % 180 - 90)
    assert distance.max() < 0.1


def test_source_and_benchmark_objects_share_neither_colour_nor_shape() -> None:
    assert not set(BENCHMARK_SHAPES) & set(SOURCE_SHAPES)
    assert not set(BENCHMARK_COLOURS) & set(SOURCE_COLOURS)
    distances = [
        abs((source - target + 90) % 180 - 90)
        for source in SOURCE_COLOURS.values()
        for target in BENCHMARK_COLOURS.values()
    ]
    # Half a step: three standard deviations of the hue's jitter.
    assert min(distances) == 18 == 3 * ObjectConfig().hue_jitter


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("texture", TEXTURES)
def test_every_object_looks_different_when_turned(shape: str, texture: str) -> None:
    upright = sprite(look(shape, texture), 40, ObjectConfig())
    for degrees in (20, 60, 72, 90, 120, 180):
        turned = sprite(look(shape, texture, heading=np.deg2rad(degrees)), 40, ObjectConfig())
        change = np.abs(upright[..., :3] @ LUMA - turned[..., :3] @ LUMA).sum()
        # Mean change of a pixel of the object, in luminance; the noise of a pixel is 0.02.
        assert change / upright[..., 3].sum() > 0.05, degrees


def test_mean_luminance_is_the_same_for_all_shapes_and_textures() -> None:
    for shape in SHAPES:
        for texture in TEXTURES:
            drawn = sprite(look(shape, texture, luma=0.4), 40, ObjectConfig())
            mean = (drawn[..., :3] @ LUMA).sum() / drawn[..., 3].sum()
            assert mean == pytest.approx(0.4, abs=0.02), (shape, texture)


def test_a_colour_has_all_shapes_textures_and_either_contrast() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_look(rng, "blue", ObjectConfig(), 0.5) for _ in range(300)]
    assert {d.shape for d in drawn} == set(BENCHMARK_SHAPES)
    assert {d.texture for d in drawn} == set(TEXTURES)
    assert {round(d.luma, 3) for d in drawn} == {0.4, 0.6}
    hues = np.array([(d.hue - BENCHMARK_COLOURS["blue"] + 90) % 180 - 90 for d in drawn])
    assert abs(hues.mean()) < 4 * 6 / np.sqrt(300)
    assert hues.std() == pytest.approx(6, rel=0.2)


@pytest.mark.parametrize("kind", SOURCE_MOTIONS)
@pytest.mark.parametrize("num_frames", [5, 16, 63])
def test_a_motion_leaves_rest_in_its_first_frame_and_ends_at_rest(
    kind: str, num_frames: int
) -> None:
    for seed in range(20):
        poses = act(kind, num_frames, 8.0, 0.45, np.random.default_rng(seed))
        assert len(poses) == num_frames
        ways = np.stack([poses.x, poses.y, poses.angle, poses.width - 1, poses.height - 1])
        assert np.abs(ways[:, 0]).max() > 0.01
        assert np.abs(ways[:, -1] - ways[:, -2]).max() > 0.001  # still moving into the last frame
        if kind == "zigzag":
            ways[1, -1] = 0  # it has gone up or down by then
        if kind == "flip":
            ways[3, -1] = abs(poses.width[-1]) - 1
        if kind != "spin":
            np.testing.assert_allclose(ways[:, -1], 0, atol=1e-9)


def test_amplitude_scales_a_motion() -> None:
    for kind, name in (("spin", "angle"), ("bounce", "y"), ("sway", "x")):
        full, half = (act(kind, 20, 8.0, a, np.random.default_rng(3)) for a in (1.0, 0.5))
        np.testing.assert_allclose(getattr(half, name), getattr(full, name) / 2, atol=1e-12)


def test_benchmark_motions_are_among_the_source_motions() -> None:
    assert set(BENCHMARK_MOTIONS) <= set(SOURCE_MOTIONS)
    assert not set(NON_ACTIONS) & set(SOURCE_MOTIONS)


@pytest.mark.parametrize("kind", NON_ACTIONS)
@pytest.mark.parametrize("num_frames", [1, 12])
def test_non_actions_change_what_they_say(kind: str, num_frames: int) -> None:
    poses = loiter(kind, num_frames, 8.0, np.random.default_rng(0))
    assert len(poses) == num_frames
    still = {"x": 0, "y": 0, "angle": 0, "width": 1, "height": 1, "gain": 1}
    changed = {name for name, at in still.items() if np.any(getattr(poses, name) != at)}
    expected: dict[str, set[str]] = {
        "idle": set(), "drift": {"x", "y"}, "jerk": {"x", "y"},
        "tilt": {"angle"}, "flicker": {"gain"},
    }  # fmt: skip
    assert changed == expected[kind]


def test_joined_parts_go_on_from_where_the_part_before_ended() -> None:
    rng = np.random.default_rng(0)
    drift, spin = loiter("drift", 6, 8.0, rng), act("spin", 9, 8.0, 1.0, rng)
    joined = join([drift, spin, rest(3)])
    assert len(joined) == 18
    assert joined.x[6:] == pytest.approx(drift.x[-1])
    assert joined.angle[15:] == pytest.approx(spin.angle[-1])
