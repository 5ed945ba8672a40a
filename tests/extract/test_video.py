"""Decoding: which frames come out, how they stand, and what is said about broken files."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tad_distill.data.timeline import nearest_frames
from tad_distill.extract import video
from tad_distill.extract.video import Decoder, VideoError, content_hash, probe

Image = NDArray[np.uint8]
WriteVideo = Callable[..., Path]


def grey(levels: Sequence[int]) -> list[Image]:
    return [np.full((48, 64, 3), level, np.uint8) for level in levels]


def noise(num_frames: int) -> list[Image]:
    small = np.random.default_rng(0).integers(0, 256, (num_frames, 6, 8, 3), dtype=np.uint8)
    return [np.asarray(cv2.resize(frame, (64, 48)), np.uint8) for frame in small]


def levels(decoder: Decoder) -> list[float]:
    """Mean brightness of every frame given out."""
    return [float(frame.mean()) for chunk in decoder for frame in chunk]


@pytest.fixture
def ramp(tmp_path: Path, write_video: WriteVideo) -> Path:
    """50 frames, 10 a second, frame i of brightness 5 i."""
    return write_video(tmp_path / "ramp.mp4", grey(range(0, 250, 5)))


def numbers(decoder: Decoder, last: int = 49) -> list[int]:
    """Which frames of the ramp were given out."""
    found = np.array(levels(decoder))
    # The codec moves the levels by a few: the ramp's own frames are the scale.
    return [int(np.clip(round((level + 2.5) / 5), 0, last)) for level in found]


def test_at_its_own_rate_every_frame_comes_once(ramp: Path) -> None:
    decoder = Decoder(ramp, chunk_frames=16)
    sizes = [len(chunk) for chunk in decoder]
    assert sizes == [16, 16, 16, 2]
    found = decoder.decoded
    assert (found.num_decoded, found.num_frames, found.video_fps) == (50, 50, 10)
    assert found.duration_s == pytest.approx(5)
    assert found.warnings == []
    assert numbers(Decoder(ramp)) == list(range(50))


@pytest.mark.parametrize("fps", [1, 3, 4, 5, 7.5, 10, 12, 25])
def test_at_another_rate_the_nearest_frames_come(ramp: Path, fps: float) -> None:
    decoder = Decoder(ramp, fps=fps)
    expected = nearest_frames(np.arange(50) / 10, fps).tolist()
    assert numbers(decoder) == expected
    assert decoder.decoded.num_frames == len(expected)
    assert decoder.decoded.video_fps == 10


@pytest.mark.parametrize("fps", [2, 5, 10, 30])
def test_a_varying_rate_is_followed_by_the_times_of_the_frames(
    ramp: Path, set_gaps: Callable[[Path, Sequence[int]], None], fps: float
) -> None:
    gaps = np.random.default_rng(3).integers(1, 6, 50)
    set_gaps(ramp, gaps.tolist())
    times = np.concatenate([[0], np.cumsum(gaps)[:-1]]) / 10
    assert numbers(Decoder(ramp, fps=fps)) == nearest_frames(times, fps).tolist()


def test_a_varying_rate_read_at_the_native_rate_is_warned_about(
    ramp: Path, set_gaps: Callable[[Path, Sequence[int]], None]
) -> None:
    set_gaps(ramp, [1, 5] * 25)
    native, resampled = Decoder(ramp), Decoder(ramp, fps=10)
    assert len(levels(native)) == 50
    assert any("rate varies" in warning for warning in native.decoded.warnings)
    levels(resampled)
    assert resampled.decoded.warnings == []


@pytest.mark.parametrize("codec,suffix", [("MJPG", "avi"), ("XVID", "avi"), ("mp4v", "mkv")])
def test_times_of_other_containers_agree(
    codec: str, suffix: str, tmp_path: Path, write_video: WriteVideo
) -> None:
    path = write_video(tmp_path / f"v.{suffix}", grey(range(0, 250, 5)), 12.5, codec)
    decoder = Decoder(path, fps=5)
    assert numbers(decoder) == nearest_frames(np.arange(50) / 12.5, 5).tolist()
    assert decoder.decoded.num_times_repaired == 0


def test_colours_come_as_red_green_blue(tmp_path: Path, write_video: WriteVideo) -> None:
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 2] = 255  # OpenCV's order is blue, green, red
    chunk = next(iter(Decoder(write_video(tmp_path / "red.mp4", [red] * 3))))
    assert chunk.shape == (3, 48, 64, 3)
    assert chunk.dtype == np.uint8
    assert chunk[..., 0].min() > 220 and chunk[..., 1:].max() < 40


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_pictures_are_turned_as_the_file_asks(
    degrees: int,
    tmp_path: Path,
    write_video: WriteVideo,
    set_rotation: Callable[[Path, int], None],
) -> None:
    path = write_video(tmp_path / "v.mp4", noise(2))
    upright = next(iter(Decoder(path)))
    set_rotation(path, degrees)
    turned = next(iter(Decoder(path)))
    np.testing.assert_array_equal(turned, np.rot90(upright, -degrees // 90, axes=(1, 2)))
    facts = probe(path)
    assert (facts.height, facts.width) == turned.shape[1:3]
    assert facts.rotation_deg == degrees


@pytest.mark.parametrize("fps", [None, 10])
def test_reading_goes_on_behind_damage_and_times_stay_true(
    fps: float | None, tmp_path: Path, write_video: WriteVideo
) -> None:
    path = write_video(tmp_path / "v.mp4", grey(range(0, 250, 5)) * 4, fps=10)
    frames = Decoder(path)
    whole = levels(frames)
    data = bytearray(path.read_bytes())
    middle = slice(data.index(b"mdat") + 40, data.index(b"moov") - 8)
    packets = data[middle]
    packets[len(packets) // 2 : len(packets) // 2 + 60] = bytes(60)
    data[middle] = packets
    path.write_bytes(data)
    decoder = Decoder(path, fps=fps)
    given = np.array(levels(decoder))
    assert decoder.decoded.num_decoded < 200
    assert len(given) == 200
    assert any("damaged" in warning for warning in decoder.decoded.warnings)
    np.testing.assert_allclose(given[-40:], whole[-40:], atol=3)


def ends_early(monkeypatch: pytest.MonkeyPatch, num_claimed: int) -> None:
    """Let every file end after 40 frames, whatever its container claims."""
    cv2_capture = cv2.VideoCapture

    class EndsEarly:
        def __init__(self, *args: object) -> None:
            self._capture = cv2_capture(*args)
            self._num_read = 0

        def __getattr__(self, name: str) -> object:
            return getattr(self._capture, name)

        def get(self, what: int) -> float:
            claimed = what == cv2.CAP_PROP_FRAME_COUNT
            return float(num_claimed) if claimed else self._capture.get(what)

        def read(self) -> tuple[bool, object]:
            self._num_read += 1
            return self._capture.read() if self._num_read <= 40 else (False, None)

    monkeypatch.setattr(video.cv2, "VideoCapture", EndsEarly)


def test_a_shortfall_is_told(ramp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends_early(monkeypatch, num_claimed=50)
    decoder = Decoder(ramp)
    assert len(levels(decoder)) == 40
    assert decoder.decoded.warnings == ["40 of the 50 frames claimed decode (20.0% are missing)"]


def test_a_claim_of_billions_of_frames_does_not_hang(
    ramp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_early(monkeypatch, num_claimed=2**39)
    decoder = Decoder(ramp)
    assert len(levels(decoder)) == 40
    assert "40 of the 549755813888 frames claimed decode" in decoder.decoded.warnings[0]


def test_the_facts_of_a_file(ramp: Path) -> None:
    facts = probe(ramp)
    assert (facts.fps, facts.num_frames, facts.duration_s) == (10, 50, 5)
    assert (facts.width, facts.height, facts.rotation_deg) == (64, 48, 0)


def test_files_that_are_no_videos_are_one_clear_line(
    tmp_path: Path, ramp: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    empty, text, cut = (tmp_path / f"{name}.mp4" for name in ("empty", "text", "cut"))
    empty.touch()
    text.write_text("not a video " * 100)
    cut.write_bytes(ramp.read_bytes()[:2000])
    cases = {
        empty: "the file is empty",
        text: "cannot be opened as a video",
        cut: "cannot be opened as a video",
        tmp_path / "absent.mp4": "No such file",
        tmp_path: "Is a directory",
    }
    for path, reason in cases.items():
        for read in (probe, Decoder):
            with pytest.raises(VideoError, match=reason) as error:
                read(path)
            assert str(path) in str(error.value)
            assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_the_hash_is_of_the_content(ramp: Path, tmp_path: Path) -> None:
    import hashlib

    assert content_hash(ramp) == hashlib.sha256(ramp.read_bytes()).hexdigest()


ODD = {  # frames that decode, or why none does
    "Megamind_bugy.avi": 270,
    "av1_video.mkv": "no frame decodes",
    "bitmap.mp4": 5,
    "corrupted.mp4": 49,
    "h264_10bits.mp4": 30,
    "h265_10bits.mp4": 30,
    "h265_video.mp4": 10,
    "nasa_13013.mp4": 325,
    "nasa_13013.mp4.audio.mp3": "cannot be opened",
    "no_duration.webm": 74,
    "result.webm": "file is empty",
    "test_res_change.h264": 96,
    "transparent.webm": 150,
    "unordered.mov": 4,
    "video_0.mov": 3,
    "video_90.mov": 3,
    "video_180.mov": 3,
    "video_270.mov": 3,
    "video_with_failing_audio.mp4": 280,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_files_decode_or_say_why_not(
    name: str, shared: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, expected = shared / "real/odd" / name, ODD[name]
    if isinstance(expected, str):
        with pytest.raises(VideoError, match=expected):
            list(Decoder(path))
        with pytest.raises(VideoError, match=expected):
            probe(path)
    else:
        decoder = Decoder(path)
        sizes = {frame.shape for chunk in decoder for frame in chunk}
        facts = probe(path)
        assert sizes == {(facts.height, facts.width, 3)}
        assert decoder.decoded.num_decoded == expected
        assert facts.num_frames is None or facts.num_frames > 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["video_0", "video_90", "video_180", "video_270"])
def test_real_rotations_agree_with_opencv(name: str, shared: Path) -> None:
    path = shared / f"real/odd/{name}.mov"
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    ok, image = capture.read()
    assert ok
    np.testing.assert_array_equal(next(iter(Decoder(path)))[0], image[..., ::-1])
