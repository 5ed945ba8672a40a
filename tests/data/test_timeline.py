"""Seconds, frames and grid steps: the conventions of the field as cases."""

import numpy as np
import pytest
import torch

from tad_distill.data.timeline import Timeline, nearest_frames


@pytest.mark.parametrize("seconds", [0.0, 1.7, 33.8])
def test_actionformers_rule_for_thumos(seconds: float) -> None:
    # libs/datasets/thumos14.py: 16-frame clips every 4 frames at the video's own rate.
    timeline = Timeline.of_clips(fps=30.0, clip_frames=16, stride_frames=4)
    grid = seconds * 30.0 / 4 - 0.5 * 16 / 4
    assert timeline.to_grid(seconds) == pytest.approx(grid)
    assert timeline.to_seconds(grid) == pytest.approx(seconds)


def test_actionformers_rule_for_features_upsampled_to_a_fixed_length() -> None:
    # libs/datasets/anet.py: 16-frame clips every 16 frames, T features stretched to 192; then a
    # step is ((T - 1) * 16 + 16) / 192 frames and half of it the offset.
    num_steps, stride = 137, 137 * 16 / 192
    timeline = Timeline.of_clips(fps=15.0, clip_frames=16, stride_frames=16)
    timeline = timeline.resampled(num_steps, 192)
    for grid in (0.0, 10.5, 191.0):
        assert timeline.to_seconds(grid) == pytest.approx((grid * stride + 0.5 * stride) / 15.0)


def test_the_example_of_actionformers_questions_and_answers() -> None:
    timeline = Timeline.of_clips(fps=1, clip_frames=4, stride_frames=2)
    assert (timeline.to_seconds(0.0), timeline.to_seconds(1.0)) == (2.0, 4.0)
    assert timeline.to_grid(0.0) == -1.0


@pytest.mark.parametrize("frames_per_step", [1, 4, 8])
def test_slots_of_windows_are_centred_as_in_tadtr(frames_per_step: int) -> None:
    # Windows of 25.6 s at 10 frames per second; slot i of T is centred at (i + 0.5) / T of it.
    num_steps = 256 // frames_per_step
    timeline = Timeline.of_clips(fps=10, clip_frames=frames_per_step, stride_frames=frames_per_step)
    for slot in (0, 7, num_steps - 1):
        assert timeline.to_seconds(float(slot)) == pytest.approx((slot + 0.5) / num_steps * 25.6)


def test_slots_of_gtad_are_intervals_whose_centre_is_the_grid_step() -> None:
    # Slot i of features subsampled by 5 covers frames 5i - 2.5 to 5i + 2.5, so it is centred at 5i.
    timeline = Timeline(fps=30.0, stride_frames=5, offset_frames=0)
    ends = timeline.to_seconds(np.array([6 - 0.5, 6 + 0.5])) * 30.0
    np.testing.assert_allclose(ends, [27.5, 32.5])


def test_conversion_and_its_inverse_cancel() -> None:
    timeline = Timeline(fps=29.97, stride_frames=3.7, offset_frames=11.0)
    seconds = np.linspace(-3, 5000, 1001)
    np.testing.assert_allclose(timeline.to_seconds(timeline.to_grid(seconds)), seconds, atol=1e-9)


def test_a_cropped_timeline_starts_at_the_first_feature_kept() -> None:
    timeline = Timeline(fps=25.0, stride_frames=4, offset_frames=8)
    assert timeline.cropped(10).to_seconds(2.0) == pytest.approx(timeline.to_seconds(12.0))


@pytest.mark.parametrize(("num_from", "num_to"), [(100, 37), (37, 100), (5, 5), (1, 4)])
def test_resampling_says_where_torch_interpolates(num_from: int, num_to: int) -> None:
    timeline = Timeline(fps=25.0, stride_frames=4, offset_frames=8)
    times = torch.tensor([timeline.to_seconds(float(i)) for i in range(num_from)])
    stretched = torch.nn.functional.interpolate(
        times[None, None].double(), num_to, mode="linear", align_corners=False
    )[0, 0]
    resampled = timeline.resampled(num_from, num_to)
    # Beyond the outermost features torch repeats them, where time goes on.
    seconds = resampled.to_seconds(np.arange(num_to, dtype=np.float64))
    wanted = seconds.clip(times[0].item(), times[-1].item())
    np.testing.assert_allclose(stretched.numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize(("fps", "stride"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1)])
def test_what_cannot_be_a_timeline_is_refused(fps: float, stride: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Timeline(fps=fps, stride_frames=stride, offset_frames=0)


@pytest.mark.parametrize("seed", range(20))
def test_the_nearest_frame_stands_for_each_tick(seed: int) -> None:
    random = np.random.default_rng(seed)
    times = np.cumsum(random.uniform(0.005, 0.2, size=random.integers(1, 60))) + 7.0
    fps = float(random.uniform(2, 40))
    chosen = nearest_frames(times, fps)
    for tick, frame in enumerate(chosen):
        gaps = np.abs(times - times[0] - tick / fps)
        assert gaps[frame] <= gaps.min() + 1e-5
    shown_s = times[-1] - times[0]
    shown_s += shown_s / (len(times) - 1) if len(times) > 1 else 1 / fps
    assert (len(chosen) - 1) / fps < shown_s <= len(chosen) / fps + 2e-6


@pytest.mark.parametrize(("source", "wanted"), [(30.0, 10.0), (25.0, 10.0), (8.0, 8.0), (10, 30)])
def test_a_constant_rate_is_resampled_without_drift(source: float, wanted: float) -> None:
    times = np.arange(1000) / source
    chosen = nearest_frames(times, wanted)
    assert len(chosen) == np.ceil(1000 / source * wanted - 1e-4)
    drift = np.abs(times[chosen] - np.arange(len(chosen)) / wanted)
    # Once the last frame has come, it stands for what is left of its own time.
    assert drift[:-1].max() <= 0.5 / source + 1e-9 and drift[-1] <= 1 / source


def test_ticks_end_when_the_last_frame_goes() -> None:
    times = np.array([5.0, 5.1, 5.2])
    assert nearest_frames(times, 10.0).tolist() == [0, 1, 2]
    assert nearest_frames(times, 10.0, end_s=5.6).tolist() == [0, 1, 2, 2, 2, 2]


def test_of_two_frames_as_near_the_earlier_is_taken() -> None:
    # Ticks at 0, 0.1, 0.2 s; the middle one lies between the frames at 0.08 and 0.12 s.
    assert nearest_frames(np.array([0.0, 0.04, 0.08, 0.12, 0.16, 0.2]), 10.0).tolist() == [0, 2, 5]
    assert nearest_frames(np.array([0.0, 0.04, 0.08, 0.12]), 12.5).tolist() == [0, 2]


def test_a_single_frame_gives_a_single_tick() -> None:
    assert nearest_frames(np.array([3.0]), 10.0).tolist() == [0]
