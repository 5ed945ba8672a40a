"""What a backbone is shown of the frames."""

from types import ModuleType

import numpy as np
import pytest
import torch

from tad_distill.config import members
from tad_distill.console import UsageError
from tad_distill.extract import modalities
from tad_distill.extract.modalities import rgb, tg, tg_luma

STD = np.array([0.229, 0.224, 0.225])
MEAN = np.array([0.485, 0.456, 0.406])


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("normalisation", ["imagenet", "symmetric"])
@pytest.mark.parametrize("name", members("tad_distill.extract.modalities"))
def test_cut_anywhere_a_modality_gives_the_same(
    name: str, normalisation: str, frames: np.ndarray
) -> None:
    modality = modalities.default(name).build(normalisation)
    whole = modality(frames, False)
    assert whole.shape == (6, modality.channels, 5, 7)
    assert whole.dtype == torch.float32
    for cut in range(1, 6):
        if cut < modality.frames_before:
            continue
        history = frames[cut - modality.frames_before :]
        parts = [modality(frames[:cut], False), modality(history, modality.frames_before > 0)]
        torch.testing.assert_close(torch.cat(parts), whole)


def test_colour_is_normalised_as_the_published_statistics_say(frames: np.ndarray) -> None:
    expected = ((frames / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    given = rgb.Config().build("imagenet")(frames, False)
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-5)
    symmetric = rgb.Config().build("symmetric")(frames, False)
    assert symmetric.min() >= -1 and symmetric.max() <= 1
    kinetics = rgb.Config().build("kinetics")(frames, False)
    expected = ((frames / 255 - 0.45) / 0.225).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(kinetics, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normalisation", ["imagenet", "symmetric"])
def test_a_gradient_is_the_difference_of_two_normalised_frames(
    normalisation: str, frames: np.ndarray
) -> None:
    colour = rgb.Config().build(normalisation)(frames, False)
    gradient = tg.Config().build(normalisation)(frames, False)
    torch.testing.assert_close(gradient[1:], colour[1:] - colour[:-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("module", [tg, tg_luma])
def test_the_first_gradient_is_zero_or_the_second_as_asked(
    module: ModuleType, frames: np.ndarray
) -> None:
    zero = module.Config(first="zero").build("imagenet")(frames, False)
    repeat = module.Config(first="repeat").build("imagenet")(frames, False)
    assert not zero[0].any()
    torch.testing.assert_close(repeat[0], repeat[1])
    torch.testing.assert_close(repeat[1:], zero[1:])
    single = module.Config(first="repeat").build("imagenet")(frames[:1], False)
    assert single.shape[0] == 1 and not single.any()


@pytest.mark.parametrize("module", [tg, tg_luma])
def test_the_gain_scales_gradients(module: ModuleType, frames: np.ndarray) -> None:
    once = module.Config().build("imagenet")(frames, False)
    twice = module.Config(gain=2.0).build("imagenet")(frames, False)
    torch.testing.assert_close(twice, 2 * once)


def test_the_luminance_gradient_is_blind_to_colour_and_sees_light() -> None:
    # Red down and green up by amounts of (nearly) equal luma: 587 / 299 = 1.963.
    change = np.zeros((2, 4, 4, 3), np.uint8)
    change[0, ..., 0], change[1, ..., 1] = 196, 100
    colour = tg.Config().build("imagenet")(change, False)
    luma = tg_luma.Config().build("imagenet")(change, False)
    assert luma.abs().max() < 0.01 * colour.abs().max()
    brighter = np.zeros((2, 4, 4, 3), np.uint8)
    brighter[1] = 51
    given = tg_luma.Config().build("imagenet")(brighter, False)[1]
    np.testing.assert_allclose(given, 0.2 / 0.226, rtol=1e-5)


def test_an_unknown_modality_is_named_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="modality 'flo'.*rgb, tg, tg_luma"):
        modalities.default("flo")


@pytest.mark.parametrize("name", members("tad_distill.extract.modalities"))
def test_tensors_are_taken_as_arrays_are(name: str, frames: np.ndarray) -> None:
    modality = modalities.default(name).build("imagenet")
    modality.to(torch.device("cpu"))
    assert torch.equal(modality(torch.from_numpy(frames), False), modality(frames, False))


@pytest.mark.parametrize("name", ["rgb", "tg"])
def test_channels_come_last_in_memory(name: str, frames: np.ndarray) -> None:
    shown = modalities.default(name).build("imagenet")(frames, False)
    assert shown.is_contiguous(memory_format=torch.channels_last)
