"""Runs and clips: nothing lost, nothing twice, exact where they promise to be exact."""

import pytest
import torch
from torch import Tensor, nn

from tad_distill.console import UsageError
from tad_distill.data.timeline import Timeline
from tad_distill.extract import clips
from tad_distill.extract.backbones import Backbone, build
from tad_distill.extract.config import ExtractConfig


class Reach(Backbone):
    """A feature per ``stride`` frames that depends on ``halo`` frames around them, zero-padded."""

    normalisation = "imagenet"
    stages = ("only",)
    dim = 1

    def __init__(self, stride: int, halo: int) -> None:
        super().__init__()
        self.stride_frames, self.halo_frames = stride, halo
        kernel = torch.linspace(1, 2, stride + 2 * halo).reshape(1, 1, -1)
        self.kernel = nn.Parameter(kernel, requires_grad=False)

    def enter(self, frames: Tensor) -> Tensor:
        return frames

    def advance(self, maps: Tensor, stage: str) -> Tensor:
        line = maps.mean((2, 3, 4)).unsqueeze(1)
        out = nn.functional.conv1d(
            line, self.kernel, stride=self.stride_frames, padding=self.halo_frames
        )
        return out.transpose(1, 2)[..., None, None]

    def adapt_channels(self, channels: int) -> None:
        """Every number of channels is read as it is."""


def frames_of(num_frames: int, side: int = 2) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(num_frames, 3, side, side)


@torch.inference_mode()
def encoded(config: ExtractConfig, backbone: Backbone, frames: Tensor, piece: int = 7) -> Tensor:
    """The steps of a video that comes in pieces of any length."""
    cutter = clips.cutter(config, backbone)
    runs = [run for part in frames.split(piece) for run in cutter.push(part)] + cutter.finish()
    steps = []
    for run in runs:
        output = backbone(run.frames.unsqueeze(0))[0]
        steps.append(cutter.steps(output[run.skip : run.skip + run.keep]))
    return torch.cat(steps)


LENGTHS = [1, 2, 15, 16, 17, 32, 33, 100]


@pytest.mark.parametrize("num_frames", LENGTHS)
@pytest.mark.parametrize("stride,halo", [(1, 0), (1, 5), (1, 20), (4, 4), (4, 12)])
def test_with_the_halo_it_needs_a_backbone_gives_what_one_pass_gives(
    stride: int, halo: int, num_frames: int
) -> None:
    backbone, frames = Reach(stride, halo), frames_of(num_frames)
    missing = -num_frames % stride
    padded = torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)])
    whole = backbone(padded.unsqueeze(0))[0]
    for piece in (1, 10):
        for extra in (None, halo + 4):
            config = ExtractConfig(window_frames=16, halo_frames=extra)
            given = encoded(config, backbone, frames, piece)
            torch.testing.assert_close(given, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_frames", [30, 64, 70])
def test_tsm_with_its_halo_gives_what_one_pass_gives(num_frames: int) -> None:
    torch.manual_seed(0)
    backbone, frames = build("tsm18").eval(), frames_of(num_frames, side=32)
    with torch.inference_mode():
        whole = backbone(frames.unsqueeze(0))[0]
    exact = encoded(ExtractConfig(window_frames=32), backbone, frames)
    torch.testing.assert_close(exact, whole, rtol=1e-5, atol=1e-5)
    if num_frames > 32:
        short = encoded(ExtractConfig(window_frames=32, halo_frames=2), backbone, frames)
        assert (short - whole).abs().max() > 1e-2


@pytest.mark.parametrize("num_frames", LENGTHS)
def test_without_halo_each_run_stands_alone(num_frames: int) -> None:
    backbone, frames = Reach(1, 5), frames_of(num_frames)
    config = ExtractConfig(window_frames=16, halo_frames=0)
    with torch.inference_mode():
        alone = torch.cat([backbone(run.unsqueeze(0))[0] for run in frames.split(16)])
    torch.testing.assert_close(encoded(config, backbone, frames), alone)


@pytest.mark.parametrize("num_frames", LENGTHS)
@pytest.mark.parametrize("pool", [2, 4, 8])
def test_pooling_is_the_mean_of_the_frames_a_step_stands_for(pool: int, num_frames: int) -> None:
    frames = torch.arange(num_frames, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    backbone = Reach(1, 0)
    config = ExtractConfig(window_frames=16, pool_frames=pool)
    given = encoded(config, backbone, frames)[:, 0]
    expected = [part.mean() for part in torch.arange(num_frames).float().split(pool)]
    torch.testing.assert_close(given, torch.stack(expected))
    cutter = clips.cutter(config, backbone)
    timeline = Timeline.of_clips(
        fps=1, clip_frames=cutter.clip_frames, stride_frames=cutter.stride_frames
    )
    for step in range(num_frames // pool):
        # Frame i is shown from second i to i + 1, so its middle is half a second later.
        assert timeline.to_seconds(float(step)) == pytest.approx(float(given[step]) + 0.5)


@pytest.mark.parametrize("num_frames", LENGTHS)
@pytest.mark.parametrize("length,stride", [(16, 4), (8, 8), (4, 16), (5, 3), (16, 16)])
def test_snippets_are_the_sliding_clips_alone(length: int, stride: int, num_frames: int) -> None:
    backbone, frames = Reach(1, 2), frames_of(num_frames)
    config = ExtractConfig(regime="snippet", clip_frames=length, clip_stride_frames=stride)
    starts = range(0, num_frames - length + 1, stride)
    with torch.inference_mode():
        expected = [
            backbone(frames[start : start + length].unsqueeze(0))[0].mean(0) for start in starts
        ]
        if num_frames < length:
            index = torch.arange(length).clamp(max=num_frames - 1)
            expected = [backbone(frames[index].unsqueeze(0))[0].mean(0)]
    for piece in (1, 5, 64):
        given = encoded(config, backbone, frames, piece)
        torch.testing.assert_close(given, torch.stack(expected))


def test_the_buffers_do_not_grow_with_the_video() -> None:
    window = clips.cutter(ExtractConfig(window_frames=16, halo_frames=4), Reach(1, 4))
    snippet = clips.cutter(ExtractConfig(regime="snippet", clip_frames=16), Reach(1, 4))
    for cutter, limit in ((window, 16 + 2 * 4), (snippet, 16)):
        for part in frames_of(500).split(10):
            cutter.push(part)
            held = vars(cutter)["_buffer"]
            assert len(held) <= limit + 10


def test_no_frames_give_no_runs() -> None:
    for regime in ("window", "snippet"):
        assert clips.cutter(ExtractConfig(regime=regime), Reach(1, 0)).finish() == []


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"pool_frames": 6}, "pool_frames: expected a multiple of 4, got 6"),
        ({"pool_frames": 8, "window_frames": 20}, "window_frames: expected a multiple of 8"),
        ({"halo_frames": 2}, "halo_frames: expected a multiple of 4"),
        ({"regime": "snippet", "clip_frames": 6}, "clip_frames: expected a multiple of 4"),
    ],
)
def test_lengths_that_cut_through_a_step_are_refused(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        clips.cutter(ExtractConfig(**settings), Reach(4, 4))  # type: ignore[arg-type]


def test_the_halo_is_rounded_up_to_whole_steps() -> None:
    assert clips.halo_frames(ExtractConfig(), Reach(4, 6)) == 8
    assert clips.halo_frames(ExtractConfig(halo_frames=12), Reach(4, 6)) == 12
