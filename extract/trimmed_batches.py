"""Batches of trimmed clips: a moment, a crop and perhaps a mirror image of each, by its step alone.

Every random choice follows from the seed and the number of the step, so a run that was
interrupted goes on with the batches it would have seen.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tad_distill.extract.modalities import Modality
from tad_distill.extract.pretrain_config import PretrainConfig
from tad_distill.extract.trimmed import ClipList
from tad_distill.extract.trimmed_frames import Frames, TrimmedFrames

# Random streams of one seed: the order of the clips, and how each of them is shown.
ORDER, SHOW = 0, 1


@dataclass(frozen=True)
class ClipBatch:
    """What one step is shown.

    Attributes:
        frames: ``(B, T, C, H, W)`` network input.
        targets: ``(B, tasks)`` class ids; -1 where not labelled, -2 for an unknown class.
    """

    frames: Tensor
    targets: Tensor


class ClipBatches:
    """Makes the batches of training and of validation."""

    def __init__(
        self,
        clips: ClipList,
        tasks: list[str],
        frames: TrimmedFrames,
        modality: Modality,
        config: PretrainConfig,
    ) -> None:
        """Number the classes of ``tasks``; everything else happens when a batch is asked for."""
        self._frames, self._modality, self._config = frames, modality, config
        self.train = [i for i, clip in enumerate(clips.clips) if clip.split == "train"]
        self.validation = [i for i, clip in enumerate(clips.clips) if clip.split == "validation"]
        self._targets = np.array(
            [[clips.class_id(clip, task) for task in tasks] for clip in clips.clips]
        )
        self._mirrored = np.stack(
            [
                _swapped(self._targets[:, column], clips.classes[task], config.flip_swaps)
                for column, task in enumerate(tasks)
            ],
            axis=1,
        )

    def training(self, step: int) -> ClipBatch:
        """The batch of a step: every epoch shows each training clip once, in a new order."""
        config = self._config
        positions = np.arange(step * config.batch_size, (step + 1) * config.batch_size)
        epochs, places = np.divmod(positions, len(self.train))
        orders = {
            epoch: np.random.default_rng([config.seed, ORDER, epoch]).permutation(len(self.train))
            for epoch in np.unique(epochs)
        }
        rng = np.random.default_rng([config.seed, SHOW, step])
        shown, targets = [], []
        for epoch, place in zip(epochs, places, strict=True):
            clip = self.train[orders[epoch][place]]
            flip = bool(rng.random() < config.flip)
            shown.append(self._show(clip, rng, flip))
            targets.append((self._mirrored if flip else self._targets)[clip])
        return ClipBatch(torch.stack(shown), torch.from_numpy(np.stack(targets)))

    def validating(self, numbers: list[int]) -> ClipBatch:
        """The middle of the given clips, in time and space, as they are."""
        shown = [self._show(number, None, flip=False) for number in numbers]
        return ClipBatch(torch.stack(shown), torch.from_numpy(self._targets[numbers]))

    def _show(self, number: int, rng: np.random.Generator | None, flip: bool) -> Tensor:
        """``(T, C, H, W)`` input from a random moment and place; without ``rng`` the middle."""
        frames, has_history = self._moment(self._frames[number], rng)
        frames = self._place(frames, rng)
        if flip:
            frames = frames[:, :, ::-1]
        return self._modality(np.ascontiguousarray(frames), has_history)

    def _moment(self, frames: Frames, rng: np.random.Generator | None) -> tuple[Frames, bool]:
        """``clip_frames`` frames, after the history the modality wants if the clip holds it."""
        wanted = self._config.clip_frames + self._modality.frames_before
        has_history = len(frames) >= wanted
        if not has_history:
            wanted = self._config.clip_frames
        spare = len(frames) - wanted
        if spare < 0:
            return np.concatenate([frames, np.repeat(frames[-1:], -spare, axis=0)]), False
        first = int(rng.integers(spare + 1)) if rng else spare // 2
        return frames[first : first + wanted], has_history

    def _place(self, frames: Frames, rng: np.random.Generator | None) -> Frames:
        """A square of side ``crop``."""
        crop, (low, high) = self._config.crop, self._config.scale
        if crop is None:
            return frames
        height, width = frames.shape[1:3]
        side = crop
        if rng and low < 1:
            side = round(min(height, width) * float(rng.uniform(low, high)))
        side = min(side, height, width)
        top, left = (
            int(rng.integers(spare + 1)) if rng else spare // 2
            for spare in (height - side, width - side)
        )
        square = frames[:, top : top + side, left : left + side]
        if side == crop:
            return square
        method = cv2.INTER_AREA if crop < side else cv2.INTER_LINEAR
        return np.stack([cv2.resize(f, (crop, crop), interpolation=method) for f in square])


def _swapped(
    targets: NDArray[np.int64], classes: tuple[str, ...], swaps: dict[str, str]
) -> NDArray[np.int64]:
    """Class ids of the mirrored clips."""
    both_ways = swaps | {right: left for left, right in swaps.items()}
    ids = {name: number for number, name in enumerate(classes)}
    mirrored = targets.copy()
    for name, other in both_ways.items():
        if name in ids and other in ids:
            mirrored[targets == ids[name]] = ids[other]
    return mirrored
