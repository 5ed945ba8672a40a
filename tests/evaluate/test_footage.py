"""Videos on a page: stills at the right times, files that browsers play, files that they do not."""

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest

from tad_distill.evaluate.page import footage
from tad_distill.evaluate.page.footage import Footage


def write(path: Path, num_frames: int, fps: float = 10.0, size: tuple[int, int] = (64, 48)) -> Path:
    """A video whose frames grow brighter, by 2 each."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
    for i in range(num_frames):
        writer.write(np.full((size[1], size[0], 3), 2 * i, dtype=np.uint8))
    writer.release()
    return path


def stills(found: Footage) -> list[float]:
    """The mean brightness of each still."""
    data = base64.b64decode(found.sheet.partition(",")[2])
    sheet = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_GRAYSCALE)
    assert sheet is not None
    return [float(part.mean()) for part in np.split(sheet, found.num_stills, axis=1)]


def test_stills_show_the_frames_of_their_times(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", 100)
    found = footage.take(path, tmp_path / "page.html", 10.0, 0)
    assert found and found.num_stills == 20
    # Still i stands for 0.5 i + 0.25 seconds, so for frame 5 i + 2 at ten a second.
    assert stills(found) == pytest.approx([2 * (5 * i + 2) for i in range(20)], abs=4)
    assert found.aspect == pytest.approx(64 / 48)


def test_what_browsers_do_not_play_is_said(tmp_path: Path) -> None:
    found = footage.take(write(tmp_path / "a.mp4", 20), tmp_path / "page.html", 2.0, 1 << 20)
    assert found and not found.source
    assert "browsers do not play" in found.why_not


def test_a_time_line_longer_than_its_video_ends_in_black(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", 100)
    found = footage.take(path, tmp_path / "page.html", 20.0, 0)
    assert found
    brightness = stills(found)
    assert min(brightness[5:19]) > 20 and max(brightness[21:]) < 3


def test_large_frames_are_shrunk_and_small_ones_left(tmp_path: Path) -> None:
    large = footage.take(
        write(tmp_path / "a.mp4", 5, size=(640, 200)), tmp_path / "p.html", 1.0, 0
    )  # fmt: skip
    assert large and large.aspect == pytest.approx(640 / 200, abs=0.05)
    data = base64.b64decode(large.sheet.partition(",")[2])
    sheet = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    assert sheet is not None and sheet.shape[1] == footage.STILL_WIDTH * large.num_stills


@pytest.mark.parametrize("content", [b"", b"no video at all"])
def test_a_file_of_which_nothing_decodes_is_logged_and_left_out(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    assert footage.take(path, tmp_path / "page.html", 2.0, 0) is None
    assert "event=no_footage" in capsys.readouterr().err


def test_files_are_found_by_name_at_any_depth(tmp_path: Path) -> None:
    for name in ("b/x.mp4", "a/x.webm", "a/y.MP4", "z.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = footage.find(tmp_path)
    assert found == {"x": tmp_path / "a/x.webm", "y": tmp_path / "a/y.MP4"}


def test_h264_is_embedded_when_small_and_linked_when_large(shared: Path, tmp_path: Path) -> None:
    path = shared / "real/videos/gmdcsa24_192p/s4_fall_02.mp4"
    page = tmp_path / "deep" / "page.html"
    small = footage.take(path, page, 3.0, 1 << 20)
    assert small and small.source.startswith("data:video/mp4;base64,") and not small.why_not
    linked = footage.take(path, page, 3.0, 1000)
    assert linked and (page.parent / linked.source).resolve() == path.resolve()
