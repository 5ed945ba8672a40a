"""Bring the frames of a video to the size that a backbone reads."""

import cv2
import numpy as np
from numpy.typing import NDArray

from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.video import VideoError

Image = NDArray[np.uint8]


class Fit:
    """Resizes and crops the frames of one video, all to the size that its first frame gets."""

    def __init__(self, config: ExtractConfig) -> None:
        """Take ``resize``, ``crop_px`` and ``interpolation``."""
        self._config = config
        self._resized: tuple[int, int] | None = None

    def __call__(self, image: Image) -> Image:
        """``(H, W, 3)`` to ``(H', W', 3)``.

        Raises:
            VideoError: The crop is larger than the frame.
        """
        if self._resized is None:
            self._resized = resized_sides(self._config, *image.shape[:2])
        height, width = self._resized
        if image.shape[:2] != self._resized:
            shrinks = height * width < image.shape[0] * image.shape[1]
            area = shrinks and self._config.interpolation == "area"
            method = cv2.INTER_AREA if area else cv2.INTER_LINEAR
            image = np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)
        crop = self._config.crop_px
        if not crop:
            return image
        if crop > min(height, width):
            raise VideoError(
                f"frames of {width}x{height} are smaller than crop_px={crop}; set a resize"
            )
        top, left = (height - crop) // 2, (width - crop) // 2
        return image[top : top + crop, left : left + crop]


def resized_sides(config: ExtractConfig, height: int, width: int) -> tuple[int, int]:
    """Height and width after resizing, before cropping; the longer side is rounded half up."""
    if config.resize == "none":
        return height, width
    if config.resize == "exact":
        return config.exact_px
    scale = config.short_side_px / min(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
