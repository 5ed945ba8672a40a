"""Flow of pairs of frames, in torch and compiled."""

import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tad_distill import console
from tad_distill.extract.tvl1 import eager, native
from tad_distill.extract.tvl1.flow import Compile, flow
from tad_distill.extract.tvl1.settings import VARIANTS, Settings

Texture = Callable[..., Tensor]
BOTH: list[Compile] = ["never", "always"]


@pytest.fixture(autouse=True)
def _compiler(request: pytest.FixtureRequest) -> None:
    given = getattr(request.node, "callspec", None)
    if given and given.params.get("compile") == "always" and not native.is_available():
        pytest.skip("needs a C++ compiler")


def few(variant: str, **others: Any) -> Settings:
    """A variant with few iterations, all of which run."""
    fewer = {"num_warps": 2, "num_outer": 2, "num_inner": 4, "num_scales": 2, "epsilon": 0.0}
    return replace(VARIANTS[variant], **(fewer | others))


@pytest.mark.parametrize("compile", BOTH)
@pytest.mark.parametrize(
    ("variant", "others"),
    [
        ("opencv-cpu", {}),
        ("opencv-cpu", {"median": 3, "tau": 0.2, "tightness": 0.4, "attachment": 0.1}),
        ("opencv-cuda", {}),
    ],
)
def test_flow_is_that_of_the_written_algorithm(
    variant: str, others: dict[str, Any], compile: Compile, texture: Texture, brute_force: Any
) -> None:
    settings = few(variant, **others)
    frames = texture((20, 23), [(0, 0), (1.4, -0.8)])
    expected = brute_force(*frames.double().numpy(), settings)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(flow(frames, settings, compile)[0], expected, atol=2e-4)


@pytest.mark.parametrize("compile", BOTH)
@pytest.mark.parametrize("variant", ["opencv-cpu", "opencv-cuda"])
def test_a_moving_camera_is_recovered(variant: str, compile: Compile, texture: Texture) -> None:
    frames = texture((60, 70), [(0, 0), (1.5, -0.75), (-2.5, 0.25)])
    found = flow(frames, VARIANTS[variant], compile)
    for pair, motion in zip(found, [(1.5, -0.75), (-4.0, 1.0)], strict=True):
        error = (pair - torch.tensor(motion).reshape(2, 1, 1))[:, 8:-8, 8:-8].norm(dim=0)
        assert error.mean() < 0.05


@pytest.mark.parametrize("compile", BOTH)
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_what_stands_still_has_no_flow(variant: str, compile: Compile, texture: Texture) -> None:
    still = texture((24, 33), [(0, 0), (0, 0)])
    assert not flow(still, VARIANTS[variant], compile).any()
    for value in (0, 255):
        assert not flow(torch.full((3, 24, 33), value), VARIANTS[variant], compile).any()


@pytest.mark.parametrize("compile", BOTH)
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_a_pair_does_not_depend_on_the_frames_around_it(
    variant: str, compile: Compile, texture: Texture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A piece holds several small pairs, or a part of one: both, and pairs that stop apart.
    monkeypatch.setattr(eager, "TILE_PX", 1000)
    shifts = [(0, 0), (0.1, 0), (3, 2), (3, 2), (2.8, 1.9)]
    frames = texture((30, 41), shifts) + torch.randn(5, 30, 41)
    together = flow(frames, VARIANTS[variant], compile)
    for i, pair in enumerate(together):
        assert torch.equal(flow(frames[i : i + 2], VARIANTS[variant], compile)[0], pair)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_compiled_and_torch_agree(variant: str, texture: Texture) -> None:
    frames = texture((45, 61), [(0, 0), (1.1, 0.4), (0.2, 2.0)])
    settings = replace(VARIANTS[variant], num_outer=3, num_inner=10, epsilon=0.0)
    error = (flow(frames, settings, "never") - flow(frames, settings, "auto")).norm(dim=1)
    assert error.median() < 2e-5
    assert error.mean() < 5e-4


@pytest.mark.parametrize("variant", ["opencv-cpu", "opencv-cuda"])
def test_compiled_and_torch_stop_alike(variant: str, texture: Texture) -> None:
    frames = texture((45, 61), [(0, 0), (1.1, 0.4), (0.2, 2.0)])
    one, other = (flow(frames, VARIANTS[variant], compile) for compile in ("never", "auto"))
    assert (one - other).norm(dim=1).mean() < 0.002
    sooner = flow(frames, replace(VARIANTS[variant], epsilon=0.2), "never")
    assert (one - sooner).norm(dim=1).mean() > 0.02


@pytest.mark.parametrize("compile", BOTH)
@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 1), (7, 3), (15, 40), (16, 16), (17, 33)])
def test_frames_of_any_size_have_flow(
    variant: str, compile: Compile, size: tuple[int, int]
) -> None:
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, *size), np.uint8))
    settings = replace(VARIANTS[variant], num_outer=2, num_inner=10)
    found = flow(frames, settings, compile)
    assert found.shape == (2, 2, *size)
    assert found.isfinite().all()


@pytest.mark.parametrize("compile", BOTH)
@pytest.mark.parametrize("num", [0, 1])
def test_less_than_two_frames_have_none(num: int, compile: Compile) -> None:
    assert flow(torch.zeros(num, 20, 30), Settings(), compile).shape == (0, 2, 20, 30)


def test_frames_may_be_of_any_type(texture: Texture) -> None:
    frames = texture((18, 20), [(0, 0), (1, 0)]).round()
    kinds = [frames.to(dtype) for dtype in (torch.uint8, torch.float32, torch.float64)]
    found = [flow(kind, few("opencv-cuda")) for kind in kinds]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert found[0].dtype == torch.float32


@pytest.mark.parametrize("compile", BOTH)
def test_more_threads_give_the_same(compile: Compile, texture: Texture) -> None:
    frames = texture((30, 31), [(0, 0), (0.5, 0), (1, 1)])
    num, settings = torch.get_num_threads(), few("opencv-cpu")
    try:
        torch.set_num_threads(1)
        alone = flow(frames, settings, compile)
        torch.set_num_threads(2)
        torch.testing.assert_close(flow(frames, settings, compile), alone, atol=1e-5, rtol=0)
    finally:
        torch.set_num_threads(num)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("compile", BOTH)
def test_a_signal_stops_it_amid_a_run(
    compile: Compile, num_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_stop_signal", signal.SIGTERM)
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    with pytest.raises(console.Interrupted, match="stopped by SIGTERM"):
        flow(torch.rand(4, 20, 20), Settings(), compile)
