"""The command ``data check``: it opens videos, features and detections, so it joins all stages."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tad_distill import console
from tad_distill.console import FAILED, UsageError, result

if TYPE_CHECKING:
    from tad_distill.data.check import FileFacts, Report

# So many mismatches of a kind are printed; --all and --json give every one.
NUM_SHOWN = 20


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--annotations",
    "annotation_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="JSON or CSV in any of the usual forms.",
)
@click.option("--subset", help="Look at this subset only, as 'test'.")
@click.option(
    "--videos",
    type=click.Path(path_type=Path),
    help="A folder of video files, or a .txt list of them.",
)
@click.option("--decode", is_flag=True, help="Decode every file to its end: slow, finds damage.")
@click.option("--store", "store_path", type=click.Path(path_type=Path), help="A feature store.")
@click.option(
    "--detections",
    "detections_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Detections, JSON or CSV.",
)
@click.option(
    "--info",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A table of frame rates, durations and subsets for what the annotations lack.",
)
@click.option(
    "--fps", type=float, help="Frame rate for annotations that count in frames and state none."
)
@click.option(
    "--tolerance",
    "tolerance_s",
    type=click.FloatRange(min=0),
    default=0.5,
    show_default=True,
    help="Seconds by which durations may differ.",
)
@click.option("--ignore", multiple=True, metavar="KIND", help="Pass over this kind of mismatch.")
@click.option("--all", "show_all", is_flag=True, help="Print every mismatch.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def check(
    annotation_path: Path,
    subset: str | None,
    videos: Path | None,
    decode: bool,
    store_path: Path | None,
    detections_path: Path | None,
    info: Path | None,
    fps: float | None,
    tolerance_s: float,
    ignore: tuple[str, ...],
    show_all: bool,
    as_json: bool,
) -> int:
    """Hold annotations, videos, features and detections against each other.

    Every mismatch is named; the exit code is 1 if there is one and 0 if there is none.
    """
    from tad_distill.data import annotations as annotation_files
    from tad_distill.data.check import KINDS, Checker
    from tad_distill.extract import sources

    for kind in ignore:
        if kind not in KINDS:
            raise UsageError(f"--ignore {kind}: expected one of {', '.join(KINDS)}")
    policy = annotation_files.Policy(out_of_range="keep", fps=fps)
    whole = annotation_files.read(annotation_path, policy, info)
    checker = Checker(whole.subset(subset) if subset else whole, tolerance_s)
    checker.also_known(whole.videos)
    checker.annotations()
    if videos:
        checker.files(sources.find([videos]), _decoded if decode else _probed)
    if store_path:
        from tad_distill.data.store import Store

        store = Store.open(store_path)
        for name in store.streams():
            checker.stream(store.stream(name))
    if detections_path:
        from tad_distill.evaluate import detections

        found = detections.load(detections_path)
        checker.detections(found.table, found.videos)
    report = checker.report.without(ignore)
    if as_json:
        _show_json(report)
    else:
        _show(report, None if show_all else NUM_SHOWN)
    return FAILED if report.mismatches else console.DONE


def _show_json(report: "Report") -> None:
    document = {
        "checked": report.checked,
        "counts": report.counts(),
        "hints": report.hints,
        "mismatches": [asdict(mismatch) for mismatch in report.mismatches],
    }
    result(json.dumps(document, indent=1))


def _show(report: "Report", limit: int | None) -> None:
    from tad_distill.data.check import KINDS

    result("checked: " + ", ".join(f"{count} {what}" for what, count in report.checked.items()))
    for kind, count in report.counts().items():
        result(f"{kind}: {count} ({KINDS[kind]})")
        of_kind = [mismatch for mismatch in report.mismatches if mismatch.kind == kind]
        for mismatch in of_kind[:limit]:
            result(f"  {mismatch.video}: {mismatch.where}: {mismatch.message}")
        if limit is not None and count > limit:
            result(f"  ... and {count - limit} more: --all or --json")
    for hint in report.hints:
        result(f"hint: {hint}")
    result(f"{len(report.mismatches)} mismatches" if report.mismatches else "no mismatch")


def _probed(path: Path) -> "FileFacts":
    """What the container claims, after one frame was decoded."""
    from tad_distill.data.check import FileFacts
    from tad_distill.extract import video

    return FileFacts(video.probe(path).duration_s)


def _decoded(path: Path) -> "FileFacts":
    """What decoding to the end finds."""
    from tad_distill.data.check import FileFacts
    from tad_distill.extract import video

    decoder = video.Decoder(path)
    for _ in decoder:
        pass
    return FileFacts(decoder.decoded.duration_s, tuple(decoder.decoded.warnings))
