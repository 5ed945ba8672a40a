"""A finished run finds actions: features of a store to detections in seconds."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from tad_distill import config, console
from tad_distill.console import UserError
from tad_distill.data.batch import Sample
from tad_distill.data.grid import Grid
from tad_distill.data.spec import StreamSpec
from tad_distill.data.store import Store
from tad_distill.distill import checkpoint
from tad_distill.distill.config import Experiment
from tad_distill.distill.heads import Candidates
from tad_distill.distill.label_scores import label_scores
from tad_distill.distill.model import Detector, build
from tad_distill.distill.windows import merge, windows
from tad_distill.evaluate import detections, video_scores
from tad_distill.evaluate.nms import suppress
from tad_distill.evaluate.video_scores import VideoScores

if TYPE_CHECKING:
    import pandas as pd

LAYOUT = "tad-distill detector 1"


@dataclass(frozen=True)
class Run:
    """A trained detector and all that it needs to be used.

    Attributes:
        path: The run's folder.
        model: The detector, in eval mode, without gradients.
        experiment: The settings that it was trained with.
        labels: What its label numbers mean.
        specs: What made the features of each stream that it reads.
        base_spec: What made the features whose steps are its grid.
        provenance: What goes beside its numbers: preset, seed, data, pretraining, teacher.
        weights_hash: Names the weights.
    """

    path: Path
    model: Detector
    experiment: Experiment
    labels: tuple[str, ...]
    specs: dict[str, StreamSpec]
    base_spec: StreamSpec
    provenance: dict[str, Any]
    weights_hash: str

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "auto") -> "Run":
        """Read a finished run from its folder.

        Raises:
            UserError: The folder holds no finished run, or one of another version.
        """
        file = path / "model.pt"
        if not file.is_file():
            unfinished = (path / "config.json").is_file()
            reason = "the run has not finished, train it again" if unfinished else "not a run"
            raise UserError(f"{path}: no model.pt in it: {reason}")
        state = checkpoint.load(file)
        if state.get("layout") != LAYOUT:
            raise UserError(f"{file}: layout {state.get('layout')!r}, expected {LAYOUT!r}")
        try:
            experiment = config.build(Experiment, state["experiment"])
        except config.ConfigError as error:
            version = state["provenance"]["tad_distill"]
            raise UserError(f"{file}: made by tad-distill {version}: {error}") from error
        labels = tuple(state["labels"])
        model = build(
            experiment.model, experiment.head, experiment.fusion, state["dims"], len(labels)
        )
        model.load_state_dict(state["weights"])
        model.to(pick_device(str(device))).eval().requires_grad_(False)
        return cls(
            path=path,
            model=model,
            experiment=experiment,
            labels=labels,
            specs={name: StreamSpec.from_table(spec) for name, spec in state["specs"].items()},
            base_spec=StreamSpec.from_table(state["base_spec"]),
            provenance=state["provenance"],
            weights_hash=hash_weights(state["weights"]),
        )

    def with_label_scores(self, path: Path) -> "Run":
        """The same run, which takes the label scores of whole videos from a file."""
        settings = replace(self.experiment.predict, external_scores=path)
        return replace(self, experiment=replace(self.experiment, predict=settings))

    @property
    def device(self) -> torch.device:
        """Where the detector is."""
        return next(self.model.parameters()).device


@dataclass(frozen=True)
class Found:
    """The detections of one video: ``(N, 2)`` seconds, ``(N,)`` scores and label numbers."""

    segments_s: NDArray[np.floating]
    scores: NDArray[np.floating]
    labels: NDArray[np.int64]


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA if there is one.

    Raises:
        UserError: CUDA is asked for and not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device {name}: no CUDA device is available; use --device cpu")
    return torch.device(name)


def hash_weights(weights: dict[str, torch.Tensor]) -> str:
    """A short name for weights."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def check_streams(run: Run, store: Store, allow_other_spec: bool = False) -> None:
    """Refuse a store whose features are not of the kind that a detector was trained on.

    Raises:
        UserError: With the stream and what differs. Features of another width, and a grid of
            other strides, are refused even with ``allow_other_spec``.
    """
    there = store.streams()
    for name, trained in {**run.specs, run.base_spec.stream: run.base_spec}.items():
        if name not in there:
            raise UserError(
                f"{store.path}: no stream {name}, which {run.path} reads "
                f"(there are {', '.join(there) or 'none'}); extract with --stream {name}"
            )
        found = store.stream(name).spec
        if found.hash == trained.hash:
            continue
        message = (
            f"{store.path}: stream {name} is not what {run.path} was trained on: "
            f"{'; '.join(found.differences(trained))}"
        )
        if not allow_other_spec:
            raise UserError(f"{message}; extract with the same settings and weights")
        if found.shape != trained.shape:
            raise UserError(message)
        console.warn(f"{message}; used nevertheless")


