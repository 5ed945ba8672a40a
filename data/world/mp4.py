"""Write frames as an mp4 file that is whole or not there."""

import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tad_distill.console import UserError


def write_mp4(frames: NDArray[np.uint8], fps: int, path: Path, partial: Path) -> None:
    """Write a video under a temporary name and put it in its place when it is whole.

    Args:
        frames: ``(T, H, W, 3)`` RGB.
        fps: Frames per second.
        path: The final name.
        partial: A folder of the same file system for the temporary file.

    Raises:
        UserError: OpenCV cannot write mp4, or the file came out short (a full disk).
    """
    temporary = partial / f"{path.stem}-{os.getpid()}.mp4"
    height, width = frames.shape[1:3]
    fourcc = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(temporary), fourcc, float(fps), (width, height))
    if not writer.isOpened():
        raise UserError(f"{temporary}: cannot write mp4 video; check the disk and OpenCV's build")
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    # OpenCV reports no failed write.
    capture = cv2.VideoCapture(str(temporary))
    written = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    if written != len(frames):
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path}: {written} of {len(frames)} frames written; free disk space and run the same "
            "command again, finished videos are kept"
        )
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
