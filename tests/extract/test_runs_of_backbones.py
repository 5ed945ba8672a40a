"""Every backbone: a run with its halo gives what one pass over the whole video gives."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tad_distill.data.store import Store
from tad_distill.extract import clips
from tad_distill.extract.backbones import Backbone, build, variants
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.run import extract

NORMALISED = {"stem.lateral.bn.weight"}
CASES = [(name, set[str]()) for name in variants()]
CASES += [(name, NORMALISED) for name in variants() if name.startswith("slowfast")]


def made(name: str, keys: set[str]) -> Backbone:
    torch.manual_seed(0)
    backbone = build(name)
    backbone.adapt_to(keys)
    return backbone.eval()


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join([case[0], *case[1]]))
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """Every backbone in turn, built once."""
    return made(*request.param)


def averaging(backbone: Backbone) -> Backbone:
    """With kernels that average: no influence is lost, none grows."""
    backbone = copy.deepcopy(backbone)
    for parameter in backbone.parameters():
        if parameter.ndim > 1:
            parameter.abs_().div_(
                parameter.flatten(1).sum(1).reshape(-1, *[1] * (parameter.ndim - 1))
            )
    return backbone


@torch.inference_mode()
def encoded(config: ExtractConfig, backbone: Backbone, frames: Tensor) -> Tensor:
    cutter = clips.cutter(config, backbone)
    steps = []
    for run in [*cutter.push(frames), *cutter.finish()]:
        assert len(run.frames) % backbone.multiple_frames == 0
        output = backbone(run.frames.unsqueeze(0))[0]
        steps.append(cutter.steps(output[run.skip : run.skip + run.keep]))
    return torch.cat(steps)


def padded(frames: Tensor, multiple: int) -> Tensor:
    missing = -len(frames) % multiple
    return torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)])


@torch.inference_mode()
def test_a_run_with_its_halo_gives_what_one_pass_gives(backbone: Backbone) -> None:
    halo = clips.halo_frames(ExtractConfig(), backbone)
    stride = backbone.stride_frames
    num_frames = 2 * halo + 70 + 2 * stride
    frames = torch.randn(num_frames, 3, 8, 8)
    whole = backbone(padded(frames, backbone.multiple_frames).unsqueeze(0))[0]
    whole = whole[: -(-num_frames // stride)]
    given = encoded(ExtractConfig(window_frames=32), backbone, frames)
    torch.testing.assert_close(given, whole, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_less_than_the_halo_is_not_enough(backbone: Backbone) -> None:
    backbone = averaging(backbone)
    halo, multiple = backbone.halo_frames, backbone.multiple_frames
    start = -(-halo // multiple) * multiple
    stride = backbone.stride_frames
    end = start + multiple
    runs = torch.zeros(3, end + start + multiple, 3, 8, 8)
    runs[1, end + halo - 1] = 1e6  # the last frame that the halo has
    runs[2, end + halo :] = 1e6
    if start > halo:
        runs[2, : start - halo] = 1e6
    dark, seen, unseen = backbone(runs)[:, start // stride : end // stride]
    assert torch.equal(dark, unseen)
    assert not torch.equal(dark, seen)


@torch.inference_mode()
def test_short_videos_give_a_feature_per_stride(backbone: Backbone) -> None:
    for num_frames in (1, 3, 17):
        frames = torch.rand(num_frames, 3, 8, 8)
        given = encoded(ExtractConfig(window_frames=64), backbone, frames)
        assert given.shape == (-(-num_frames // backbone.stride_frames), backbone.dim)


def test_the_offset_is_the_middle_of_what_the_first_feature_sees(backbone: Backbone) -> None:
    stride = backbone.stride_frames
    for pool in (1, 2 * stride):
        cutter = clips.cutter(ExtractConfig(window_frames=64, pool_frames=pool), backbone)
        steps = torch.arange(max(1, pool // stride))
        middles = backbone.centre_of(None) + stride * steps
        assert cutter.offset_frames == float(middles.mean())
    alone = ExtractConfig(regime="snippet", clip_frames=32)
    assert clips.cutter(alone, backbone).offset_frames == 16


STREAMS = {  # stride, offset, and steps of 50 frames
    "i3d:rgb": (8, 5.5, 7),
    "i3d:rgb@mixed_4f": (4, 3.5, 14),
    "slowfast50_4x16:rgb": (4, 2, 13),
    "slowfast50_4x16:rgb@layer3": (8, 4, 7),
    "slowonly50_8x8:rgb": (8, 4.5, 7),
}


def test_streams_say_where_their_steps_lie(videos: list[Path], tmp_path: Path) -> None:
    config = ExtractConfig(resize="none", crop_px=32)
    sources = dict.fromkeys(STREAMS, Path("random:0"))
    ended = extract(videos[:1], list(STREAMS), tmp_path / "store", config, sources)
    assert not ended.failed
    store = Store.open(tmp_path / "store")
    for name, (stride, offset, num_steps) in STREAMS.items():
        stream = store.stream(name)
        assert (stream.spec.stride_frames, stream.spec.offset_frames) == (stride, offset)
        assert stream.read("long").shape == (num_steps, *stream.spec.shape)
    assert store.stream("slowfast50_4x16:rgb").spec.details["variant"]["laterals"] == "convolution"
