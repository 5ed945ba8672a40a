"""The narrow shift network: shapes, the three-frame stem and exact halos."""

import pytest
import torch
from torch import nn

from tad_distill.extract.backbones import build
from tad_distill.extract.backbones.tsm_mini import ThreeFrameStem, TsmMini


@pytest.fixture
def network() -> TsmMini:
    """A network whose batch norms have statistics of their own, ready for inference."""
    torch.manual_seed(0)
    network = TsmMini()
    network(torch.randn(2, 6, 3, 32, 32))
    return network.eval()


def test_the_folder_lists_it_by_its_stream_name() -> None:
    assert isinstance(build("tsm_mini"), TsmMini)


@pytest.mark.parametrize(("num_frames", "height", "width"), [(1, 48, 48), (5, 64, 48), (3, 17, 31)])
def test_one_feature_per_frame_at_any_size(
    network: TsmMini, num_frames: int, height: int, width: int
) -> None:
    feats = network(torch.randn(2, num_frames, 3, height, width))
    assert feats.shape == (2, num_frames, 128)


@pytest.mark.parametrize(("stage", "width", "side"), [("layer1", 32, 12), ("layer2", 64, 6)])
def test_maps_of_an_inner_stage(network: TsmMini, stage: str, width: int, side: int) -> None:
    assert network.maps(torch.randn(1, 4, 3, 48, 48), stage).shape == (1, 4, width, side, side)


def test_the_last_stage_alone_continues_from_the_maps_before_it(network: TsmMini) -> None:
    frames = torch.randn(2, 5, 3, 32, 32)
    maps = network.maps(frames, "layer2")
    out = network.layer3(maps.flatten(0, 1), 5).unflatten(0, (2, 5))
    torch.testing.assert_close(network.pool(out), network(frames))


def test_a_run_with_its_halo_equals_the_whole_video(network: TsmMini) -> None:
    frames = torch.randn(1, 24, 3, 32, 32)
    halo = network.halo_frames
    whole = network(frames)
    run = network(frames[:, 8 - halo : 14 + halo])[:, halo : halo + 6]
    torch.testing.assert_close(run, whole[:, 8:14], rtol=1e-4, atol=1e-5)


def test_the_halo_is_no_larger_than_needed(network: TsmMini) -> None:
    frames = torch.randn(1, 24, 3, 32, 32)
    too_short = network.halo_frames - 1
    run = network(frames[:, 8 - too_short : 14 + too_short])[:, too_short : too_short + 6]
    assert (run - network(frames)[:, 8:14]).abs().max() > 1e-3


def test_the_stem_is_a_convolution_over_three_frames() -> None:
    stem = ThreeFrameStem(3, 16)
    conv = nn.Conv3d(3, 16, (3, 5, 5), (1, 2, 2), (1, 2, 2), bias=False)
    conv.weight = stem.weight
    frames = torch.randn(2, 4, 3, 20, 14)
    expected = conv(frames.transpose(1, 2)).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(stem(frames), expected, rtol=1e-4, atol=1e-5)


def test_half_of_the_stem_sees_only_change_at_the_start() -> None:
    stem = ThreeFrameStem(3, 16)
    still = torch.randn(1, 1, 3, 16, 16).expand(1, 5, 3, 16, 16)
    inner = stem(still)[1:-1]  # the ends see the black frames of the padding
    assert inner[:, 8:].abs().max() < 1e-5
    assert inner[:, :8].abs().max() > 0.1


def test_one_channel_input_after_adapting() -> None:
    network = TsmMini()
    network.adapt_channels(1)
    assert network(torch.randn(1, 3, 1, 16, 16)).shape == (1, 3, 128)
