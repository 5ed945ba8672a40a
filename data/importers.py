"""Take features that other programs made into a store.

Each form of files turns into a list of :class:`Source`; what is wrong with one of them is one
line that names it, and the others go on.
"""

import hashlib
import statistics
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from tad_distill.console import UsageError, UserError, check_stop, progress, warn
from tad_distill.data import annotation_forms
from tad_distill.data.annotation_raw import VideoInfo
from tad_distill.data.durable import WriteError
from tad_distill.data.foreign import FORMS, Selection, Source
from tad_distill.data.spec import check_name
from tad_distill.data.store import Store, StreamSpec, Writer

# Videos that become one shard.
UNIT_SIZE = 256

# Sources that are looked at to find how many channels a new stream has.
_NUM_PEEKED = 5

# What numpy, pandas and h5py raise for files that are not what they should be.
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, RuntimeError, BadZipFile, zlib.error)


@dataclass(frozen=True, kw_only=True)
class Clock:
    """When the features are, in the words of :class:`~tad_distill.data.spec.StreamSpec`.

    Attributes:
        fps: Of the frames that all features were made from; ``None``: each video's own.
        info: What is known about single videos.
        evenly: The rows divide each video evenly. A row is then taken as one frame, and a video
            has as many frames per second as it has rows in its duration.
    """

    fps: float | None
    info: dict[str, VideoInfo]
    info_path: Path | None
    evenly: bool
    clip_frames: float
    stride_frames: float
    offset_frames: float

    @classmethod
    def of(
        cls,
        *,
        fps: float | None = None,
        fps_from: Path | None = None,
        evenly: bool = False,
        clip_frames: float | None = None,
        stride_frames: float | None = None,
        offset_frames: float | None = None,
    ) -> "Clock":
        """Check what the user has said about time.

        Raises:
            UsageError: It is not enough, or too much.
        """
        info = annotation_forms.read_info(fps_from) if fps_from else {}
        if evenly:
            if (fps, clip_frames, stride_frames, offset_frames) != (None,) * 4 or not fps_from:
                raise UsageError(
                    "--evenly needs durations by --fps-from FILE, and goes without --fps, "
                    "--clip-frames, --stride-frames and --offset-frames"
                )
            clip_frames = stride_frames = 1.0
        elif fps is None and fps_from is None:
            raise UsageError("name the frames per second: --fps 30 or --fps-from annotations.json")
        if clip_frames is None or stride_frames is None:
            raise UsageError("name --clip-frames and --stride-frames, as in 16 and 4 (or --evenly)")
        return cls(
            fps=fps,
            info=info,
            info_path=fps_from,
            evenly=evenly,
            clip_frames=clip_frames,
            stride_frames=stride_frames,
            offset_frames=clip_frames / 2 if offset_frames is None else offset_frames,
        )

    def of_video(self, video: str, num_steps: int) -> tuple[float, float | None]:
        """Frames per second and duration of a video.

        Raises:
            UserError: The table does not say.
        """
        known = self.info.get(video)
        duration = known.duration_s if known else None
        if self.evenly:
            if duration is None:
                raise UserError(f"no duration for video {video} in {self.info_path}")
            return num_steps / duration, duration
        fps = known.fps if known and known.fps is not None else self.fps
        if fps is None:
            raise UserError(f"no frames per second for video {video} in {self.info_path}")
        return fps, duration


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where the features go."""

    store: Path
    stream: str
    dtype: Literal["float16", "float32"] = "float16"
    note: str = ""


@dataclass
class Report:
    """How many sources there were, and what became of them."""

    num_sources: int = 0
    num_done: int = 0
    num_there: int = 0
    num_failed: int = 0


def import_features(
    form: str, path: Path, selection: Selection, clock: Clock, target: Target
) -> Report:
    """Import all that ``path`` holds; what cannot be taken is warned about and counted.

    Args:
        form: ``npy``, ``csv``, ``h5`` or ``npz``.
        path: A folder of such files, or one.
        selection: What of it.
        clock: When the features are.
        target: Where to.

    Raises:
        UserError: There is nothing to import, or the stream exists with other settings.
        WriteError: The disk is full, or any other error of writing.
    """
    report = Report()
    sources = _unique(FORMS[form](path, selection), report)
    report.num_sources = len(sources) + report.num_failed
    if not sources:
        raise UserError(f"{path}: no .{form} file with features in it")
    width = _common_width(sources, selection, clock)
    if width is None:
        for source in sources:
            _attempt(source, selection, clock, report)
        return report
    spec = _spec(form, width, selection, clock, target)
    stream = Store.create(target.store).create_stream(spec)
    with progress("import", total=len(sources)) as step:
        for first in range(0, len(sources), UNIT_SIZE):
            writer = stream.writer(f"import-{first // UNIT_SIZE:04d}")
            for source in sources[first : first + UNIT_SIZE]:
                check_stop("what was imported is kept")
                _import(source, writer, selection, clock, report)
                step(1, failed=report.num_failed)
            writer.seal()
    return report


def _import(
    source: Source, writer: Writer, selection: Selection, clock: Clock, report: Report
) -> None:
    loaded = _attempt(source, selection, clock, report)
    if loaded is None:
        return
    if writer.state(source.video, loaded.source_hash) == "done":
        report.num_there += 1
        return
    try:
        writer.commit(
            source.video,
            loaded.feats,
            fps=loaded.fps,
            duration_s=loaded.duration_s,
            source_hash=loaded.source_hash,
        )
        report.num_done += 1
    except WriteError:
        raise
    except UserError as error:
        _complain(report, f"{source.where}: {error}")


@dataclass(frozen=True)
class _Loaded:
    feats: NDArray[Any]
    source_hash: str
    fps: float
    duration_s: float | None


def _attempt(source: Source, selection: Selection, clock: Clock, report: Report) -> _Loaded | None:
    """Read a source and what is known about its video; complain about what cannot be."""
    try:
        feats, source_hash = _read(source, selection)
        fps, duration_s = clock.of_video(source.video, len(feats))
        return _Loaded(feats, source_hash, fps, duration_s)
    except UserError as error:
        _complain(report, f"{source.where}: {error}")
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        _complain(report, f"{source.where}: cannot be read ({reason}); expected a (T, C) array")
    return None


def _read(source: Source, selection: Selection) -> tuple[NDArray[Any], str]:
    """The selected features, and a hash of all that the source holds.

    Raises:
        UserError: They are no features.
    """
    array = np.asarray(source.load())
    if array.ndim != 2:
        raise UserError(f"holds an array {array.shape}, expected (T, C): a row per step")
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    if selection.channels:
        first, stop = selection.channels
        if stop > array.shape[1]:
            raise UserError(f"has {array.shape[1]} channels, --channels asks for {first}:{stop}")
        array = array[:, first:stop]
    return array, digest.hexdigest()


def _common_width(sources: Sequence[Source], selection: Selection, clock: Clock) -> int | None:
    """How many channels the first good sources have; most of them, if they differ."""
    widths = []
    for source in sources:
        try:
            feats, _ = _read(source, selection)
            clock.of_video(source.video, len(feats))
            widths.append(feats.shape[1])
        except (UserError, *_UNREADABLE):
            continue  # named when its turn comes
        if len(widths) == _NUM_PEEKED:
            break
    return statistics.mode(widths) if widths else None


def _spec(form: str, width: int, selection: Selection, clock: Clock, target: Target) -> StreamSpec:
    backbone, colon, modality = target.stream.partition(":")
    if not (backbone and colon and modality):
        raise UsageError(f"--stream {target.stream}: expected BACKBONE:MODALITY, as in i3d:rgb")
    details: dict[str, Any] = {"imported_from": form}
    if selection.channels:
        details["channels"] = list(selection.channels)
    if selection.key:
        details["key"] = selection.key
    if clock.evenly:
        details["rows"] = "divide the video evenly"
    if target.note:
        details["note"] = target.note
    return StreamSpec(
        stream=target.stream,
        backbone=backbone,
        modality=modality,
        weights={"origin": "unknown: features were imported"},
        fps=clock.fps,
        clip_frames=clock.clip_frames,
        stride_frames=clock.stride_frames,
        offset_frames=clock.offset_frames,
        shape=(width,),
        dtype=target.dtype,
        details=details,
    )


def _unique(sources: Sequence[Source], report: Report) -> list[Source]:
    """Leave out names that cannot be, and all but the first of one name."""
    first: dict[str, Source] = {}
    for source in sources:
        try:
            check_name(source.video)
        except UserError as error:
            _complain(report, f"{source.where}: {error}")
            continue
        if source.video in first:
            twin = first[source.video].where
            _complain(report, f"{source.where}: video {source.video} again, as in {twin}")
        else:
            first[source.video] = source
    return [first[video] for video in sorted(first)]


def _complain(report: Report, message: str) -> None:
    warn(message)
    report.num_failed += 1
