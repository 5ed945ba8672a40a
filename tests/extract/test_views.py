"""A view of a stream is what the stream would be of frames cut and mirrored beforehand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tad_distill.console import UsageError
from tad_distill.data.store import Store
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.decoder import DecoderProcess
from tad_distill.extract.encoder import Encoder
from tad_distill.extract.run import build_encoders, extract
from tad_distill.extract.trunk import Trunk, share
from tad_distill.extract.views import NAMES, View

RANDOM, CPU = Path("random:0"), torch.device("cpu")
CONFIG = ExtractConfig(short_side_px=40, crop_px=32, dtype="float32", window_frames=16)
LANDSCAPE, PORTRAIT = (40, 60), (60, 40)


def noise(num_frames: int, height: int, width: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def made(stream: str, frames: NDArray[np.uint8], **settings: Any) -> NDArray[np.floating]:
    config = ExtractConfig(**{**vars(CONFIG), **settings})
    encoding = Trunk([Encoder(stream, RANDOM, config, CPU)]).begin()
    encoding.push(frames[:5])
    encoding.push(frames[5:])
    return encoding.finish()[stream]


# Top and left edge of each crop of 32 pixels, of landscapes and of portraits.
PLACES = {
    "": ((4, 14), (14, 4)),
    "left": ((4, 0), (0, 4)),
    "right": ((4, 28), (28, 4)),
    "top_left": ((0, 0), (0, 0)),
    "top_right": ((0, 28), (0, 8)),
    "bottom_left": ((8, 0), (28, 0)),
    "bottom_right": ((8, 28), (28, 8)),
}


@pytest.mark.parametrize("crop", PLACES)
@pytest.mark.parametrize("flip", [False, True])
def test_a_view_is_cut_where_its_name_says(crop: str, flip: bool) -> None:
    view = View.parse("_".join(part for part in (crop, "flip" * flip) if part))
    for sides, (top, left) in zip((LANDSCAPE, PORTRAIT), PLACES[crop], strict=True):
        frames = noise(2, *sides)
        expected = frames[:, top : top + 32, left : left + 32]
        expected = expected[:, :, ::-1] if flip else expected
        np.testing.assert_array_equal(view.cut(torch.from_numpy(frames), 32), expected)


def test_all_views_have_a_place() -> None:
    assert {View.parse(name).crop for name in NAMES} == {"centre", *PLACES} - {""}


@pytest.mark.parametrize(
    ("modality", "settings"), [("rgb", {}), ("tg", {}), ("tg_luma", {}), ("flow", {})]
)
def test_a_flipped_view_is_that_of_a_mirrored_video(
    modality: str, settings: dict[str, Any]
) -> None:
    frames = noise(9, 32, 32)
    flipped = made(f"tsm_mini:{modality}-flip", frames, **settings)
    mirrored = made(f"tsm_mini:{modality}", np.ascontiguousarray(frames[:, :, ::-1]), **settings)
    np.testing.assert_array_equal(flipped, mirrored)
    assert not np.allclose(flipped, made(f"tsm_mini:{modality}", frames, **settings))


def test_a_crop_of_whole_frames_is_that_of_cut_ones() -> None:
    frames = noise(9, *LANDSCAPE)
    given = made("tsm_mini:tg-right", frames)
    np.testing.assert_array_equal(given, made("tsm_mini:tg", frames[:, 4:36, 28:60].copy()))


def test_views_share_one_decoding_pass_and_leave_the_usual_one_alone(
    tmp_path: Path, write_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    video = write_video(tmp_path / "v.mp4", list(noise(12, 48, 72)))
    decoded: list[Path] = []
    decode = DecoderProcess.decode

    def counted(self: DecoderProcess, path: Path, *rest: Any) -> Any:
        decoded.append(path)
        return decode(self, path, *rest)

    monkeypatch.setattr(DecoderProcess, "decode", counted)
    usual = ["tsm_mini:rgb"]
    views = ["tsm_mini:rgb", "tsm_mini:rgb-left", "tsm_mini:rgb-right", "tsm_mini:rgb-flip"]
    sources = {"tsm_mini:rgb": RANDOM}
    extract([video], usual, tmp_path / "alone", CONFIG, sources)
    report = extract([video], views, tmp_path / "views", CONFIG, sources)
    assert report.done == ["v"] and decoded == [video, video]
    alone = Store.open(tmp_path / "alone").stream("tsm_mini:rgb")
    store = Store.open(tmp_path / "views")
    specs = [store.stream(name).spec for name in views]
    assert specs[0].hash == alone.spec.hash and len({spec.hash for spec in specs}) == 4
    assert [spec.details["crop"] for spec in specs] == ["centre", "left", "right", "centre"]
    assert [spec.details.get("flip") for spec in specs] == [None, None, None, True]
    np.testing.assert_array_equal(store.stream("tsm_mini:rgb").read("v"), alone.read("v"))
    folders = {path.name for path in (tmp_path / "views").iterdir() if path.is_dir()}
    assert {"tsm_mini.rgb", "tsm_mini.rgb-left", "tsm_mini.rgb-flip"} <= folders


def test_frames_too_small_for_a_crop_fail_their_video(
    tmp_path: Path, write_video: Callable[..., Path]
) -> None:
    paths = [write_video(tmp_path / f"{n}.mp4", list(noise(3, n, n))) for n in (16, 48)]
    config = ExtractConfig(**{**vars(CONFIG), "resize": "none"})
    sources = {"tsm_mini:rgb": RANDOM}
    report = extract(paths, ["tsm_mini:rgb-left"], tmp_path / "s", config, sources)
    assert report.done == ["48"]
    assert report.failed[0].reason == "frames of 16x16 are smaller than crop_px=32; set a resize"


def test_views_go_through_the_network_apart() -> None:
    names = ["tsm_mini:rgb", "tsm_mini:rgb-flip", "tsm_mini:rgb-flip@layer2"]
    trunks = share(Encoder(name, RANDOM, CONFIG, CPU) for name in names)
    assert [len(trunk.encoders) for trunk in trunks] == [1, 2]


def test_a_view_has_the_usual_ones_weights_or_its_own() -> None:
    names, usual = ["tsm_mini:rgb-flip", "tsm_mini:rgb-left"], {"tsm_mini:rgb": RANDOM}
    both = build_encoders(names, CONFIG, usual | {"tsm_mini:rgb-left": Path("random:1")})
    assert [encoder.spec.weights["seed"] for encoder in both] == [0, 1]
    with pytest.raises(UsageError, match="weights for 'tsm_mini:tg', which is no stream"):
        build_encoders(names, CONFIG, usual | {"tsm_mini:tg": RANDOM})
    with pytest.raises(UsageError, match="'tsm_mini:rgb-flip': no weights"):
        build_encoders(names, CONFIG, {})
    with pytest.raises(UsageError, match="without a crop frames have one view; set crop_px"):
        uncropped = ExtractConfig(**{**vars(CONFIG), "crop_px": 0})
        build_encoders(names[1:], uncropped, usual)
