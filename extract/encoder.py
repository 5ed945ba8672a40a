"""What makes the features of one stream: modality, network, pooling, and the spec that says so."""

import hashlib
import platform
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor

from tad_distill import __version__
from tad_distill import config as settings
from tad_distill.console import UsageError
from tad_distill.data.spec import StreamSpec
from tad_distill.extract import clips, modalities, pooling, weights
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.device import computing, device_name
from tad_distill.extract.geometry import resized_sides
from tad_distill.extract.stream_name import StreamName
from tad_distill.extract.views import View

# What is fixed in this code and changes numbers.
RULES = {
    "decoder": "opencv-ffmpeg, sequential",
    "resampling": "nearest frame, ties to the earlier",
    "rotation": "by the file's metadata",
    "crop": "centre",
}


class Encoder:
    """What makes the features of one stream; a :class:`~tad_distill.extract.trunk.Trunk` runs it.

    Attributes:
        name: The parts of the stream's name.
        backbone: The network, in evaluation mode on its device.
        modality: What it is shown.
        view: The part of the frames that it is shown.
        config: How to extract.
        device: Where the network runs.
        spec: What a store records about the stream.
    """

    def __init__(
        self, name: str, source: Path, config: ExtractConfig, device: torch.device
    ) -> None:
        """Build the modality and the backbone of a stream.

        Args:
            name: As :class:`~tad_distill.extract.stream_name.StreamName` says.
            source: Checkpoint, or ``random:SEED``.
            config: How to extract.
            device: Where the network runs.

        Raises:
            UserError: An impossible combination, or weights that do not fit.
        """
        self.name = parts = StreamName.parse(name)
        self.view = View.parse(parts.view)
        if self.view.crop != "centre" and not config.crop_px:
            raise UsageError(f"stream {name!r}: without a crop frames have one view; set crop_px")
        options = config.modality.get(parts.modality) or modalities.default(parts.modality)
        # Channels and normalisation depend on each other's class alone, so build twice.
        channels = options.build("imagenet").channels
        self.backbone, provenance = weights.prepare(
            parts.backbone, parts.modality, channels, source, parts.copy
        )
        self.modality = options.build(self.backbone.normalisation)
        self.config, self.device = config, device
        if parts.stage and parts.stage not in self.backbone.stages:
            raise UsageError(
                f"stream {name!r}: {parts.backbone} has the stages "
                f"{', '.join(self.backbone.stages)}, not {parts.stage!r}"
            )
        if parts.stage and not config.crop_px and config.resize != "exact":
            raise UsageError(f"stream {name!r}: maps need frames of one size; set crop_px")
        if parts.pooling == "rich" and config.regime != "window":
            raise UsageError(f"stream {name!r}: rich pooling looks beyond a clip; regime=window")
        self.backbone.clips_alone = config.regime == "snippet"
        self.backbone.to(device)
        for parameter in self.backbone.parameters():
            if parameter.ndim == 4:  # convolutions over space are faster by a third so
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.modality.to(device)
        told = {k: v for k, v in settings.dump(options).items() if k not in options.NEUTRAL}
        self.spec = self._spec(name, source, provenance, told)

    @property
    def stage(self) -> str:
        """The last stage that has to run."""
        return self.name.stage or self.backbone.stages[-1]

    @cached_property
    def trunk_key(self) -> str:
        """Equal for networks that give equal maps to their last stages."""
        return self._fingerprint(of_last=False)

    @cached_property
    def last_key(self) -> str:
        """Equal for networks whose last stages are equal."""
        return self._fingerprint(of_last=True)

    def read(self, maps: Tensor) -> Tensor:
        """``(B, T', ...)`` what is kept of the maps of :attr:`stage`, before steps are made."""
        if self.name.stage:
            return maps.float()
        if self.name.pooling == "rich":
            return pooling.moments(self.backbone, maps)
        return self.backbone.pool(maps).float()

    def pooling(self, cutter: clips.Cutter) -> pooling.Pooling:
        """Makes the steps of one video."""
        if self.config.regime == "window":
            if self.name.stage:
                return pooling.AsTheyAre()
            if self.name.pooling == "rich":
                return pooling.Rich(round(cutter.clip_frames / self.backbone.stride_frames))
        return pooling.ByRun(cutter)

    def _fingerprint(self, *, of_last: bool) -> str:
        digest = hashlib.sha256(f"{self.name.backbone} {self.name.modality}".encode())
        last = f"{self.backbone.stages[-1]}."
        for key, value in sorted(self.backbone.state_dict().items()):
            if key.startswith(last) == of_last and not key.endswith("num_batches_tracked"):
                digest.update(key.encode())
                digest.update(value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _spec(
        self,
        name: str,
        source: Path,
        provenance: dict[str, Any],
        options: dict[str, Any],
    ) -> StreamSpec:
        config, cut = self.config, clips.cutter(self.config, self.backbone)
        clip_frames, stride_frames = cut.clip_frames, cut.stride_frames
        offset_frames = cut.offset_frames
        if self.name.stage and config.regime == "window":
            # Maps are for a stage to go on with, which reads every one of them.
            clip_frames = stride_frames = self.backbone.stride_of(self.name.stage)
            offset_frames = self.backbone.centre_of(self.name.stage)
        return StreamSpec(
            stream=name,
            backbone=self.name.backbone,
            modality=self.name.modality,
            weights=provenance,
            fps=config.fps,
            clip_frames=clip_frames,
            stride_frames=stride_frames,
            offset_frames=offset_frames,
            shape=self._shape(),
            dtype=config.dtype,
            details=self._details(options),
            software={
                "tad_distill": __version__,
                "torch": torch.__version__,
                "opencv": cv2.__version__,
                "python": platform.python_version(),
                "device": device_name(self.device),
            },
            origin={
                "settings": settings.dump(config),
                "weights": str(source.resolve() if source.exists() else source),
            },
        )

    def _details(self, options: dict[str, Any]) -> dict[str, Any]:
        """Whatever else changes the numbers."""
        config = self.config
        details: dict[str, Any] = {**RULES, "regime": config.regime, "precision": config.precision}
        details["frame"] = _frame_details(config)
        details["modality"] = options
        if config.regime == "window":
            halo = clips.halo_frames(config, self.backbone)
            whole = halo >= self.backbone.halo_frames
            # A sufficient halo leaves no trace, whatever the length of the runs.
            details["window"] = (
                "whole video" if whole else {"frames": config.window_frames, "halo_frames": halo}
            )
        if self.name.pooling == "rich":
            details["pooling"] = pooling.RICH
        details["crop"] = self.view.crop
        if self.view.flip:
            details["flip"] = True
        if variant := self.backbone.describe():
            details["variant"] = variant
        return details

    @torch.inference_mode()
    def _shape(self) -> tuple[int, ...]:
        """Of one output."""
        if not self.name.stage:
            parts = pooling.NUM_RICH if self.name.pooling == "rich" else 1
            return (parts * self.backbone.dim,)
        config = self.config
        height, width = (config.crop_px, config.crop_px) if config.crop_px else config.exact_px
        size = (1, self.backbone.multiple_frames, self.modality.channels, height, width)
        with computing(self.device, config.precision):
            maps = self.backbone.maps(torch.zeros(size, device=self.device), self.name.stage)
        return tuple(maps.shape[2:])


def _frame_details(config: ExtractConfig) -> dict[str, Any]:
    frame: dict[str, Any] = {"resize": config.resize, "crop_px": config.crop_px}
    if config.resize != "none":
        frame["interpolation"] = config.interpolation
    if config.resize == "short_side":
        frame["short_side_px"] = config.short_side_px
    elif config.resize == "exact":
        frame["exact_px"] = list(resized_sides(config, 1, 1))
    return frame
