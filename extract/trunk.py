"""Frames through a network, once for all streams that share everything below the last stage.

``tsm18:rgb``, its maps, ``tsm18:rgb+motion`` and their rich forms differ in their last stage or
behind it; what they have in common, most of the work, is done for all of them together. Runs of
equal shape go through it together as well, whatever videos they are of.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tad_distill.console import check_stop, log
from tad_distill.extract.clips import Run
from tad_distill.extract.device import Download, OutOfMemory, computing
from tad_distill.extract.encoder import Encoder
from tad_distill.extract.encoding import Encoding

# Batches whose worth of frames may wait for others of their shape, in all.
MOST_WAITING = 2
STOPPED = "finished videos are in the store, those in flight were dropped"


@dataclass(frozen=True)
class Waiting:
    """A run, and whose it is.

    Attributes:
        encoding: The video.
        number: Which of its runs.
        run: The run.
    """

    encoding: Encoding
    number: int
    run: Run


class Trunk:
    """The shared part of some encoders; :meth:`begin` starts a video.

    Attributes:
        encoders: At least one; of one configuration, with equal trunks.
        batch_frames: Frames per network call; halved when the GPU's memory does not suffice.
    """

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        """Join encoders with equal trunks; see :func:`share`."""
        self.encoders = list(encoders)
        self.batch_frames = encoders[0].config.batch_frames
        # By shape, the one with the run that has waited longest first.
        self._waiting: dict[torch.Size, list[Waiting]] = {}
        self._on_the_way: deque[tuple[list[Waiting], Download]] = deque()
        # A GPU computes the next batch while the outputs of the one before come down.
        self._num_ahead = 1 if encoders[0].device.type == "cuda" else 0

    def begin(self) -> Encoding:
        """Start a video."""
        return Encoding(self.encoders, self.add, self.flush)

    def add(self, encoding: Encoding, runs: list[Run]) -> None:
        """Take runs of a video; they go through the network when there are enough of them."""
        for run in runs:
            shape = run.frames.shape
            group = self._waiting.setdefault(shape, [])
            group.append(Waiting(encoding, encoding.expect(), run))
            if (len(group) + 1) * len(run.frames) > self.batch_frames:
                self._encode(shape)
            while self._num_waiting() > MOST_WAITING * self.batch_frames:
                self._encode(next(iter(self._waiting)))

    def flush(self) -> None:
        """Encode whatever waits."""
        while self._waiting:
            self._encode(next(iter(self._waiting)))
        while self._on_the_way:
            self._hand_over()

    def drop(self, encoding: Encoding) -> None:
        """Forget the runs of a video that has failed."""
        for shape, group in list(self._waiting.items()):
            self._waiting[shape] = [entry for entry in group if entry.encoding is not encoding]
            if not self._waiting[shape]:
                del self._waiting[shape]

    def _num_waiting(self) -> int:
        return sum(len(group) * shape[0] for shape, group in self._waiting.items())

    def _encode(self, shape: torch.Size) -> None:
        group = self._waiting.pop(shape)
        start = time.perf_counter()
        frames = group[0].run.frames
        if len(group) > 1:
            frames = torch.cat([entry.run.frames for entry in group])
        outputs = self.encode(frames.unflatten(0, (len(group), -1)))
        spent = [Waiting(it.encoding, it.number, it.run.without_frames()) for it in group]
        self._on_the_way.append((spent, Download(outputs)))
        while len(self._on_the_way) > self._num_ahead:
            self._hand_over()
        seconds = (time.perf_counter() - start) / len(group)
        for entry in group:
            entry.encoding.network_s += seconds
        # On a processor a batch takes seconds, and a chunk of frames may fill several.
        check_stop(STOPPED)

    def _hand_over(self) -> None:
        group, download = self._on_the_way.popleft()
        outputs = download.wait()
        for number, entry in enumerate(group):
            entry.encoding.receive(entry.number, entry.run, [rows[number] for rows in outputs])

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> list[Tensor]:
        """``(B, T, C, H, W)`` frames to each encoder's ``(B, T', ...)`` float32, on its device.

        Halves the batch when memory does not suffice, and goes on.

        Raises:
            OutOfMemory: Not even one run fits.
        """
        first = self.encoders[0]
        try:
            with computing(first.device, first.config.precision):
                return self._forward(frames.to(first.device))
        except torch.OutOfMemoryError as error:
            if len(frames) == 1:
                raise OutOfMemory(
                    f"stream {first.spec.stream}: {frames.shape[1]} frames of {frames.shape[4]}x"
                    f"{frames.shape[3]} do not fit the GPU's memory; set a smaller window_frames"
                ) from error
        half = len(frames) // 2
        self.batch_frames = half * frames.shape[1]
        log("out_of_memory", stream=first.spec.stream, batch_frames=self.batch_frames)
        halves = zip(self.encode(frames[:half]), self.encode(frames[half:]), strict=True)
        return [torch.cat(pair) for pair in halves]

    def _forward(self, frames: Tensor) -> list[Tensor]:
        backbone = self.encoders[0].backbone
        *inner, last = backbone.stages
        deepest = max(backbone.stages.index(encoder.stage) for encoder in self.encoders)
        outputs: dict[int, Tensor] = {}
        maps = backbone.enter(frames)
        for stage in inner[: deepest + 1]:
            # Of a large network on a processor one run alone takes half a minute.
            check_stop(STOPPED)
            maps = backbone.advance(maps, stage)
            for number, encoder in enumerate(self.encoders):
                if encoder.stage == stage:
                    outputs[number] = encoder.read(maps)
        finals: dict[str, Tensor] = {}
        for number, encoder in enumerate(self.encoders):
            if encoder.stage == last:
                key = encoder.last_key if len(self.encoders) > 1 else ""
                if key not in finals:
                    finals[key] = encoder.backbone.advance(maps, last)
                outputs[number] = encoder.read(finals[key])
        return [outputs[number] for number in range(len(self.encoders))]


def share(encoders: Iterable[Encoder]) -> list[Trunk]:
    """Join the encoders that can share a trunk; the others stay alone.

    Args:
        encoders: All of one extraction.
    """
    families: dict[tuple[str, str, str], list[Encoder]] = {}
    for encoder in encoders:
        name = encoder.name
        families.setdefault((name.backbone, name.modality, name.view), []).append(encoder)
    trunks = []
    for family in families.values():
        groups: dict[str, list[Encoder]] = {}
        for encoder in family:
            # A network that has nobody to share with needs no name for what it could share.
            groups.setdefault(encoder.trunk_key if len(family) > 1 else "", []).append(encoder)
        trunks += [Trunk(group) for group in groups.values()]
    return trunks
