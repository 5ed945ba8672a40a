"""Turn videos into streams of a feature store: one decoding pass feeds every stream.

What is finished stays finished: a video is committed when all its steps are there, so a run that
was killed, or whose disk was full, goes on with the same command. A video that cannot be decoded
is recorded with the reason and does not stop the others.
"""

import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from tad_distill import units
from tad_distill.console import UsageError, log
from tad_distill.data.store import Store
from tad_distill.data.writer import check_name
from tad_distill.extract import sources, survey
from tad_distill.extract.committing import Target
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.device import choose_device
from tad_distill.extract.encoder import Encoder
from tad_distill.extract.loop import Loop
from tad_distill.extract.report import Failure, Report
from tad_distill.extract.stream_name import StreamName

__all__ = ["ExtractConfig", "Failure", "Report", "extract"]


def extract(
    videos: list[Path],
    streams: list[str],
    store: Path,
    config: ExtractConfig,
    weights: dict[str, Path],
    *,
    unit: units.Unit = units.ALL,
    retry_failed: bool = False,
    report_file: Path | None = None,
) -> Report:
    """Extract streams of videos into a store.

    Args:
        videos: Files; a video's name in the store is the file's name without suffix.
        streams: ``BACKBONE:MODALITY`` and what may follow, see ``StreamName``.
        store: Made if it does not exist.
        config: How to extract.
        weights: For each stream a checkpoint, or ``random:SEED``; a view has those of the usual
            one, unless it has its own.
        unit: Which share of the videos to extract, the same when it is resumed.
        retry_failed: Try again what failed in an earlier run.
        report_file: Written anew, with one line of JSON per video on how it ended.

    Returns:
        What was done; look at ``failed``.

    Raises:
        UserError: Settings, weights or store do not fit together, or the store cannot be written.
        Interrupted: A signal asked for a stop; the video in flight was dropped.
    """
    start = time.monotonic()
    files = by_name(videos)
    encoders = build_encoders(streams, config, weights)
    listed = survey.survey(files, store, config)
    if unit.count > 1:
        files = {name: files[name] for name in survey.share(listed, unit)}
        log("unit_videos", unit=unit.name, videos=len(files), of=len(listed))
    expected = survey.expected_frames(listed, config.fps)
    targets = _targets(encoders, Store.open(store), unit)
    with report_file.open("w", buffering=1) if report_file else nullcontext() as lines:
        loop = Loop(targets, config, retry_failed=retry_failed, lines=lines)
        loop.run(files, expected)
    for target in targets:
        target.writer.seal()
    _log_end(loop.report, store, time.monotonic() - start)
    return loop.report


def by_name(videos: list[Path]) -> dict[str, Path]:
    """Files by the name that each video has in a store.

    Raises:
        UserError: Two have the same name, or a name is too long.
    """
    files = sources.by_name(videos)
    for name in files:
        check_name(name)
    return files


def build_encoders(
    streams: list[str], config: ExtractConfig, weights: dict[str, Path]
) -> list[Encoder]:
    """The networks of some streams; everything that can be wrong, before anything is written.

    Raises:
        UserError: Settings and weights do not fit together.
    """
    if not streams:
        raise UsageError("no streams: name at least one, as in --stream tsm18:rgb")
    usual = {name: str(replace(StreamName.parse(name), view="")) for name in streams}
    for name in sorted(weights.keys() - set(streams) - set(usual.values())):
        raise UsageError(f"weights for {name!r}, which is no stream of this run")
    # A view is of the same network as the usual one.
    given = {name: weights.get(name, weights.get(usual[name])) for name in streams}
    for name, source in given.items():
        if source is None:
            raise UsageError(
                f"stream {name!r}: no weights; give --weights {name}=FILE, or {name}=random:0 "
                "for random ones"
            )
    device = choose_device(config)
    return [Encoder(name, source, config, device) for name, source in given.items() if source]


def _targets(encoders: list[Encoder], store: Store, unit: units.Unit) -> list[Target]:
    targets = []
    for encoder in encoders:
        stream = store.create_stream(encoder.spec)
        targets.append(Target(encoder=encoder, stream=stream, writer=stream.writer(unit.name)))
    return targets


def _log_end(report: Report, store: Path, total_s: float) -> None:
    log(
        "extracted",
        store=store,
        done=len(report.done),
        skipped=len(report.skipped),
        failed=len(report.failed),
        frames=report.num_frames,
        total_s=round(total_s, 2),
        frames_per_s=round(report.num_frames / total_s, 1),
        **{name: round(value, 2) for name, value in report.seconds.items()},
    )
