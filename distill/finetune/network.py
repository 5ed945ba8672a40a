"""The backbones in the loop: built from their checkpoints, run as an extraction runs them."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tad_distill import config as settings
from tad_distill.console import UsageError, UserError
from tad_distill.data.spec import StreamSpec
from tad_distill.data.store import Stream
from tad_distill.distill.finetune.config import BackboneConfig
from tad_distill.distill.finetune.frames import FrameCache
from tad_distill.distill.finetune.windows import Regime, Span
from tad_distill.extract import clips
from tad_distill.extract.backbones import Backbone
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.device import choose_device
from tad_distill.extract.encoder import Encoder
from tad_distill.extract.stream_name import StreamName
from tad_distill.extract.weights import OWN_LAYOUT

# Streams in one loop are steps of the same runs of the same frames.
EQUAL = ("fps", "clip_frames", "stride_frames", "offset_frames", "details")


class Backbones(nn.Module):
    """The networks of some streams, with one trunk in common and a last stage each.

    Attributes:
        streams: What they make, as the store names it.
        specs: What made the stored features of each.
        regime: How videos are cut.
        extraction: How the stored features were made.
    """

    def __init__(
        self, encoders: Sequence[Encoder], specs: Sequence[StreamSpec], config: BackboneConfig
    ) -> None:
        """Join networks with equal trunks; see :meth:`open`."""
        super().__init__()
        first = encoders[0].backbone
        self.streams = tuple(str(encoder.name) for encoder in encoders)
        self.specs = dict(zip(self.streams, specs, strict=True))
        self.extraction = encoders[0].config
        self.regime = _regime(self.extraction, first)
        self._modality = encoders[0].modality
        self._stages, self._checkpointing = first.stages, config.checkpointing
        self._lr_scale = config.lr_scale
        if config.from_stage not in (None, *self._stages):
            raise UsageError(
                f"backbone.from_stage: {self.streams[0]} has the stages "
                f"{', '.join(self._stages)}, not {config.from_stage!r}"
            )
        given = config.from_stage
        self._trained = self._stages[self._stages.index(given) :] if given else self._stages
        self._trains_stem = given is None
        self.networks = nn.ModuleDict(dict(zip(self.streams, _joined(encoders), strict=True)))
        for stream in self.streams:
            self._freeze(self._network(stream))

    @classmethod
    def open(cls, streams: Sequence[Stream], config: BackboneConfig, device: str) -> "Backbones":
        """Build the networks that made some streams; see :func:`in_the_loop`.

        Raises:
            UserError: A stream was imported, pooled richly or made of snippets, weights are gone
                or other ones, or the streams have no trunk in common.
        """
        encoders = [_encoder(stream, config, device) for stream in streams]
        for stream in streams[1:]:
            if any(getattr(stream.spec, k) != getattr(streams[0].spec, k) for k in EQUAL):
                differing = stream.spec.differences(streams[0].spec)
                raise UserError(
                    f"streams {streams[0].name} and {stream.name} were extracted in two ways "
                    f"({'; '.join(differing)}), so that they cannot share frames"
                )
        if len({encoder.trunk_key for encoder in encoders}) > 1:
            raise UserError(
                f"streams {', '.join(stream.name for stream in streams)}: their networks differ "
                "below the last stage; make the copy anew with tad-distill adapt"
            )
        return cls(encoders, [stream.spec for stream in streams], config)

    def train(self, mode: bool = True) -> "Backbones":
        """Stay in evaluation mode: batch norms are frozen."""
        return super().train(False)

    def lr_scales(self) -> dict[str, float]:
        """All parameters learn at this share of the learning rate."""
        return dict.fromkeys(dict(self.named_parameters()), self._lr_scale)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """``(B, T, C, H, W)`` runs of frames to each stream's ``(B, T', D)`` outputs, float32."""
        *inner, last = self._stages
        first = self._network(self.streams[0])
        maps = self._run(first.enter, inputs, self._trains_stem)
        for stage in inner:
            maps = self._run(partial(first.advance, stage=stage), maps, stage in self._trained)
        outputs = {}
        for stream in self.streams:
            network = self._network(stream)
            final = self._run(partial(network.advance, stage=last), maps, True)
            outputs[stream] = network.pool(final).float()
        return outputs

    def features(
        self, frames: FrameCache, windows: Sequence[tuple[str, int, int]], whole: bool = False
    ) -> list[dict[str, Tensor]]:
        """Features of parts of videos, as an extraction makes them but for the rounding.

        Args:
            frames: Of the videos.
            windows: For each part the video, its first step and the step after the last one.
            whole: Cut long parts into the extraction's runs; see ``Regime.spans``.

        Returns:
            For each part and each stream ``(T, D)``.
        """
        cut = [self._spans(frames, window, whole) for window in windows]
        by_length: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for part, spans in enumerate(cut):
            for number, span in enumerate(spans):
                by_length[span.end - span.begin + span.pad].append((part, number))
        made: dict[tuple[int, int], dict[str, Tensor]] = {}
        for length, places in by_length.items():
            size = max(1, self.extraction.batch_frames // length)
            for first in range(0, len(places), size):
                some = places[first : first + size]
                inputs = [self._inputs(frames, windows[p][0], cut[p][n]) for p, n in some]
                outputs = self(torch.stack(inputs).to(self.device))
                for row, (p, n) in enumerate(some):
                    skip, keep = cut[p][n].skip, cut[p][n].keep
                    made[p, n] = {s: rows[row, skip : skip + keep] for s, rows in outputs.items()}
        return [
            {
                stream: self.regime.pool(torch.cat([made[p, n][stream] for n in range(len(spans))]))
                for stream in self.streams
            }
            for p, spans in enumerate(cut)
        ]

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.parameters()).device

    def product(
        self, stream: str, weights: Mapping[str, Tensor], notes: dict[str, Any]
    ) -> dict[str, Any]:
        """A checkpoint from which an extraction makes a stream.

        Args:
            stream: One of :attr:`streams`.
            weights: State of this module.
            notes: How the weights came to be.
        """
        prefix, spec = f"networks.{stream}.", self.specs[stream]
        own = {k.removeprefix(prefix): t for k, t in weights.items() if k.startswith(prefix)}
        made = {
            "layout": OWN_LAYOUT,
            "backbone": spec.backbone,
            "modality": spec.modality,
            "normalisation": self._network(stream).normalisation,
            "state_dict": {key: tensor.detach().cpu().contiguous() for key, tensor in own.items()},
            "pretraining": spec.weights["pretraining"],
            "fine_tuned": {"from": _without(spec.weights, "pretraining", "copy"), **notes},
        }
        return made | ({"copy": spec.weights["copy"]} if "copy" in spec.weights else {})

    def spec_of(self, stream: str, weights: Path) -> StreamSpec:
        """What a store records of a stream that an extraction makes with these weights."""
        spec = Encoder(stream, weights, self.extraction, self.device).spec
        origin = self.specs[stream].origin | {"weights": str(weights.resolve())}
        return replace(spec, origin=origin)

    def _network(self, stream: str) -> Backbone:
        network = self.networks[stream]
        assert isinstance(network, Backbone)
        return network

    def _freeze(self, network: Backbone) -> None:
        network.eval()
        network.requires_grad_(self._trains_stem)
        for stage in self._trained:
            network.get_submodule(stage).requires_grad_(True)
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.requires_grad_(False)

    def _run(self, part: Callable[[Tensor], Tensor], maps: Tensor, trained: bool) -> Tensor:
        if not trained:
            with torch.no_grad():
                return part(maps)
        if self._checkpointing and torch.is_grad_enabled():
            # Nothing in a backbone is random.
            kept: Tensor = checkpoint(part, maps, use_reentrant=False, preserve_rng_state=False)
            return kept
        return part(maps)

    def _spans(self, frames: FrameCache, window: tuple[str, int, int], whole: bool) -> list[Span]:
        video, first, last = window
        num_frames, step = frames.num_frames(video), self.regime.step
        return self.regime.spans(first * step, min(last * step, num_frames), num_frames, whole)

    def _inputs(self, frames: FrameCache, video: str, span: Span) -> Tensor:
        """``(T, C, H, W)`` what the networks are shown of a span."""
        before = self._modality.frames_before
        first = span.begin - before
        if before and first >= 0:
            inputs = self._modality(frames.read(video, first, span.end), has_history=True)
        else:
            start = 0 if before else span.begin
            inputs = self._modality(frames.read(video, start, span.end), has_history=False)
            inputs = inputs[span.begin - start :]
        return torch.cat([inputs, inputs[-1:].expand(span.pad, -1, -1, -1)])


def in_the_loop(streams: Sequence[str]) -> list[str]:
    """Those of a detector's streams whose network is the first one's, but for its last stage."""
    parsed = {name: StreamName.parse(name) for name in streams}
    first = parsed[streams[0]]
    if first.view:
        raise UsageError(f"stream {streams[0]}: a network is trained on the usual view alone")
    return [
        name
        for name, parts in parsed.items()
        if (parts.backbone, parts.modality, parts.view) == (first.backbone, first.modality, "")
    ]


def file_name(stream: str) -> str:
    """Of the checkpoint of a stream: ``backbone.pt``, or ``backbone+motion.pt`` for a copy."""
    copy = StreamName.parse(stream).copy
    return f"backbone+{copy}.pt" if copy else "backbone.pt"


def _encoder(stream: Stream, config: BackboneConfig, device: str) -> Encoder:
    """The network that made a stream."""
    name, origin = StreamName.parse(stream.name), stream.spec.origin
    if "settings" not in origin:
        raise UserError(f"stream {stream.name}: was not extracted by this program; extract it")
    if name.pooling != "mean" or stream.spec.details["regime"] != "window":
        raise UserError(
            f"stream {stream.name}: made of snippets or by rich pooling, which cannot be computed "
            "in the loop; extract tad-distill's windows, mean pooling, and train a run on them"
        )
    extraction = settings.build(ExtractConfig, origin["settings"])
    extraction = replace(extraction, device=device)
    weights = config.weights.get(stream.name, Path(origin["weights"]))
    if not str(weights).startswith("random:") and not weights.exists():
        raise UserError(
            f"{weights}: the weights that made stream {stream.name} are gone; name the file with "
            f"--weights {stream.name}=FILE (sha256 {stream.spec.weights.get('sha256', 'unknown')})"
        )
    encoder = Encoder(stream.name, weights, extraction, choose_device(extraction))
    if encoder.spec.hash != stream.spec.hash:
        raise UserError(
            f"{weights}: did not make stream {stream.name}: "
            f"{'; '.join(encoder.spec.differences(stream.spec))}"
        )
    return encoder


def _joined(encoders: Sequence[Encoder]) -> list[Backbone]:
    """The networks, all with the first one's modules but for the last stage."""
    first, *others = (encoder.backbone for encoder in encoders)
    for network in others:
        for name, module in first.named_children():
            if name != first.stages[-1]:
                setattr(network, name, module)
    return [first, *others]


def _regime(extraction: ExtractConfig, backbone: Backbone) -> Regime:
    halo = clips.halo_frames(extraction, backbone)
    return Regime(
        step=round(clips.cutter(extraction, backbone).stride_frames),
        output=backbone.stride_frames,
        multiple=math.lcm(backbone.stride_frames, backbone.multiple_frames),
        halo=halo,
        run=extraction.window_frames,
        seamless=halo >= backbone.halo_frames,
    )


def _without(table: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key not in keys}
