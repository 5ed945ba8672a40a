"""Flow as a network reads it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tad_distill.config import ConfigError
from tad_distill.console import UserError
from tad_distill.data.store import Store
from tad_distill.extract.config import load
from tad_distill.extract.modalities.flow import LEVELS, PARAMETERS, Config, luminance
from tad_distill.extract.report import Report
from tad_distill.extract.run import extract
from tad_distill.extract.tvl1 import native
from tad_distill.extract.tvl1.settings import VARIANTS, Settings

Frames = NDArray[np.uint8]


@pytest.fixture
def moving() -> Callable[..., Frames]:
    """``(T, 32, 40, 3)``: a texture that moves by so many pixels from frame to frame."""

    def make(num: int, step: float = 1.0) -> Frames:
        y, x = np.mgrid[:32, :40]
        frames = []
        for t in range(num):
            at = x - step * t
            grey = 128 + 50 * np.sin(at / 3 + y / 7) + 40 * np.sin(at / 5 - y / 4)
            frames.append(np.repeat(grey[..., None], 3, -1))
        return np.stack(frames).astype(np.uint8)

    return make


def middle(flow: torch.Tensor) -> torch.Tensor:
    return flow[..., 8:-8, 8:-8]


def test_a_frame_gets_the_flow_from_the_frame_before(moving: Callable[..., Frames]) -> None:
    flow = Config(variant="opencv-cpu").build("symmetric")(moving(4), False)
    assert flow.shape == (4, 2, 32, 40)
    assert not flow[0].any()
    assert middle(flow[1:, 0]).mean() == pytest.approx(1 / 20, rel=0.05)  # to the right, in bounds
    assert middle(flow[1:, 1]).abs().mean() < 0.002


def test_the_first_frame_may_repeat_the_second(moving: Callable[..., Frames]) -> None:
    repeat = Config(first="repeat").build("symmetric")
    flow = repeat(moving(3), False)
    assert torch.equal(flow[0], flow[1]) and flow[0].any()
    assert not repeat(moving(1), False).any()


@pytest.mark.parametrize("stack", [1, 2, 5])
def test_cut_anywhere_stacks_are_the_same(stack: int, moving: Callable[..., Frames]) -> None:
    modality, frames = Config(stack=stack).build("imagenet"), moving(9)
    whole = modality(frames, False)
    assert whole.shape == (9, 2 * stack, 32, 40)
    for cut in range(stack, 9):
        parts = [modality(frames[:cut], False), modality(frames[cut - stack :], True)]
        assert torch.equal(torch.cat(parts), whole)


def test_a_stack_ends_with_its_frames_own_flow(moving: Callable[..., Frames]) -> None:
    single = Config().build("symmetric")(moving(6), False)
    stacked = Config(stack=3).build("symmetric")(moving(6), False)
    for t in range(6):
        expected = torch.cat([single[max(0, t - 2 + i)] for i in range(3)])
        assert torch.equal(stacked[t], expected)


# Zero in each network's input, and the ends of its range.
@pytest.mark.parametrize(
    ("normalisation", "options", "zero", "low", "high"),
    [
        ("symmetric", {}, 0, -1, 1),
        ("symmetric", {"quantise": "round"}, 1 / 255, -1, 1),
        ("symmetric", {"quantise": "truncate"}, -1 / 255, -1, 1),
        ("imagenet", {}, 0, -0.5 / 0.226, 0.5 / 0.226),
        ("imagenet", {"quantise": "round"}, 0.5 / 255 / 0.226, -0.5 / 0.226, 0.5 / 0.226),
        ("kinetics", {}, 0, -0.5 / 0.225, 0.5 / 0.225),
        ("imagenet", {"range": "mmaction", "quantise": "round"}, 0, -1, 127 / 128),
        ("imagenet", {"range": "mmaction"}, -0.5 / 128, -1, 127 / 128),
    ],
)
def test_flow_comes_in_the_range_that_checkpoints_saw(
    normalisation: str, options: dict[str, Any], zero: float, low: float, high: float
) -> None:
    modality = Config(**options).build(normalisation)
    flows = torch.tensor([0.0, -20.0, 20.0, -500.0, 500.0]).reshape(5, 1, 1, 1)
    given = modality._normalised(flows).flatten()
    torch.testing.assert_close(given, torch.tensor([zero, low, high, low, high]).float())


@pytest.mark.parametrize("quantise", ["round", "truncate"])
def test_eight_bits_have_256_levels(quantise: Any) -> None:
    flows = torch.linspace(-20, 20, 5000).reshape(-1, 1, 1, 1)
    given = Config(quantise=quantise).build("symmetric")._normalised(flows)
    mean, std = LEVELS["symmetric"]
    assert np.unique((given * std + mean).round(decimals=3)).tolist() == list(range(256))
    error = (given - flows / 20).abs().max()
    assert error <= (1.01 if quantise == "truncate" else 0.51) * 2 / 255


def test_settings_replace_those_of_the_variant() -> None:
    assert Config(variant="fast").settings() == VARIANTS["fast"]
    given = Config(variant="opencv-cpu", num_scales=2, epsilon=0.0, median=1).settings()
    assert given == Settings(num_scales=2, epsilon=0.0, median=1)
    assert {*PARAMETERS} <= {*Config.__dataclass_fields__}


def test_how_flow_is_computed_belongs_to_the_features_but_not_the_compiler(
    moving: Callable[..., Frames], write_video: Callable[..., Path], tmp_path: Path
) -> None:
    video = write_video(
        tmp_path / "v.mp4", [frame.repeat(2, 0).repeat(2, 1) for frame in moving(70)]
    )

    def run(*settings: str) -> Report:
        config = load(None, ["short_side_px=36", "crop_px=32", "dtype=float32", *settings])
        return extract(
            [video], ["tsm_mini:flow"], tmp_path / "s", config, {"tsm_mini:flow": Path("random:0")}
        )

    run("modality.flow.variant=fast", "modality.flow.compile=never")
    stream = Store.open(tmp_path / "s").stream("tsm_mini:flow")
    assert stream.spec.details["modality"]["variant"] == "fast"
    assert "compile" not in stream.spec.details["modality"]
    feats = stream.read("v")
    assert len(feats) == 70 and np.isfinite(feats).all() and feats.std(0).max() > 0
    again = run("modality.flow.variant=fast", "modality.flow.compile=auto")
    assert again.skipped == ["v"]
    with pytest.raises(UserError, match="details.modality.variant"):
        run("modality.flow.variant=opencv-cpu")


def test_compiled_code_that_cannot_be_had_is_missed_before_any_video(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native, "is_available", lambda: False)
    Config().build("symmetric").to(torch.device("cpu"))
    with pytest.raises(UserError, match="compile=always"):
        Config(compile="always").build("symmetric").to(torch.device("cpu"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("modality.flow.variant=farneback", "expected one of 'opencv-cuda'"),
        ("modality.flow.num_scales=0", "num_scales: expected at least 1, got 0"),
        ("modality.flow.scale_step=1.0", "scale_step: expected between 0 and 1, got 1.0"),
        ("modality.flow.stack=0", "stack: expected at least 1, got 0"),
        ("modality.flow.bound=-1", "bound: expected above 0, got -1"),
        ("modality.flow.median=4", "median: expected one of 1, 3, 5"),
        ("modality.flow.epsilon=-0.1", "epsilon: expected at least 0"),
        ("modality.flow.tau=0", "tau: expected above 0"),
    ],
)
def test_impossible_settings_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match="modality.flow.*" + message):
        load(None, [override])


def test_grey_is_opencvs_to_the_bit() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    expected = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    np.testing.assert_array_equal(luminance(torch.from_numpy(frames)), expected)
