"""The command ``eval``."""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tad_distill import console
from tad_distill.console import UsageError, UserError
from tad_distill.evaluate.command_group import Below, CommandGroup

if TYPE_CHECKING:
    import pandas as pd

    from tad_distill.data.annotations import AnnotationSet
    from tad_distill.evaluate.matching import TieOrder
    from tad_distill.evaluate.protocols import Protocol, Result, UnknownVideos

EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
WRITTEN = click.Path(dir_okay=False, path_type=Path)


# Commands below ``eval``; their help lines stand here so that --help imports nothing.
BELOW: dict[str, Below] = {}


@click.command(
    cls=CommandGroup,
    name="eval",
    below=BELOW,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("detections", type=EXISTING)
@click.option(
    "--annotations",
    type=EXISTING,
    required=True,
    help="What is true: JSON or CSV in any of the usual forms.",
)
@click.option("--subset", help="Score this subset, as 'test'. By default the protocol's.")
@click.option(
    "--protocol",
    "protocol_name",
    default="plain",
    show_default=True,
    help="The rules: plain, activitynet, thumos-212, thumos-211 or thumos-210.",
)
@click.option("--tiou", help="Thresholds, as 0.3:0.7:0.1 or 0.3,0.5. By default the protocol's.")
@click.option("--json", "json_path", type=WRITTEN, help="Write all figures to this file.")
@click.option("--per-class", is_flag=True, help="Print a line per label too, the best first.")
@click.option(
    "--bootstrap",
    "num_draws",
    type=click.IntRange(min=1),
    metavar="N",
    help="Intervals for 95 % from N draws of as many videos, as 1000.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the draws; by default 0.")
@click.option(
    "--info",
    type=EXISTING,
    help="A table of frame rates, durations and subsets for what the annotations lack.",
)
@click.option("--exclude", type=EXISTING, help="Leave out the videos named in this file.")
@click.option(
    "--unknown-videos",
    type=click.Choice(["false_positive", "drop"]),
    help="What detections in videos without annotations are. By default the protocol's.",
)
@click.option(
    "--tie-order",
    type=click.Choice(["stable_first", "stable_last", "numpy"]),
    help="Which of equal scores comes first: the earlier in the file (by default), the later, or "
    "what numpy's unstable sort makes of them on this processor.",
)
@click.option(
    "--timeline",
    type=WRITTEN,
    help="Draw one video, annotations against detections, as PNG, PDF or SVG.",
)
@click.option("--video", help="The video to draw, by default the one with most annotations.")
@click.option(
    "--compare",
    type=EXISTING,
    multiple=True,
    help="Detections of another detector to draw beside; may be repeated.",
)
def evaluate(
    detections: Path,
    annotations: Path,
    subset: str | None,
    protocol_name: str,
    tiou: str | None,
    json_path: Path | None,
    per_class: bool,
    num_draws: int | None,
    seed: int,
    info: Path | None,
    exclude: Path | None,
    unknown_videos: "UnknownVideos | None",
    tie_order: "TieOrder | None",
    timeline: Path | None,
    video: str | None,
    compare: tuple[Path, ...],
) -> None:
    """Score DETECTIONS (JSON or CSV) against annotations: mAP under a named protocol.

    Beside it recall: recall@kx lets k times as many detections of a label count in a video as it
    has annotations; AR@N lets N detections a video count, whatever their labels.

    The table is in percent; the file of --json holds fractions of 1.
    """
    from tad_distill.data import annotations as annotation_files
    from tad_distill.data.files import write_text
    from tad_distill.evaluate import detections as detection_files
    from tad_distill.evaluate import report
    from tad_distill.evaluate.bootstrap import bootstrap
    from tad_distill.evaluate.figures import check_format
    from tad_distill.evaluate.protocols import score
    from tad_distill.evaluate.recall import recalls

    if timeline:
        check_format(timeline)
    protocol = _rules(protocol_name, tiou, unknown_videos, tie_order, exclude)
    begin = time.perf_counter()
    truth = annotation_files.read(annotations, protocol.policy, info)
    found = detection_files.load(detections)
    middle = time.perf_counter()
    result = score(truth, found.table, protocol, subset)
    scored = time.perf_counter()
    recall = recalls(result)
    end = time.perf_counter()
    seconds = {"read": middle - begin, "score": scored - middle, "recall": end - scored}
    drawn = None
    if num_draws:
        drawn = bootstrap(result.matching, result.videos, num_draws, seed)
        seconds["bootstrap"] = time.perf_counter() - end
    result = replace(result, seconds=seconds)
    report.show(result, detections, recall, drawn)
    if per_class:
        report.show_per_class(result)
    if json_path:
        sources = {"detections": str(detections), "annotations": str(annotations)}
        recalled = {"recall": report.recall_document(*recall)}
        document = sources | report.document(result) | recalled
        document |= {"bootstrap": asdict(drawn)} if drawn else {}
        write_text(json_path, json.dumps(document, indent=1) + "\n")
    if timeline:
        others = [(path.stem, detection_files.read(path)) for path in compare]
        _draw(timeline, truth, result, [(detections.stem, found.table), *others], video)


def _rules(
    name: str,
    tiou: str | None,
    unknown_videos: "UnknownVideos | None",
    tie_order: "TieOrder | None",
    exclude: Path | None,
) -> "Protocol":
    """The named protocol with what is wanted otherwise."""
    from tad_distill.evaluate.protocols import PROTOCOLS, parse_tiou

    if name not in PROTOCOLS:
        about = "; ".join(f"{known.name} ({known.about})" for known in PROTOCOLS.values())
        raise UsageError(f"--protocol {name}: no such protocol; there are: {about}")
    protocol = PROTOCOLS[name]
    return replace(
        protocol,
        tiou=parse_tiou(tiou) if tiou else protocol.tiou,
        unknown_videos=unknown_videos or protocol.unknown_videos,
        tie_order=tie_order or protocol.tie_order,
        excluded=(*protocol.excluded, *(_names(exclude) if exclude else ())),
    )


def _names(path: Path) -> list[str]:
    """The videos that a file names, one a line or as a JSON list (or the keys of an object)."""
    from tad_distill.data.files import is_json, parse_json, read_text

    text = read_text(path)
    names = parse_json(path, text) if is_json(text) else text.split()
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: expected names of videos, found {names!r:.80}")
    return list(names)


def _draw(
    path: Path,
    truth: "AnnotationSet",
    result: "Result",
    detectors: "list[tuple[str, pd.DataFrame]]",
    name: str | None,
) -> None:
    """Draw one video of what was scored."""
    from tad_distill.evaluate import plots

    scored = truth.subset(result.subset) if result.subset else truth
    scored = scored.without(result.protocol.excluded)
    name = name or max(scored.videos, key=lambda key: len(scored.videos[key].annotations))
    if name not in scored.videos:
        raise UserError(f"{truth.source}: no video {name!r} among those that were scored")
    table = scored.table()
    of_video = table[table["video"] == name]
    found = {title: rows[rows["video"] == name] for title, rows in detectors}
    ends = [float(part["end_s"].max()) for part in (of_video, *found.values()) if len(part)]
    plots.compare(
        path,
        of_video,
        found,
        duration_s=scored.videos[name].duration_s or max(ends, default=1.0),
        title=name,
    )
    console.log("drawn", file=path, video=name)
