"""Plans: when what happens, how labels are distributed, and that seeds decide everything."""

import numpy as np
import pytest

from tad_distill.config import ConfigError, build, load
from tad_distill.data.world.clips import CLIP_KEYS, reels, table
from tad_distill.data.world.config import SIZES, ClipConfig, SceneConfig, TimeConfig, WorldConfig
from tad_distill.data.world.motions import BENCHMARK_MOTIONS, NON_ACTIONS, SOURCE_MOTIONS
from tad_distill.data.world.objects import BENCHMARK_COLOURS, SOURCE_COLOURS
from tad_distill.data.world.plan import CLASSES, SPLITS, Plan, home, plan_clip, plan_video, random


def plans(config: WorldConfig, num: int, seed: int = 0, split: int = 0) -> list[Plan]:
    return [plan_video(config, random(seed, split, i, 0)) for i in range(num)]


def actions(plan: Plan) -> list[tuple[int, int]]:
    return [actor.action for actor in plan.actors if actor.action]


def test_instances_lie_in_the_video_one_after_the_other() -> None:
    config = WorldConfig()
    for plan in plans(config, 100):
        times = actions(plan)
        assert times
        assert times[0][0] >= 1  # there is a frame before, so the start can be seen
        assert times[-1][1] <= plan.num_frames == 160
        gaps = [b[0] - a[1] for a, b in zip(times, times[1:], strict=False)]
        assert min(gaps, default=3) >= 3  # 0.4 s
        assert all(5 <= end - begin <= 64 for begin, end in times)  # 0.6 to 8 s


def test_durations_and_gaps_follow_their_distributions() -> None:
    config = WorldConfig(time=TimeConfig(video_s=400.0))  # the cut at the end hardly counts
    times = [actions(plan) for plan in plans(config, 8)]
    durations = np.array([(e - b) / 8 for video in times for b, e in video])
    assert len(durations) > 500
    assert np.median(durations) == pytest.approx(2.0, abs=0.2)
    # The tails of the log-normal beyond 8.5 and 29.5 frames, about one sigma off the median.
    assert np.mean(durations <= 8 / 8) == pytest.approx(0.146, abs=0.05)
    assert np.mean(durations >= 30 / 8) == pytest.approx(0.154, abs=0.05)
    gaps = [(b[0] - a[1]) / 8 for video in times for a, b in zip(video, video[1:], strict=False)]
    # The mean of an exponential of 2.2 s clipped to 0.4 to 6 s.
    clipped = 0.4 + 2.2 * (np.exp(-0.4 / 2.2) - np.exp(-6 / 2.2))
    assert np.mean(gaps) == pytest.approx(clipped, rel=0.12)


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("split", range(3))
def test_rho_is_the_link_of_scene_and_label_in_every_split(rho: float, split: int) -> None:
    config = WorldConfig(scenes=SceneConfig(rho=rho))
    at_home = [
        CLASSES.index((actor.look.colour, str(actor.motion))) in home(plan.backdrop.scene, 5)
        for plan in plans(config, 120, split=split)
        for actor in plan.actors
        if actor.action
    ]
    expected = rho + (1 - rho) * 3 / 15
    sd = np.sqrt(expected * (1 - expected) / len(at_home))
    assert np.mean(at_home) == pytest.approx(expected, abs=4 * sd + 1e-9)


def test_each_label_is_at_home_in_one_scene_and_all_are_equally_frequent() -> None:
    homes = [label for scene in range(5) for label in home(scene, 5)]
    assert sorted(homes) == list(range(15))
    labels = [
        CLASSES.index((actor.look.colour, str(actor.motion)))
        for plan in plans(WorldConfig(), 400)
        for actor in plan.actors
        if actor.action
    ]
    counts = np.bincount(labels, minlength=15)
    expected = len(labels) / 15
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 40  # 14 degrees of freedom: one in 4000


def test_labels_are_the_words_for_colour_and_motion() -> None:
    assert len(CLASSES) == 15
    assert {colour for colour, _ in CLASSES} == set(BENCHMARK_COLOURS)
    (red_spin,) = [" ".join(c) for c in CLASSES if c == ("red", "spin")]
    actor = next(a for p in plans(WorldConfig(), 20) for a in p.actors if a.action)
    assert actor.label.split() == [actor.look.colour, actor.motion]
    assert red_spin == "red spin"


