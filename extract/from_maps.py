"""Features of a whole video from cached maps: the last stage and what follows, without a frame."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from tad_distill.console import UsageError
from tad_distill.data.spec import StreamSpec
from tad_distill.data.store import Stream
from tad_distill.extract import clips
from tad_distill.extract.device import computing
from tad_distill.extract.encoder import Encoder
from tad_distill.extract.encoding import StepMaker


class FromMaps:
    """Goes on where cached maps end, in the runs that an extraction from frames would cut.

    What it makes differs from features of the frames by the rounding of the stored maps alone, as
    long as the runs had no halo or the whole one. Where a map stands for more frames than a step,
    a video whose length is no multiple of the map's may get a last step more.
    """

    def __init__(self, encoders: Sequence[Encoder], maps: StreamSpec) -> None:
        """Prepare to make the streams of ``encoders``, whose last stages are equal.

        Args:
            encoders: At least one; of one configuration and equal weights.
            maps: Of the stage before the last, extracted with the same configuration.

        Raises:
            UsageError: The maps are those of clips.
        """
        first = encoders[0]
        config, backbone = first.config, first.backbone
        if config.regime != "window":
            raise UsageError(
                f"stream {maps.stream}: maps of regime={config.regime} are averaged over each "
                "clip, so that no stage can go on with them; extract them with regime=window"
            )
        self.encoders = list(encoders)
        self._map_frames = round(maps.stride_frames)
        self._window = config.window_frames // self._map_frames
        self._halo = clips.halo_frames(config, backbone) // self._map_frames

    @torch.inference_mode()
    def features(self, maps: Stream, video: str) -> list[NDArray[np.floating]]:
        """The features ``(T, *shape)`` of a video for each encoder, as they are stored.

        Raises:
            VideoError: A feature is too large for the stored dtype.
        """
        steps = [StepMaker(encoder) for encoder in self.encoders]
        first, num_maps = self.encoders[0], maps.entry(video).num_steps
        backbone = first.backbone
        for start in range(0, num_maps, self._window):
            stop = min(start + self._window, num_maps)
            low, high = max(0, start - self._halo), min(num_maps, stop + self._halo)
            given = torch.from_numpy(maps.read(video, low, high)).float()
            run = clips.Run(
                given,
                skip=(start - low) * self._map_frames // backbone.stride_frames,
                keep=(stop - start) * self._map_frames // backbone.stride_frames,
            )
            with computing(first.device, first.config.precision):
                moved = given.unsqueeze(0).to(first.device)
                last = backbone.advance(moved, backbone.stages[-1])
                outputs = [encoder.read(last)[0].cpu() for encoder in self.encoders]
            for made, rows in zip(steps, outputs, strict=True):
                made.push(rows, run)
        return [made.finish() for made in steps]
