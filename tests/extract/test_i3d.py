"""I3D against a plain functional form of the published network, its sizes, and its SAME padding."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tad_distill.extract.backbones import Backbone, build
from tad_distill.extract.backbones.i3d import same_padding

State = dict[str, Tensor]

# The endpoints in order: pooling (kernel, stride), or convolution (stride), or Inception block.
ENDPOINTS: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = [
    ("conv_1a", (7, 7, 7), (2, 2, 2)),
    ("pool", (1, 3, 3), (1, 2, 2)),
    ("conv_2b", (1, 1, 1), (1, 1, 1)),
    ("conv_2c", (3, 3, 3), (1, 1, 1)),
    ("pool", (1, 3, 3), (1, 2, 2)),
    ("mixed_3c.mixed_3b", (), ()),
    ("mixed_3c.mixed_3c", (), ()),
    ("pool", (3, 3, 3), (2, 2, 2)),
    *((f"mixed_4f.mixed_4{letter}", (), ()) for letter in "bcdef"),
    ("pool", (2, 2, 2), (2, 2, 2)),
    *((f"mixed_5c.mixed_5{letter}", (), ()) for letter in "bc"),
]


def random_backbone() -> Backbone:
    torch.manual_seed(0)
    backbone = build("i3d").eval()
    for key, buffer in backbone.named_buffers():
        if key.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif key.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return backbone


def padded(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Zeros so that every stride has its output: the smaller half of them in front."""
    sides = []
    for size, width, step in zip(x.shape[2:], kernel, stride, strict=True):
        outputs = math.ceil(size / step)
        total = max((outputs - 1) * step + width - size, 0)
        sides.append((total // 2, total - total // 2))
    return F.pad(x, [side for pair in reversed(sides) for side in pair])


def reference(state: State, frames: Tensor) -> Tensor:
    """Endpoint by endpoint; ``(B, T, C, H, W)`` to ``(B, T / 8, 1024)``."""

    def unit(x: Tensor, key: str, stride: tuple[int, ...] = (1, 1, 1)) -> Tensor:
        weight = state[f"{key}.conv.weight"]
        x = F.conv3d(padded(x, weight.shape[2:], stride), weight, stride=stride)
        mean, var = state[f"{key}.bn.running_mean"], state[f"{key}.bn.running_var"]
        scale, shift = state[f"{key}.bn.weight"], state[f"{key}.bn.bias"]
        return F.relu(F.batch_norm(x, mean, var, scale, shift, eps=1e-3))

    def pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        return F.max_pool3d(padded(x, kernel, stride), kernel, stride)

    x = frames.movedim(2, 1)
    for name, kernel, stride in ENDPOINTS:
        if name == "pool":
            x = pool(x, kernel, stride)
        elif kernel:
            x = unit(x, name, stride)
        else:
            pooled = pool(x, (3, 3, 3), (1, 1, 1))
            x = torch.cat(
                [
                    unit(x, f"{name}.b0"),
                    unit(unit(x, f"{name}.b1a"), f"{name}.b1b"),
                    unit(unit(x, f"{name}.b2a"), f"{name}.b2b"),
                    unit(pooled, f"{name}.b3b"),
                ],
                dim=1,
            )
    return x.mean((-2, -1)).movedim(1, 2)


@pytest.mark.parametrize("channels,num_parameters", [(3, 12_697_264), (2, 12_675_312)])
def test_sizes_are_those_of_the_published_network(channels: int, num_parameters: int) -> None:
    backbone = build("i3d")
    backbone.adapt_channels(channels)
    classifier = 400 * 1024 + 400
    assert sum(p.numel() for p in backbone.parameters()) + classifier == num_parameters
    assert len(backbone.state_dict()) + 2 == 344
    assert (backbone.dim, backbone.stride_frames, backbone.normalisation) == (1024, 8, "symmetric")


@pytest.mark.parametrize(
    "frames,side,steps,cells", [(16, 224, 2, 7), (16, 96, 2, 3), (256, 96, 32, 3)]
)
def test_maps_have_the_published_shapes(frames: int, side: int, steps: int, cells: int) -> None:
    with torch.device("meta"):
        backbone = build("i3d").eval()
        clip = torch.zeros(1, frames, 3, side, side)
    assert backbone.maps(clip, "mixed_5c").shape == (1, steps, 1024, cells, cells)
    assert backbone(clip).shape == (1, steps, 1024)
    assert backbone.maps(clip, "mixed_3c").shape[:3] == (1, frames // 2, 480)
    assert backbone.maps(clip, "mixed_4f").shape[:3] == (1, frames // 4, 832)


@pytest.mark.parametrize("num_frames,height,width", [(8, 32, 32), (24, 41, 50), (16, 35, 96)])
@torch.inference_mode()
def test_features_equal_the_plain_functional_form(num_frames: int, height: int, width: int) -> None:
    backbone = random_backbone()
    frames = torch.randn(2, num_frames, 3, height, width)
    given, expected = backbone(frames), reference(backbone.state_dict(), frames)
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


def test_same_padding_is_tensorflows() -> None:
    # Two examples of TensorFlow's documentation: an odd rest stands behind.
    assert same_padding((13,), (6,), (5,)) == ([1], [2])
    assert same_padding((10,), (3,), (2,)) == ([0], [1])
    for size in range(1, 30):
        for kernel in range(1, 8):
            for stride in range(1, min(kernel, 3) + 1):
                (before,), (after,) = same_padding((size,), (kernel,), (stride,))
                assert after - before in (0, 1)
                length = size + before + after
                assert (length - kernel) // stride + 1 == math.ceil(size / stride)


@pytest.mark.parametrize(
    "stage,first,last", [("mixed_3c", -8, 10), ("mixed_4f", -28, 34), ("mixed_5c", -44, 54)]
)
@torch.inference_mode()
def test_a_step_reads_the_frames_it_says_and_is_centred_on_them(
    stage: str, first: int, last: int
) -> None:
    backbone = random_backbone()
    for parameter in backbone.parameters():
        parameter.abs_()  # nothing cancels, and the largest of a window is the bright frame's
    stride = backbone.stride_of(stage)
    step, num_frames = 48 // stride, 112
    runs = torch.zeros(5, num_frames, 3, 16, 16)
    edges = [first - 1, first, last, last + 1]
    for run, frame in zip(runs[1:], edges, strict=True):
        run[step * stride + frame] = 100
    dark, *seen = backbone.maps(runs, stage)[:, step]
    assert [not torch.equal(dark, one) for one in seen] == [False, True, True, False]
    assert backbone.centre_of(stage) == (first + last + 1) / 2


@torch.inference_mode()
def test_the_last_stage_goes_on_from_cached_maps() -> None:
    backbone = random_backbone()
    frames = torch.randn(1, 16, 3, 32, 32)
    below = backbone.maps(frames, backbone.stages[-2]).contiguous()
    again = backbone.pool(backbone.advance(below, backbone.stages[-1]))
    torch.testing.assert_close(again, backbone(frames), rtol=1e-6, atol=1e-6)
    assert backbone.get_submodule(backbone.stages[-1])
