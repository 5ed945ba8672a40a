"""Blocks of the pyramid, absolute positions and necks."""

import math

import pytest
import torch

from tad_distill.distill import necks, pyramid


@pytest.mark.parametrize("attentive", [True, False])
def test_a_block_is_zero_where_not_real_and_halves_the_mask(attentive: bool) -> None:
    torch.manual_seed(0)
    block: torch.nn.Module = pyramid.ConvBlock(8, stride=2)
    if attentive:
        block = pyramid.PyramidBlock(8, num_heads=2, window=3, stride=2, drop_path=0.1).eval()
    mask = torch.arange(12) < torch.tensor([[12], [5]])
    feats, halved = block(torch.randn(2, 12, 8), mask)
    assert halved.tolist() == [[True] * 6, [True] * 3 + [False] * 3]
    assert feats.shape == (2, 6, 8) and not feats[~halved].any() and feats[halved].any(-1).all()


def test_positions_are_sines_and_cosines_of_falling_rate() -> None:
    table = pyramid.Positions(50, 6)(torch.tensor([50]), 50)[0]
    for t in (0, 1, 17, 49):
        for channel in range(6):
            angle = t / 10_000 ** (2 * (channel // 2) / 6)
            expected = (math.cos if channel % 2 else math.sin)(angle) / math.sqrt(6)
            assert table[t, channel].item() == pytest.approx(expected, abs=1e-6)


def test_positions_of_a_long_video_stretch_as_torch_interpolates() -> None:
    positions = pyramid.Positions(32, 6)
    stretched = positions(torch.tensor([20, 45]), 48)
    assert torch.equal(stretched[0, :32], positions.table)
    expected = torch.nn.functional.interpolate(
        positions.table.T.unsqueeze(0), 45, mode="linear", align_corners=False
    )
    torch.testing.assert_close(stretched[1, :45], expected[0].T, atol=1e-6, rtol=1e-5)
    assert not positions.state_dict()


def test_the_feature_pyramid_adds_coarse_levels_to_fine_ones() -> None:
    torch.manual_seed(0)
    neck = necks.FeaturePyramid(4, 3)
    levels = [
        (torch.randn(1, length, 4, requires_grad=True), torch.ones(1, length).bool())
        for length in (8, 4, 2)
    ]
    fine, middle, coarse = neck(levels)
    fine[0][0, 0].square().sum().backward()
    # Step 0 reads its neighbours and, above them, the coarse steps that cover those.
    assert [level.grad[0].any(-1).tolist() for level, _ in levels if level.grad is not None] == [
        [True, True, *[False] * 6],
        [True, False, False, False],
        [True, False],
    ]
    assert [f.shape for f, _ in (fine, middle, coarse)] == [(1, 8, 4), (1, 4, 4), (1, 2, 4)]
