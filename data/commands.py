"""The commands under ``tad-distill data``. What they need is imported when they run."""

import json
from pathlib import Path
from typing import Literal

import click

from tad_distill.console import UsageError, UserError, log, result, table

STORE = click.argument("store", type=click.Path(path_type=Path))


@click.command("import")
@click.argument("form", type=click.Choice(["npy", "csv", "h5", "npz"]))
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--store", type=click.Path(path_type=Path), required=True, help="Where to.")
@click.option("--stream", required=True, help="BACKBONE:MODALITY, as in i3d:rgb.")
@click.option("--clip-frames", type=float, help="Frames that one feature saw, as in 16.")
@click.option("--stride-frames", type=float, help="Frames from one feature to the next, as in 4.")
@click.option(
    "--offset-frames", type=float, help="The centre of feature 0, in frames; half a clip if unset."
)
@click.option("--fps", type=float, help="Frames per second that the features were made at.")
@click.option(
    "--fps-from",
    type=click.Path(path_type=Path),
    help="Annotations, or a table, with every video's frames per second and duration.",
)
@click.option(
    "--evenly",
    is_flag=True,
    help="The rows divide each video evenly, however many there are (csv_mean_100); needs "
    "durations by --fps-from.",
)
@click.option("--channels", metavar="A:B", help="Take these channels only, as in 0:1024.")
@click.option("--key", help="The array to take, where npz files hold several.")
@click.option("--prefix", default="", help="Take it from the front of names, as in v_.")
@click.option("--suffix", default="", help="Take it from the end of names, as in _rgb.")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    default="float16",
    show_default=True,
    help="As stored; float16 halves the store.",
)
@click.option("--note", default="", help="Where the features come from; kept with them.")
def import_(
    form: str,
    source: Path,
    store: Path,
    stream: str,
    fps: float | None,
    fps_from: Path | None,
    evenly: bool,
    clip_frames: float | None,
    stride_frames: float | None,
    offset_frames: float | None,
    channels: str | None,
    key: str | None,
    prefix: str,
    suffix: str,
    dtype: Literal["float16", "float32"],
    note: str,
) -> None:
    """Take features made elsewhere into a store.

    \b
    npy  a folder with one (T, C) file per video (ActionFormer, OpenTAD, video_features)
    csv  a folder with one file per video, a row per step (BSN, BMN, G-TAD on ActivityNet)
    h5   files with one (T, C) dataset per video (G-TAD on THUMOS'14)
    npz  arrays by video name; or files per video; or names, offsets and joined rows (--key)

    Run it again to go on after an interruption. Sources that cannot be taken are named, the
    others are, and the exit code is 1.
    """  # noqa: D301  (\b is click's mark for a paragraph to leave alone)
    from tad_distill.data.importers import Clock, Selection, Target, import_features

    clock = Clock.of(
        fps=fps,
        fps_from=fps_from,
        evenly=evenly,
        clip_frames=clip_frames,
        stride_frames=stride_frames,
        offset_frames=offset_frames,
    )
    selection = Selection(key=key, channels=_channels(channels), prefix=prefix, suffix=suffix)
    target = Target(store=store, stream=stream, dtype=dtype, note=note)
    report = import_features(form, source, selection, clock, target)
    log("imported", stream=stream, done=report.num_done, there=report.num_there,
        failed=report.num_failed)  # fmt: skip
    result(str(store))
    if report.num_failed:
        raise UserError(
            f"{report.num_failed} of {report.num_sources} sources were not imported, see above; "
            "correct them and run the same command again"
        )


@click.command()
@STORE
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--stream",
    "streams",
    multiple=True,
    required=True,
    help="A stream; several are joined along the channels, on the grid of the first.",
)
def export(store: Path, out: Path, streams: tuple[str, ...]) -> None:
    """Write one (T, C) float32 npy file per video, as ActionFormer and OpenTAD read them.

    Prints what their settings must say about time. Videos that lack one of the streams are
    named, the others are written, and the exit code is 1.
    """
    from tad_distill.data.exporters import export_npy
    from tad_distill.data.store import Store

    report = export_npy(Store.open(store), streams, out)
    result(json.dumps(report.settings, indent=1))
    if report.failed:
        raise UserError(f"{len(report.failed)} videos were not exported, see above")


@click.command()
@STORE
@click.option("--json", "as_json", is_flag=True, help="Everything, for programs.")
@click.option("--videos", metavar="STREAM", help="List the videos of one stream instead.")
def info(store: Path, as_json: bool, videos: str | None) -> None:
    """What a store holds, stream by stream: videos done, failed and left of those listed."""
    from tad_distill.data import manifest
    from tad_distill.data.store import Store
    from tad_distill.data.summary import COLUMNS, list_videos, summarise

    opened = Store.open(store)
    if videos is not None:
        columns, rows = list_videos(opened.stream(videos))
        if as_json:
            result(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=1))
        else:
            table(columns, rows)
        return
    listed = manifest.read(store)
    streams = [summarise(opened.stream(name), listed) for name in opened.streams()]
    if as_json:
        result(json.dumps({"store": str(store), "streams": streams}, indent=1))
        return
    table(COLUMNS, [[stream[column] for column in COLUMNS] for stream in streams], align_left=1)
    for stream in streams:
        for failure in stream["failures"]:
            log("failed", stream=stream["stream"], **failure)


@click.command()
@STORE
@click.option("--quick", is_flag=True, help="Sizes and indices only: milliseconds per file.")
def verify(store: Path, quick: bool) -> None:
    """Hold a store against its checksums: one line per damaged video, and exit code 1."""
    from tad_distill.data.store import Store
    from tad_distill.data.store import verify as verify_store

    findings = verify_store(Store.open(store), quick=quick)
    for finding in findings:
        result(str(finding))
    num_damaged = sum(finding.damaged for finding in findings)
    if num_damaged:
        raise UserError(
            f"{store}: {num_damaged} findings; put them aside with: tad-distill data repair {store}"
        )
    log("verified", store=store, quick=quick, remarks=len(findings))


@click.command()
@STORE
@click.option(
    "--pack", is_flag=True, help="Also seal what workers left unsealed that will not come back."
)
def repair(store: Path, pack: bool) -> None:
    """Put damaged files aside, keep their intact videos, and print what to extract again."""
    from tad_distill.data.repair import pack_parts
    from tad_distill.data.store import Store
    from tad_distill.data.store import repair as repair_store

    opened = Store.open(store)
    done = repair_store(opened)
    packed = pack_parts(opened) if pack else []
    for stream, video in done.lost:
        result(f"{stream}\t{video}")
    log("repaired", store=store, quarantined=len(done.quarantined), salvaged=done.num_salvaged,
        lost=len(done.lost), packed=len(packed))  # fmt: skip


@click.command()
@STORE
def index(store: Path) -> None:
    """Write the index of every stream from its shards, after files were moved by hand."""
    from tad_distill.data.store import Store, rebuild_index

    opened = Store.open(store)
    for name in opened.streams():
        log("indexed", stream=name, videos=rebuild_index(opened.stream(name)))


def _channels(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, colon, stop = text.partition(":")
    if not (colon and first.isdigit() and stop.isdigit() and int(first) < int(stop)):
        raise UsageError(f"--channels {text}: expected FIRST:STOP, as in 0:1024")
    return int(first), int(stop)