def predict(
    run: Run,
    store: Store,
    videos: Sequence[str] | None = None,
    *,
    allow_other_spec: bool = False,
) -> "pd.DataFrame":
    """Detections of videos whose features are in a store.

    Only the streams that the detector reads are read.

    Args:
        run: The detector.
        store: The features.
        videos: Names; by default all videos that have every stream.
        allow_other_spec: Warn only if the features were made in another way than in training.

    Returns:
        The detections table: video, label, score, start_s, end_s, ordered by video as given,
        then by falling score. A video without detections has no row.

    Raises:
        UserError: A stream or a video is not in the store, or its features are of another kind;
            or label scores are missing.
    """
    check_streams(run, store, allow_other_spec)
    data = run.experiment.data
    streams = {name: store.stream(name) for name in run.model.streams}
    grid = Grid(streams, store.stream(run.base_spec.stream), data.target_len, step_s=data.step_s)
    if videos is None:
        there = grid.base.videos
        videos = [video for video in there if not grid.lacking(video)]
        if len(videos) < len(there):
            console.log("videos_without_features", left_out=len(there) - len(videos), of=len(there))
    for video in videos:
        if lacking := grid.lacking(video):
            raise UserError(f"{store.path}: video {video}: no features of {', '.join(lacking)}")
    scores = label_scores(run.experiment, run.labels, videos)

    def found() -> Iterator[tuple[str, Found]]:
        with console.progress("detect", len(videos)) as tick:
            for video in videos:
                console.check_stop("nothing was written")
                yield video, _detect(grid, run.model, run.experiment, video, scores)
                tick(1)

    return _table(found(), run.labels)


def predict_on(
    grid: Grid,
    model: Detector,
    experiment: Experiment,
    labels: Sequence[str],
    videos: Sequence[str],
    scores: VideoScores | None = None,
) -> "pd.DataFrame":
    """:func:`predict` for a model in eval mode, on an open grid; does not stop for a signal."""
    return _table(((v, _detect(grid, model, experiment, v, scores)) for v in videos), labels)


def _table(found: Iterable[tuple[str, Found]], labels: Sequence[str]) -> "pd.DataFrame":
    """The detections of all videos as one table."""
    parts = list(found)
    segments = np.concatenate([np.empty((0, 2)), *(part.segments_s for _, part in parts)])
    return detections.table(
        [video for video, part in parts for _ in part.labels],
        [labels[number] for _, part in parts for number in part.labels],
        np.concatenate([np.empty(0), *(part.scores for _, part in parts)]),
        segments[:, 0],
        segments[:, 1],
    )


def _detect(
    grid: Grid, model: Detector, experiment: Experiment, video: str, outside: VideoScores | None
) -> Found:
    """What is found in one video."""
    cut = windows(grid.num_steps(video), experiment.predict)
    parts = list(_candidates(grid, model, experiment, video, cut))
    merged = merge(parts, cut, experiment.predict)
    segments, scores, numbers = suppress(
        merged.segments.numpy(), merged.scores.numpy(), merged.labels.numpy(), experiment.nms
    )
    timeline, duration_s = grid.timeline(video), grid.base.entry(video).duration_s
    seconds = timeline.to_seconds(segments.astype(np.float64)).clip(0.0, duration_s)
    inside = seconds[:, 1] > seconds[:, 0]  # a point in the padding can say what lies outside
    found = Found(seconds[inside], scores[inside], numbers[inside])
    if outside is None:
        return found
    index, fused, labels = video_scores.fuse(
        found.scores,
        found.labels,
        outside.of(video),
        top_k=experiment.predict.external_top_k,
        fusion=experiment.predict.external_fusion,
        class_agnostic=model.class_agnostic,
    )
    return Found(found.segments_s[index], fused, labels)


@torch.inference_mode()
def _candidates(
    grid: Grid, model: Detector, experiment: Experiment, video: str, cut: list[tuple[int, int]]
) -> Iterator[Candidates]:
    """Candidates of one video in steps of its grid, window by window."""
    device = next(model.parameters()).device
    for start, stop in cut:
        feats = grid.read(video, start, stop)
        sample = Sample(
            video=video,
            feats={stream: torch.from_numpy(array) for stream, array in feats.items()},
            segments=torch.empty(0, 2),
            labels=torch.empty(0, dtype=torch.int64),
            labelled=False,
            timeline=grid.timeline(video).cropped(start),
        )
        batch = experiment.data.batch([sample]).to(device)
        [found] = model.joint_head.decode(model.detect(batch.feats, batch.mask))
        yield Candidates(found.segments + start, found.scores, found.labels)
