"""Features as the backbones now make them: of a batch's windows, and of whole videos."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from tad_distill.data.batch import Batch
from tad_distill.data.grid import Features, Grid
from tad_distill.distill.finetune.frames import FrameCache
from tad_distill.distill.finetune.network import Backbones
from tad_distill.distill.finetune.windows import Positions


def see(backbones: Backbones, frames: FrameCache, grid: Grid, batch: Batch) -> dict[str, Tensor]:
    """Features of the backbones' streams for the windows of a batch.

    Args:
        backbones: Make the features.
        frames: Of the batch's videos.
        grid: The stored streams that the batch is from.
        batch: Says which windows; its own features are not looked at.

    Returns:
        For each of the backbones' streams ``(B, T, D)``, zero where not real.
    """
    stream = grid.streams[backbones.streams[0]]  # all have the same steps
    videos, num_steps = batch.videos, batch.mask.shape[1]
    rows = zip(videos, batch.timelines, batch.mask.sum(1).tolist(), strict=True)
    at = [
        Positions.of(timeline, length, stream.timeline(video), stream.entry(video).num_steps)
        for video, timeline, length in rows
    ]
    windows = [(video, *own.span) for video, own in zip(videos, at, strict=True)]
    made = backbones.features(frames, windows)
    seen: dict[str, Tensor] = {}
    for name in backbones.streams:
        read = [own.read(feats[name]) for own, feats in zip(at, made, strict=True)]
        seen[name] = torch.stack([pad(row, (0, 0, 0, num_steps - len(row))) for row in read])
    return seen


class FreshGrid(Grid):
    """A grid on which the backbones' streams are computed from frames, not read from the store."""

    def __init__(self, stored: Grid, backbones: Backbones, frames: FrameCache) -> None:
        """Take the steps and all other streams from ``stored``."""
        others = {n: s for n, s in stored.streams.items() if n not in backbones.streams}
        super().__init__(others, stored.base, stored.target_len, step_s=stored.step_s)
        self._own = stored.streams[backbones.streams[0]]
        self._backbones, self._frames = backbones, frames
        self._video, self._feats = "", dict[str, Features]()

    def read(self, video: str, start: int = 0, stop: int | None = None) -> dict[str, Features]:
        """Features of the steps ``start`` to ``stop``, those of the backbones as if stored."""
        stop = self.num_steps(video) if stop is None else stop
        if video != self._video:  # windows of one video come one after the other
            self._feats, self._video = self._compute(video), video
        timeline, num_own = self.timeline(video).cropped(start), self._own.entry(video).num_steps
        at = Positions.of(timeline, stop - start, self._own.timeline(video), num_own)
        first, last = at.span
        fresh = {
            name: at.read(torch.from_numpy(feats[first:last]).float()).numpy()
            for name, feats in self._feats.items()
        }
        return super().read(video, start, stop) | fresh

    @torch.inference_mode()
    def _compute(self, video: str) -> dict[str, Features]:
        """All features of a video, rounded as a store would."""
        num_own = self._own.entry(video).num_steps
        (made,) = self._backbones.features(self._frames, [(video, 0, num_own)], whole=True)
        dtype = self._own.spec.dtype
        return {name: feats.cpu().numpy().astype(dtype) for name, feats in made.items()}
