"""TSM against a plain functional form of the fact sheet, and its reach in time."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tad_distill.console import UsageError
from tad_distill.extract.backbones import Backbone, build

EXPECTED = {  # dim, keys and parameters with a 400-way classifier, halo (one frame per block)
    "tsm18": (512, 122, 11_381_712, 8),
    "tsm50": (2048, None, 24_327_632, 16),
}


def random_backbone(name: str) -> Backbone:
    torch.manual_seed(0)
    backbone = build(name).eval()
    for key, buffer in backbone.named_buffers():
        if key.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif key.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return backbone


def shifted(frames: list[Tensor]) -> list[Tensor]:
    """One frame at a time: an eighth from the next, an eighth from the previous, zero outside."""
    eighth = frames[0].shape[0] // 8
    nothing = torch.zeros_like(frames[0])
    following, preceding = [*frames[1:], nothing], [nothing, *frames[:-1]]
    return [
        torch.cat([after[:eighth], before[eighth : 2 * eighth], frame[2 * eighth :]])
        for frame, after, before in zip(frames, following, preceding, strict=True)
    ]


def reference(state: dict[str, Tensor], frames: Tensor) -> Tensor:
    """ResNet v1.5 with the shift before the first convolution of every residual branch."""

    def normalised(x: Tensor, key: str) -> Tensor:
        mean, var = state[f"{key}.running_mean"], state[f"{key}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{key}.weight"], state[f"{key}.bias"])

    def convolved(x: Tensor, key: str, stride: int = 1) -> Tensor:
        weight = state[key]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    x = F.max_pool2d(F.relu(normalised(convolved(frames, "conv1.weight", 2), "bn1")), 3, 2, 1)
    blocks = sorted({tuple(key.split(".")[:2]) for key in state if key.startswith("layer")})
    bottleneck = "layer1.0.conv3.weight" in state
    for layer, number in sorted(blocks, key=lambda block: (block[0], int(block[1]))):
        key = f"{layer}.{number}"
        stride = 2 if number == "0" and layer != "layer1" else 1
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        y = torch.stack(shifted(list(x)))
        for index, by in enumerate(strides, start=1):
            y = normalised(convolved(y, f"{key}.conv{index}.weight", by), f"{key}.bn{index}")
            y = y if index == len(strides) else F.relu(y)
        if f"{key}.downsample.0.weight" in state:
            x = normalised(
                convolved(x, f"{key}.downsample.0.weight", stride), f"{key}.downsample.1"
            )
        x = F.relu(x + y)
    return x.mean((-2, -1))


@pytest.mark.parametrize("name", EXPECTED)
def test_sizes_are_those_of_the_published_network(name: str) -> None:
    dim, num_keys, num_parameters, halo = EXPECTED[name]
    backbone = build(name)
    classifier = 400 * dim + 400
    assert (backbone.dim, backbone.halo_frames, backbone.stride_frames) == (dim, halo, 1)
    assert sum(p.numel() for p in backbone.parameters()) + classifier == num_parameters
    if num_keys:
        assert len(backbone.state_dict()) + 2 == num_keys


@pytest.mark.parametrize("name", EXPECTED)
@torch.inference_mode()
def test_features_equal_the_plain_functional_form(name: str) -> None:
    backbone = random_backbone(name)
    frames = torch.randn(2, 5, 3, 40, 32)
    given = backbone(frames)
    expected = torch.stack([reference(backbone.state_dict(), run) for run in frames])
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_feature_reads_the_halo_and_nothing_beyond(name: str) -> None:
    backbone = random_backbone(name)
    halo = backbone.halo_frames
    frames = torch.randn(1, 2 * halo + 3, 3, 16, 16, requires_grad=True)
    backbone(frames)[0, halo + 1].sum().backward()
    assert frames.grad is not None
    read = frames.grad.abs().sum((0, 2, 3, 4)) > 0
    assert read.tolist() == [False] + [True] * (2 * halo + 1) + [False]


@torch.inference_mode()
def test_runs_of_a_batch_do_not_see_each_other() -> None:
    backbone = random_backbone("tsm18")
    frames = torch.randn(3, 4, 3, 32, 32)
    alone = torch.cat([backbone(run.unsqueeze(0)) for run in frames])
    torch.testing.assert_close(backbone(frames), alone, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_stages_give_maps_of_the_documented_shapes() -> None:
    frames = torch.randn(1, 3, 3, 96, 96)
    shapes = {
        "tsm18": [(64, 24), (128, 12), (256, 6), (512, 3)],
        "tsm50": [(256, 24), (512, 12), (1024, 6), (2048, 3)],
    }
    for name, expected in shapes.items():
        backbone = build(name).eval()
        for stage, (channels, side) in zip(backbone.stages, expected, strict=True):
            assert backbone.maps(frames, stage).shape == (1, 3, channels, side, side)
        last = backbone.maps(frames, backbone.stages[-1])
        torch.testing.assert_close(backbone.pool(last), backbone(frames))


@torch.inference_mode()
def test_one_channel_can_be_read() -> None:
    backbone = build("tsm18").eval()
    backbone.adapt_channels(1)
    assert backbone(torch.randn(1, 2, 1, 32, 32)).shape == (1, 2, 512)


def test_an_unknown_backbone_is_named_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="backbone 'tsm19'.*tsm18, tsm50"):
        build("tsm19")


@pytest.mark.parametrize("name", ["tsm18", "tsm50"])
@torch.inference_mode()
def test_the_last_stage_goes_on_from_cached_maps(name: str) -> None:
    torch.manual_seed(0)
    backbone = build(name).eval()
    frames = torch.randn(1, 3, 3, 32, 32)
    below = backbone.maps(frames, backbone.stages[-2])
    again = backbone.pool(backbone.advance(below, backbone.stages[-1]))
    assert torch.equal(again, backbone(frames))
