"""The command ``eval compare``."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tad_distill import console
from tad_distill.evaluate.options import EXISTING, WRITTEN, rules, scoring_options

if TYPE_CHECKING:
    from tad_distill.evaluate.matching import TieOrder
    from tad_distill.evaluate.paired import Comparison
    from tad_distill.evaluate.protocols import Result, UnknownVideos


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("first", type=EXISTING)
@click.argument("second", type=EXISTING)
@scoring_options
@click.option(
    "--bootstrap",
    "num_draws",
    type=click.IntRange(min=1),
    metavar="N",
    default=1000,
    show_default=True,
    help="Draws of videos for the intervals.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the draws; by default 0.")
@click.option(
    "--top",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="List so many of the largest gains and losses among labels and videos.",
)
@click.option("--json", "json_path", type=WRITTEN, help="Write all figures to this file.")
def compare(
    first: Path,
    second: Path,
    annotations: Path,
    subset: str | None,
    protocol_name: str,
    tiou: str | None,
    info: Path | None,
    exclude: Path | None,
    unknown_videos: "UnknownVideos | None",
    tie_order: "TieOrder | None",
    num_draws: int,
    seed: int,
    top: int,
    json_path: Path | None,
) -> None:
    """Say whether SECOND is better than FIRST, how surely, and where: detections of two detectors.

    Differences are SECOND less FIRST, in points of mAP; the file of --json holds fractions of 1.
    Intervals are for 95 % over draws of the same videos for both. What a video contributes is the
    difference with it less the difference without it.
    """
    from tad_distill.data import annotations as annotation_files
    from tad_distill.data.files import write_text
    from tad_distill.evaluate import detections as detection_files
    from tad_distill.evaluate import paired
    from tad_distill.evaluate.protocols import score

    protocol = rules(protocol_name, tiou, unknown_videos, tie_order, exclude)
    truth = annotation_files.read(annotations, protocol.policy, info)
    results = [
        score(truth, detection_files.read(path), protocol, subset) for path in (first, second)
    ]
    a, b = (result.matching for result in results)
    comparison = paired.compare(a, b, results[0].videos, num_draws, seed)
    _show((first, second), results[0], comparison, top)
    if json_path:
        sources = {"first": str(first), "second": str(second), "annotations": str(annotations)}
        document = sources | _document(results[0], comparison)
        write_text(json_path, json.dumps(document, indent=1) + "\n")


def _document(result: "Result", found: "Comparison") -> dict[str, Any]:
    """A comparison as plain values; fractions of 1."""
    return {
        "protocol": result.protocol.name,
        "subset": result.subset,
        "tiou": list(found.tiou),
        "num_videos": result.num_videos,
        "num_annotations": result.scores.num_annotations,
        "mAP": {"first": found.first.tolist(), "second": found.second.tolist()},
        "average_mAP": {"first": float(found.first.mean()), "second": float(found.second.mean())},
        "difference": {
            "average_mAP": found.difference,
            "interval": asdict(found.interval),
            "mAP": (found.second - found.first).tolist(),
            "intervals": [asdict(interval) for interval in found.intervals],
        },
        "draws": asdict(found.draws),
        "labels": [asdict(label) for label in found.labels],
        "videos": [asdict(video) for video in found.videos],
    }


def _show(paths: tuple[Path, Path], result: "Result", found: "Comparison", top: int) -> None:
    """Print the difference, then what moved most."""
    subset = f"subset {result.subset}" if result.subset else "all subsets"
    console.result(
        f"protocol {result.protocol.name}, {subset}: {result.num_videos} videos, "
        f"{result.scores.num_annotations} annotations\nfirst   {paths[0]}\nsecond  {paths[1]}"
    )
    rows = [
        [name, *_points([*values, values.mean()])]
        for name, values in (("first", found.first), ("second", found.second))
    ]
    difference = found.second - found.first
    intervals = [*found.intervals, found.interval]
    rows.append(["difference", *_points([*difference, found.difference], signed=True)])
    rows.append(["  low", *_points([i.low for i in intervals], signed=True)])
    rows.append(["  high", *_points([i.high for i in intervals], signed=True)])
    console.table(["mAP (%) at tIoU", *(f"{t:.4g}" for t in found.tiou), "average"], rows)
    draws = found.draws
    undefined = f" ({draws.num_undefined} without annotation left out)"
    console.result(
        f"second ahead in {100 * draws.above_zero:.1f} % of {draws.num_samples} draws of "
        f"{draws.num_videos} videos, seed {draws.seed}{undefined if draws.num_undefined else ''}; "
        f"low, high: {100 * draws.share:g} % of the draws, less their bias of "
        f"{100 * found.interval.bias:+.2f} (average)"
    )
    labels = [
        [label.name, label.num_annotations, *_points([label.first, label.second]),
         *_points([label.difference, label.interval.low, label.interval.high], signed=True)]
        for label in found.labels if label.difference
    ]  # fmt: skip
    _show_ends(
        ["label", "annotations", "first", "second", "difference", "low", "high"], labels, top
    )
    videos = [
        [video.name, video.num_annotations, f"{video.first:.1f}", f"{video.second:.1f}",
         *_points([video.contribution], signed=True)]
        for video in found.videos if video.contribution
    ]  # fmt: skip
    _show_ends(["video", "annotations", "found by first", "by second", "contribution"], videos, top)


def _show_ends(columns: list[str], rows: list[list[Any]], top: int) -> None:
    """Print the first and the last rows of a table that runs from gains to losses."""
    if not top or not rows:
        return
    left_out = len(rows) - 2 * top
    if left_out > 0:
        between = [f"({left_out} between)", *("" for _ in columns[1:])]
        rows = [*rows[:top], between, *rows[-top:]]
    console.table(columns, rows)


def _points(values: list[float], signed: bool = False) -> list[str]:
    return [f"{100 * value:{'+' if signed else ''}.2f}" for value in values]
