"""Sizes of frames, and which pixels a crop keeps."""

import numpy as np
import pytest

from tad_distill.config import ConfigError
from tad_distill.extract.config import ExtractConfig, load
from tad_distill.extract.geometry import Fit, resized_sides
from tad_distill.extract.video import VideoError


@pytest.mark.parametrize(
    "height,width,expected",
    [(240, 320, (110, 147)), (320, 240, (147, 110)), (180, 320, (110, 196)), (1, 1, (110, 110))],
)
def test_the_shorter_side_gets_its_length_and_the_aspect_stays(
    height: int, width: int, expected: tuple[int, int]
) -> None:
    assert resized_sides(ExtractConfig(short_side_px=110), height, width) == expected


def test_exact_and_none() -> None:
    assert resized_sides(ExtractConfig(resize="exact", exact_px=(256, 340)), 9, 99) == (256, 340)
    assert resized_sides(ExtractConfig(resize="none"), 9, 99) == (9, 99)


def test_the_crop_is_the_middle() -> None:
    image = np.arange(11 * 21 * 3, dtype=np.uint8).reshape(11, 21, 3)
    fit = Fit(ExtractConfig(resize="none", crop_px=5))
    np.testing.assert_array_equal(fit(image), image[3:8, 8:13])
    full = Fit(ExtractConfig(resize="none", crop_px=0))
    np.testing.assert_array_equal(full(image), image)


def test_area_averages_what_it_shrinks() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    config = ExtractConfig(short_side_px=10, crop_px=0, interpolation="area")
    expected = image.reshape(10, 4, 10, 4, 3).mean((1, 3))
    np.testing.assert_allclose(Fit(config)(image), expected, atol=0.51)


def test_frames_that_change_their_size_get_that_of_the_first() -> None:
    fit = Fit(ExtractConfig(short_side_px=20, crop_px=0))
    assert fit(np.zeros((40, 80, 3), np.uint8)).shape == (20, 40, 3)
    assert fit(np.zeros((60, 60, 3), np.uint8)).shape == (20, 40, 3)


def test_a_crop_larger_than_the_frame_is_refused() -> None:
    with pytest.raises(VideoError, match="frames of 30x20 are smaller than crop_px=96"):
        Fit(ExtractConfig(resize="none"))(np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(ConfigError, match="crop_px: 128 is larger than the frame"):
        load(overrides=["crop_px=128"])


@pytest.mark.parametrize("name", ["e2e96", "video96", "snippet224", "slowfast256", "world"])
def test_presets_load_and_overrides_apply(name: str) -> None:
    assert load(name, ["dtype=float32"]).dtype == "float32"
    assert load(name).batch_frames == ExtractConfig().batch_frames


def test_settings_of_a_modality_are_reached_by_its_name() -> None:
    given = load(overrides=["modality.tg.first=repeat"]).modality["tg"]
    assert type(given).__module__.endswith("modalities.tg")
    assert given.build("imagenet").channels == 3
    with pytest.raises(ConfigError, match=r"modality\.tg\.first: expected one of 'zero', 'repeat'"):
        load(overrides=["modality.tg.first=none"])
    with pytest.raises(ConfigError, match=r"modality\.flo\.kind: expected one of"):
        load(overrides=["modality.flo.first=zero"])


@pytest.mark.parametrize(
    "override", ["fps=0", "window_frames=0", "halo_frames=-1", "crop_px=-1", "exact_px=[0, 3]"]
)
def test_impossible_settings_are_refused_by_name(override: str) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        load(overrides=[override])
