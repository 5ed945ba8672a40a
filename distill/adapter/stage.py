"""The copy of the last stage: built from the base's weights, and exported as a stream.

Of this package only this file knows backbones and how features are extracted.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tad_distill import config as settings
from tad_distill import console
from tad_distill.console import UsageError, UserError
from tad_distill.data.store import Store, Stream
from tad_distill.distill.adapter.config import CopyConfig
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.device import choose_device, computing
from tad_distill.extract.encoder import Encoder
from tad_distill.extract.from_maps import FromMaps
from tad_distill.extract.stream_name import StreamName
from tad_distill.extract.weights import OWN_LAYOUT


@dataclass(frozen=True)
class Base:
    """The network whose last stage is copied.

    Attributes:
        maps: What the copy reads.
        encoder: Of the base's own pooled stream.
        config: How the maps were extracted, and the pooled streams are made.
        device: Where it runs.
    """

    maps: Stream
    encoder: Encoder
    config: ExtractConfig
    device: torch.device

    @classmethod
    def open(cls, maps: Stream, config: CopyConfig, device: str) -> "Base":
        """Build the network that made the maps.

        Raises:
            UserError: The stream holds no maps, or not those of the stage before the last, or was
                imported; or the weights are gone, or are other ones.
        """
        name, origin = StreamName.parse(maps.name), maps.spec.origin
        if "settings" not in origin:
            raise UserError(f"stream {maps.name}: was not extracted by this program; extract it")
        extraction = settings.build(ExtractConfig, origin["settings"])
        extraction = replace(
            extraction, device=device, pool_frames=config.pool_frames or extraction.pool_frames
        )
        where = choose_device(extraction)
        weights = config.weights or Path(origin["weights"])
        if not str(weights).startswith("random:") and not weights.exists():
            raise UserError(
                f"{weights}: the weights that made stream {maps.name} are gone; name the file with "
                f"--weights (sha256 {maps.spec.weights.get('sha256', 'unknown')})"
            )
        own = replace(name, stage=None)
        encoder = Encoder(str(own), weights, extraction, where)
        *_, before, last = ("frames", *encoder.backbone.stages)
        if name.stage != before:
            raise UsageError(
                f"adapter.maps: {maps.name} is not what the last stage {last} reads; expected "
                f"{own}@{before}"
            )
        made = Encoder(maps.name, weights, extraction, where).spec
        if made.hash != maps.spec.hash:
            raise UserError(
                f"{weights}: did not make stream {maps.name}: "
                f"{'; '.join(made.differences(maps.spec))}"
            )
        return cls(maps, encoder, extraction, where)

    def features(self, video: str) -> Tensor:
        """``(T, D)`` pooled features of a whole video, by the last stage as it now is."""
        (feats,) = FromMaps([self.encoder], self.maps.spec).features(self.maps, video)
        return torch.from_numpy(feats).float()

    def stream(self, copy: str, pooling: Literal["mean", "rich"] = "mean") -> str:
        """Name of the stream of a copy."""
        return str(replace(self.encoder.name, copy=copy, pooling=pooling))


class StageCopy(nn.Module):
    """The last stage of a base, and a linear map of its pooled output to the target.

    The stage is the base's own, trained in place; nothing else of the base is trained.

    Attributes:
        last: The stage.
        norm: Of the pooled output, before the map.
        linear: To the target; it is dropped after the training.
    """

    def __init__(self, base: Base, dim: int, batch_norm: Literal["trained", "frozen"]) -> None:
        """Start from the base's weights.

        Args:
            base: Whose last stage is copied.
            dim: Width of the target.
            batch_norm: Whether the stage's batch norms are trained.
        """
        super().__init__()
        backbone = base.encoder.backbone
        backbone.requires_grad_(False)
        self._backbone = (backbone,)  # in a tuple: neither its parameters nor its state are ours
        self._base = base
        self.batch_norm = batch_norm
        self.last = backbone.get_submodule(backbone.stages[-1]).requires_grad_(True)
        norms = [m for m in self.last.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self._norms = tuple(norms)
        if batch_norm == "frozen":
            for norm in norms:
                norm.requires_grad_(False)
        self.norm = nn.BatchNorm1d(backbone.dim)
        self.linear = nn.Linear(backbone.dim, dim)
        stride = base.encoder.spec.stride_frames
        self._outputs_per_step = round(stride / backbone.stride_frames)
        self.to(base.device)

    def train(self, mode: bool = True) -> "StageCopy":
        """Switch to training; frozen batch norms stay as they are."""
        super().train(mode)
        if self.batch_norm == "frozen":
            for norm in self._norms:
                norm.eval()
        return self

    def forward(self, maps: Tensor) -> Tensor:
        """``(B, T', C, H, W)`` windows of maps to ``(B, S, dim)`` predictions."""
        (backbone,) = self._backbone
        pooled = backbone.pool(backbone.advance(maps, backbone.stages[-1])).float()
        return self.predict(pooled.unflatten(1, (-1, self._outputs_per_step)).mean(2))

    def predict(self, feats: Tensor) -> Tensor:
        """``(..., T, D)`` pooled features to ``(..., T, dim)`` predictions."""
        normed = self.norm(feats.flatten(0, -2)).unflatten(0, feats.shape[:-1])
        predicted: Tensor = self.linear(normed)
        return predicted

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute as exactly as a training has to: in float16 gradients would vanish."""
        precision = self._base.config.precision
        with computing(self._base.device, "float32" if precision == "float16" else precision):
            yield

    def product(self, notes: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint from which the copy's features are extracted; ``notes`` tell how it came."""
        (backbone,) = self._backbone
        spec = self._base.encoder.spec
        base = {key: value for key, value in spec.weights.items() if key != "pretraining"}
        return {
            "layout": OWN_LAYOUT,
            "backbone": spec.backbone,
            "modality": spec.modality,
            "normalisation": backbone.normalisation,
            "state_dict": {
                key: value.detach().cpu().contiguous()
                for key, value in backbone.state_dict().items()
            },
            "pretraining": spec.weights["pretraining"],
            "copy": {"stage": backbone.stages[-1], "base": base, **notes},
        }


def export(
    base: Base,
    store: Store,
    weights: Path,
    copy: str,
    poolings: tuple[Literal["mean", "rich"], ...],
) -> list[str]:
    """Write the copy's features of every video that has maps, going on where it stopped.

    Args:
        base: What the copy was made of.
        store: Gets the streams.
        weights: The checkpoint of the copy.
        copy: Its name.
        poolings: A stream for each of these.

    Returns:
        The names of the streams.

    Raises:
        UserError: The store holds a stream of this name that was made otherwise.
        Interrupted: A signal asked for a stop; finished videos are kept.
    """
    names = [base.stream(copy, pooling) for pooling in poolings]
    encoders = [Encoder(name, weights, base.config, base.device) for name in names]
    made = FromMaps(encoders, base.maps.spec)
    streams = [store.create_stream(encoder.spec) for encoder in encoders]
    writers = [stream.writer("adapt") for stream in streams]
    videos = base.maps.videos
    with console.progress("export", len(videos)) as tick:
        for video in videos:
            console.check_stop("finished videos are in the store")
            entry = base.maps.entry(video)
            states = [writer.state(video, entry.source_hash) for writer in writers]
            if any(state != "done" for state in states):
                num_steps = _num_steps(store, base, video)
                rows = made.features(base.maps, video)
                for writer, feats in zip(writers, rows, strict=True):
                    writer.commit(
                        video,
                        feats[:num_steps],
                        fps=entry.fps,
                        duration_s=entry.duration_s,
                        source_hash=entry.source_hash,
                    )
            tick(1)
    for writer in writers:
        writer.seal()
    console.log("exported", streams=",".join(names), videos=len(videos))
    return names


def _num_steps(store: Store, base: Base, video: str) -> int | None:
    """Steps of a video in the base's own stream, if the store has it: maps may stand for more."""
    name = str(base.encoder.name)
    if name not in store.streams():
        return None
    own = store.stream(name)
    same = own.spec.hash == base.encoder.spec.hash and video in own
    return own.entry(video).num_steps if same else None
