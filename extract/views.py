"""Which part of the frames a stream is shown, and whether mirrored: views beside the usual one.

A view is a stream of its own, ``tsm18:rgb-left_flip``, so a detector may read several, and ``data
export`` joins them. All are cut from the same decoded frames.
"""

from dataclasses import dataclass

from torch import Tensor

from tad_distill.console import UsageError
from tad_distill.extract.video import VideoError

# Where the crop lies, as shares of the free height and width. ``left`` and ``right`` are the ends
# of the longer side, so of a portrait they are its top and bottom (PySlowFast's ``uniform_crop``).
CORNERS = {
    "top_left": (0, 0),
    "top_right": (0, 1),
    "bottom_left": (1, 0),
    "bottom_right": (1, 1),
}
CROPS = ("centre", "left", "right", *CORNERS)
NAMES = (*CROPS[1:], "flip", *(f"{crop}_flip" for crop in CROPS[1:]))


@dataclass(frozen=True)
class View:
    """A crop, perhaps mirrored.

    Attributes:
        crop: One of ``CROPS``.
        flip: Whether left and right are exchanged, before anything is computed: gradients and flow
            are those of a mirrored video, so flow along x changes its sign.
    """

    crop: str = "centre"
    flip: bool = False

    @classmethod
    def parse(cls, name: str) -> "View":
        """A view by its name in a stream's name, "" for the usual one.

        Raises:
            UsageError: There is no such view; the message lists them.

        >>> View.parse("left_flip")
        View(crop='left', flip=True)
        """
        if name and name not in NAMES:
            raise UsageError(f"no view {name!r}; there are {', '.join(NAMES)}")
        flip = name.endswith("flip")
        return cls(name.removesuffix("flip").removesuffix("_") or "centre", flip)

    def cut(self, frames: Tensor, crop_px: int) -> Tensor:
        """What is shown of ``(N, H, W, 3)`` resized frames.

        Args:
            frames: Whole, or for a centre crop already cropped.
            crop_px: Side of the square; 0: everything.

        Returns:
            ``(N, crop_px, crop_px, 3)``, or ``(N, H, W, 3)``.

        Raises:
            VideoError: The crop is larger than the frames.
        """
        height, width = frames.shape[1:3]
        if crop_px > min(height, width):
            raise VideoError(
                f"frames of {width}x{height} are smaller than crop_px={crop_px}; set a resize"
            )
        if crop_px:
            top, left = self._corner(height - crop_px, width - crop_px)
            frames = frames[:, top : top + crop_px, left : left + crop_px]
        return frames.flip(2) if self.flip else frames

    def _corner(self, free_height: int, free_width: int) -> tuple[int, int]:
        if self.crop in CORNERS:
            down, right = CORNERS[self.crop]
            return down * free_height, right * free_width
        top, left = free_height // 2, free_width // 2
        if self.crop == "centre":
            return top, left
        if free_height > free_width:
            return (0 if self.crop == "left" else free_height), left
        return top, (0 if self.crop == "left" else free_width)
