"""SlowFast-50 of both kinds against a plain functional form, its packing, and its middles."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tad_distill.extract.backbones import build
from tad_distill.extract.backbones.slowfast import SlowFast, pack, unpack

State = dict[str, Tensor]
NAMES = {"slowfast50_4x16": (8, 5), "slowfast50_8x8": (4, 7)}
KINDS = {"mmaction2": set[str](), "PySlowFast": {"stem.lateral.bn.weight"}}


def random_backbone(name: str, kind: str) -> SlowFast:
    torch.manual_seed(0)
    backbone = build(name)
    assert isinstance(backbone, SlowFast)
    backbone.adapt_to(KINDS[kind])
    for key, buffer in backbone.named_buffers():
        if key.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif key.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return backbone.eval()


def reference(state: State, alpha: int, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
    """``(B, 3, T, H, W)`` frames of both pathways to their last maps, layer by layer."""

    def normalised(x: Tensor, key: str) -> Tensor:
        mean, var = state[f"{key}.running_mean"], state[f"{key}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{key}.weight"], state[f"{key}.bias"])

    def convolved(x: Tensor, key: str, stride: tuple[int, int, int] = (1, 1, 1)) -> Tensor:
        weight = state[f"{key}.weight"]
        return F.conv3d(x, weight, stride=stride, padding=[n // 2 for n in weight.shape[2:]])

    def stem(x: Tensor, key: str) -> Tensor:
        x = F.relu(normalised(convolved(x, f"{key}.conv", (1, 2, 2)), f"{key}.bn"))
        return F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))

    def block(x: Tensor, key: str, stride: int) -> Tensor:
        y = F.relu(normalised(convolved(x, f"{key}.conv1"), f"{key}.bn1"))
        y = F.relu(normalised(convolved(y, f"{key}.conv2", (1, stride, stride)), f"{key}.bn2"))
        y = normalised(convolved(y, f"{key}.conv3"), f"{key}.bn3")
        if f"{key}.downsample.0.weight" in state:
            skip = convolved(x, f"{key}.downsample.0", (1, stride, stride))
            x = normalised(skip, f"{key}.downsample.1")
        return F.relu(x + y)

    def fused(slow: Tensor, fast: Tensor, key: str) -> Tensor:
        side = convolved(fast, f"{key}.lateral.conv", (alpha, 1, 1))
        if f"{key}.lateral.bn.weight" in state:
            side = F.relu(normalised(side, f"{key}.lateral.bn"))
        return torch.cat([slow, side], 1)

    slow, fast = stem(slow, "stem.slow"), stem(fast, "stem.fast")
    slow = fused(slow, fast, "stem")
    for number, depth in enumerate((3, 4, 6, 3), start=1):
        for index in range(depth):
            stride = 2 if number > 1 and not index else 1
            slow = block(slow, f"layer{number}.slow.{index}", stride)
            fast = block(fast, f"layer{number}.fast.{index}", stride)
        if number < 4:
            slow = fused(slow, fast, f"layer{number}")
    return slow, fast


@pytest.mark.parametrize(
    "name,kind,num_keys,num_parameters",
    [
        ("slowfast50_4x16", "mmaction2", 640, 33_557_288),
        ("slowfast50_8x8", "PySlowFast", 660, 34_566_488 - 2304 * 400 - 400),
    ],
)
def test_sizes_are_those_of_the_published_networks(
    name: str, kind: str, num_keys: int, num_parameters: int
) -> None:
    backbone = random_backbone(name, kind)
    assert len(backbone.state_dict()) == num_keys
    assert sum(p.numel() for p in backbone.parameters()) == num_parameters
    assert (backbone.dim, backbone.stride_frames) == (2304, 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_maps_of_a_clip_equal_the_plain_functional_form(name: str, kind: str) -> None:
    alpha, _ = NAMES[name]
    backbone = random_backbone(name, kind)
    backbone.clips_alone = True
    clip = torch.randn(2, 32, 3, 32, 40)
    picked = {
        ("PySlowFast", 8): [0, 10, 20, 31],
        ("PySlowFast", 4): [0, 4, 8, 13, 17, 22, 26, 31],
    }.get((kind, alpha), list(range(0, 32, alpha)))
    frames = clip.movedim(2, 1)
    expected = reference(backbone.state_dict(), alpha, frames[:, :, picked], frames)
    given = unpack(backbone.maps(clip, "layer4"), 256, alpha)
    for one, other in zip(given, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    # The features of a clip are, in the mean, what the published classifiers pool.
    pooled = torch.cat([maps.mean((2, 3, 4)) for maps in expected], dim=1)
    torch.testing.assert_close(backbone(clip).mean(1), pooled, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_long_run_takes_every_alphath_frame_as_late_as_trained_clips_do() -> None:
    for name, (alpha, _) in NAMES.items():
        plain, normalised = (random_backbone(name, kind) for kind in KINDS)
        late = {8: 3, 4: 1}[alpha]  # means 3.25 and 1.125 of the clips of 32
        assert plain.slow_frames(256).tolist() == list(range(0, 256, alpha))
        assert normalised.slow_frames(256).tolist() == list(range(late, 256, alpha))


@pytest.mark.parametrize("kind,input_as", [("mmaction2", "imagenet"), ("PySlowFast", "kinetics")])
def test_the_weights_decide_the_kind_and_its_input(kind: str, input_as: str) -> None:
    backbone = random_backbone("slowfast50_4x16", next(other for other in KINDS if other != kind))
    backbone.adapt_to(KINDS[kind])
    assert backbone.normalisation == input_as
    assert ("normalisation" in backbone.describe()["laterals"]) == (kind == "PySlowFast")


def test_packing_loses_nothing() -> None:
    slow, fast = torch.randn(2, 5, 3, 4, 4), torch.randn(2, 2, 24, 4, 4)
    maps = pack(slow, fast)
    assert maps.shape == (2, 3, 5 + 8 * 2, 4, 4)
    assert torch.equal(maps[:, 1, 5 + 2 * 3 : 5 + 2 * 4], fast[:, :, 8 + 3])
    for one, other in zip(unpack(maps, 2, 8), (slow, fast), strict=True):
        assert torch.equal(one, other)


@torch.inference_mode()
def test_stages_give_packed_maps_and_the_last_one_goes_on_from_them() -> None:
    backbone = random_backbone("slowfast50_4x16", "mmaction2")
    frames = torch.randn(1, 16, 3, 32, 32)
    widths = [320 + 8 * 32, 640 + 8 * 64, 1280 + 8 * 128, 2048 + 8 * 256]
    for stage, width in zip(backbone.stages, widths, strict=True):
        assert backbone.maps(frames, stage).shape[:3] == (1, 2, width)
        assert backbone.stride_of(stage) == 8
    below = backbone.maps(frames, "layer3")
    again = backbone.pool(backbone.advance(below, "layer4"))
    assert torch.equal(again, backbone(frames))
    assert again.shape == (1, 4, 2304)


@pytest.mark.parametrize("name", NAMES)
def test_features_of_both_pathways_are_centred_where_they_say(name: str) -> None:
    """Influence of each frame with averaging kernels: its mean is the middle that is declared."""
    backbone = build(name).eval()
    for parameter in backbone.parameters():
        if parameter.ndim > 1:
            parameter.data.fill_(1 / parameter[0].numel())
    middle, num_frames = 32, 256
    frames = torch.rand(1, num_frames, 3, 8, 8, requires_grad=True)
    feats = backbone(frames)[0]
    times = torch.arange(num_frames) + 0.5
    for step in (middle, middle + 1):
        declared = step * backbone.stride_frames + backbone.centre_of(None)
        for part in (feats[step, :2048], feats[step, 2048:]):
            (seen,) = torch.autograd.grad(part.sum(), frames, retain_graph=True)
            weight = seen.abs().sum((0, 2, 3, 4))
            centre = float((weight * times).sum() / weight.sum())
            assert centre == pytest.approx(declared, abs=0.6)


@torch.inference_mode()
def test_other_numbers_of_channels_can_be_read() -> None:
    backbone = random_backbone("slowfast50_8x8", "mmaction2")
    backbone.adapt_channels(2)
    assert backbone(torch.randn(1, 8, 2, 32, 32)).shape == (1, 2, 2304)