def test_objects_are_in_view_without_acting() -> None:
    found = plans(WorldConfig(), 60)
    idle_before = [a.action[0] - a.first for p in found for a in p.actors if a.action]
    idle_after = [a.last - a.action[1] for p in found for a in p.actors if a.action]
    assert np.mean(np.array(idle_before) > 0) > 0.7
    assert np.mean(np.array(idle_after) > 0) > 0.7
    assert max(idle_before + idle_after) <= 10  # 1.2 s
    distractors = [sum(a.action is None for a in p.actors) for p in found]
    assert np.mean(distractors) == pytest.approx(2, abs=4 * np.sqrt(2 / 60))
    assert {len(p.backdrop.decoys) for p in found} == {0, 1, 2}
    assert all(0 <= a.first < a.last <= 160 for p in found for a in p.actors)


def test_no_other_action_hides_an_action() -> None:
    for plan in plans(WorldConfig(), 60):
        acting = [a for a in plan.actors if a.action]
        for earlier, later in zip(acting, acting[1:], strict=False):
            assert earlier.action is not None
            assert later.first >= earlier.action[1]


def test_objects_stay_in_the_frame_while_they_act() -> None:
    for plan in plans(WorldConfig(), 60):
        for actor in plan.actors:
            if actor.action:
                part = actor.poses[slice(*(t - actor.first for t in actor.action))]
                centres = np.concatenate([part.x, part.y])
                assert centres.min() > 0
                assert centres.max() < 1


def test_plans_depend_on_seed_split_and_number_and_not_on_the_camera() -> None:
    config = WorldConfig()

    def draw(seed: int, split: int, index: int, config: WorldConfig = config) -> list[object]:
        plan = plan_video(config, random(seed, split, index, 0))
        return [(a.label, a.action, a.look) for a in plan.actors]

    assert draw(0, 0, 0) == draw(0, 0, 0)
    others = [draw(1, 0, 0), draw(0, 1, 0), draw(0, 2, 0), draw(0, 0, 1)]
    assert all(draw(0, 0, 0) != other for other in others)
    noisy = load(WorldConfig, {}, ["camera.noise=0.1", "camera.pan=0"])
    assert draw(0, 0, 0) == draw(0, 0, 0, noisy)
    assert not set(CLIP_KEYS.values()) & set(range(len(SPLITS)))


def test_a_short_video_still_has_an_instance() -> None:
    config = WorldConfig(time=TimeConfig(video_s=2.0))
    for plan in plans(config, 50):
        ((begin, end),) = actions(plan)
        assert 1 <= begin < end <= 16


def test_clips_show_source_objects_only() -> None:
    config = WorldConfig()
    found = [plan_clip(config, random(0, 3, i, 0)) for i in range(300)]
    actors = [plan.actors[0] for plan in found]
    assert all(len(plan.actors) == 1 and len(plan.actors[0].poses) == 10 for plan in found)
    assert {a.look.colour for a in actors} == set(SOURCE_COLOURS)
    assert {a.motion for a in actors} == set(SOURCE_MOTIONS + NON_ACTIONS)


def test_reels_hold_every_clip_once_and_one_split_each() -> None:
    config = ClipConfig(num_training=450, num_validation=70, per_reel=200)
    found = reels(config)
    assert [(r.name, r.split, r.first, r.num_clips) for r in found] == [
        ("reel_000", "training", 0, 200),
        ("reel_001", "training", 200, 200),
        ("reel_002", "training", 400, 50),
        ("reel_003", "validation", 0, 70),
    ]


def test_no_clips_leave_the_header() -> None:
    config = WorldConfig(clips=ClipConfig(num_training=0, num_validation=0))
    assert table(config, 0) == "video,start_s,end_s,split,object,motion\n"


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_a_valid_world_with_fewer_settings_than_defaults(size: str) -> None:
    assert build(WorldConfig, SIZES[size]).num_frames in (80, 160)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("scene.rho=0.3", "scene: no such setting; did you mean scenes?"),
        ("scenes.rho=1.5", "scenes: rho: expected 0 to 1, got 1.5"),
        ("fps=12.5", "fps: expected int, got 12.5"),
        ("side_px=47", "side_px: the codec needs an even number, got 47"),
        ("time.video_s=0.5", "time: video_s: 0.5 has no room, expected >= 1.6"),
        ("objects.scale=[0.5, 0.3]", "objects: scale: expected 0.05 <= first <= second <= 0.9"),
    ],
)
def test_settings_that_cannot_be_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(WorldConfig, {}, [override])
    assert message in str(error.value)


def test_three_motions_are_the_benchmark() -> None:
    assert BENCHMARK_MOTIONS == ("spin", "bounce", "sway")
