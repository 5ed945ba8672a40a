"""What a page shows of a video: the file itself where a browser plays it, and a sheet of stills."""

import base64
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tad_distill import console

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[Any]

SUFFIXES = frozenset(".avi .m4v .mkv .mov .mp4 .mpeg .mpg .ts .webm".split())

# What browsers play: the container's type by suffix, and the codec's four letters. MPEG-4 part 2,
# which OpenCV writes as "mp4v", is not among them.
MIME = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm"}
PLAYED = frozenset({"avc1", "h264", "vp80", "vp90", "vp09", "av01"})

# Stills have at most this height and width in pixels; none is enlarged.
STILL_HEIGHT, STILL_WIDTH = 96, 170
MIN_STILLS, MAX_STILLS = 16, 48
STILLS_PER_S = 2.0
JPEG_QUALITY = 80

# Longer files are not read through for stills; their seeks may be a few frames off.
MAX_FRAMES_READ = 40_000


@dataclass(frozen=True)
class Footage:
    """One video as a page holds it.

    Attributes:
        source: Where the file is: its bytes as a data URL, or a path relative to the page;
            empty where browsers do not play it.
        mime: Its type.
        sheet: The stills side by side, as a data URL.
        num_stills: How many there are, at even distances over the duration.
        aspect: Width by height of the video.
        why_not: Why the file is not played, to be said on the page; empty if it is.
    """

    source: str
    mime: str
    sheet: str
    num_stills: int
    aspect: float
    why_not: str


def find(folder: Path) -> dict[str, Path]:
    """The video files below a folder by name without extension; of equal names the first."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            found.setdefault(path.stem, path)
    return found


def take(path: Path, page: Path, duration_s: float, max_bytes: int) -> Footage | None:
    """Read one video.

    Args:
        path: The file.
        page: The page that will show it.
        duration_s: Length on the time line.
        max_bytes: A file up to this size goes into the page, a larger one is linked.

    Returns:
        ``None`` if nothing of it decodes, which is logged.
    """
    # Damaged files are reported here, in one line each.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    import cv2
    import numpy as np

    capture = cv2.VideoCapture(str(path))
    number = int(min(max(STILLS_PER_S * duration_s, MIN_STILLS), MAX_STILLS))
    times = [(i + 0.5) * duration_s / number for i in range(number)]
    stills = [_small(image) for image in _images(capture, times)]
    letters = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True)
    capture.release()
    if not stills:
        console.log("no_footage", file=path, reason="nothing of it decodes")
        return None
    while len(stills) < number:  # the file is shorter than the time line
        stills.append(np.zeros_like(stills[0]))
    _, jpeg = cv2.imencode(".jpg", np.hstack(stills), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    height, width = stills[0].shape[:2]
    codec = letters.decode("latin-1").lower()
    source, mime, why_not = "", MIME.get(path.suffix.lower(), ""), ""
    if mime and codec in PLAYED:
        source = _embedded(path, mime, max_bytes) or _relative(path, page)
    else:
        kind = codec if codec.isprintable() else path.suffix
        why_not = f"stills: browsers do not play codec {kind} in {path.suffix[1:]}"
    return Footage(source, mime, data_url(jpeg.tobytes(), "image/jpeg"), number, width / height,
                   why_not)  # fmt: skip


def _images(capture: Any, times: list[float]) -> "Iterator[Image]":
    """The frames shown at rising times, fewer if the video ends before."""
    import cv2

    fps = capture.get(cv2.CAP_PROP_FPS) or 25.0
    seek = capture.get(cv2.CAP_PROP_FRAME_COUNT) > MAX_FRAMES_READ
    wanted, place = iter(times), -1
    time_s = next(wanted, None)
    while time_s is not None:
        console.check_stop("no page was written")
        if seek:
            capture.set(cv2.CAP_PROP_POS_MSEC, 1000 * time_s)
        if not capture.grab():
            return
        place += 1
        # The time of a frame is known once it has been grabbed; some containers tell none.
        end_s = max(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, 0 if seek else place / fps) + 1 / fps
        image = None
        while time_s is not None and (end_s > time_s or seek):
            if image is None:
                decoded, image = capture.retrieve()
                if not decoded:
                    return
            yield image
            time_s = next(wanted, None)
            if seek:
                break


def _small(image: "Image") -> "Image":
    """Shrink a frame to the size of a still."""
    import cv2

    height, width = image.shape[:2]
    scale = min(STILL_HEIGHT / height, STILL_WIDTH / width, 1.0)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    small: Image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return small


def _embedded(path: Path, mime: str, max_bytes: int) -> str:
    return data_url(path.read_bytes(), mime) if path.stat().st_size <= max_bytes else ""


def _relative(path: Path, page: Path) -> str:
    return quote(Path(os.path.relpath(path.resolve(), page.resolve().parent)).as_posix())


def data_url(content: bytes, mime: str) -> str:
    """Bytes as an address that holds them."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"
