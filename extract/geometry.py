"""Bring the frames of a video to the size that a backbone reads."""

from dataclasses import dataclass, fields
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from tad_distill.extract.video import VideoError

Image = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Framing:
    """The size of the frames; part of the settings of an extraction.

    Attributes:
        resize: ``short_side``: to ``short_side_px``, keeping the aspect; ``exact``: to ``exact_px``
            whatever the aspect; ``none``: frames as they are.
        short_side_px: Pixels of the shorter side.
        exact_px: Height and width.
        crop_px: Side of the square kept from the middle; 0: everything.
        interpolation: ``area`` averages what it shrinks; ``linear`` is what mmcv does.
    """

    resize: Literal["short_side", "exact", "none"] = "short_side"
    short_side_px: int = 110
    exact_px: tuple[int, int] = (256, 340)
    crop_px: int = 96
    interpolation: Literal["area", "linear"] = "area"

    def framing(self) -> "Framing":
        """These settings alone."""
        return Framing(**{field.name: getattr(self, field.name) for field in fields(Framing)})


class Fit:
    """Resizes and crops the frames of one video, all to the size that its first frame gets."""

    def __init__(self, framing: Framing) -> None:
        """Make frames of this size."""
        self._framing = framing
        self._resized: tuple[int, int] | None = None

    def __call__(self, image: Image) -> Image:
        """``(H, W, 3)`` to ``(H', W', 3)``.

        Raises:
            VideoError: The crop is larger than the frame.
        """
        if self._resized is None:
            self._resized = resized_sides(self._framing, *image.shape[:2])
        height, width = self._resized
        if image.shape[:2] != self._resized:
            shrinks = height * width < image.shape[0] * image.shape[1]
            area = shrinks and self._framing.interpolation == "area"
            method = cv2.INTER_AREA if area else cv2.INTER_LINEAR
            image = np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)
        crop = self._framing.crop_px
        if not crop:
            return image
        if crop > min(height, width):
            raise VideoError(
                f"frames of {width}x{height} are smaller than crop_px={crop}; set a resize"
            )
        top, left = (height - crop) // 2, (width - crop) // 2
        return image[top : top + crop, left : left + crop]


def resized_sides(framing: Framing, height: int, width: int) -> tuple[int, int]:
    """Height and width after resizing, before cropping; the longer side is rounded half up."""
    if framing.resize == "none":
        return height, width
    if framing.resize == "exact":
        return framing.exact_px
    scale = framing.short_side_px / min(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
