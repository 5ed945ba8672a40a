"""The command ``eval``."""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tad_distill import console
from tad_distill.console import UserError
from tad_distill.evaluate.command_group import Below, CommandGroup
from tad_distill.evaluate.options import EXISTING, WRITTEN, rules, scoring_options
from tad_distill.evaluate.report_options import Named, ReportOptions, report_options

if TYPE_CHECKING:
    import pandas as pd

    from tad_distill.data.annotations import AnnotationSet
    from tad_distill.evaluate.matching import TieOrder
    from tad_distill.evaluate.protocols import Result, UnknownVideos


# Commands below ``eval``; their help lines stand here so that --help imports nothing.
BELOW = {
    "compare": Below(
        "evaluate.compare_command", "compare", "Is one detector better than another, and where?"
    ),
    "tables": Below(
        "evaluate.tables_command", "tables", "Scored runs in the rows of the paper's tables."
    ),
}


@click.command(
    cls=CommandGroup,
    name="eval",
    below=BELOW,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("detections", type=EXISTING)
@scoring_options
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
    "--timeline",
    type=WRITTEN,
    help="Draw one video, annotations against detections, as PNG, PDF or SVG.",
)
@click.option("--video", help="The video to draw, by default the one with most annotations.")
@click.option(
    "--compare",
    type=Named(),
    multiple=True,
    help="Detections of another detector to show beside, as 'RGB only=rgb.json'; may be repeated.",
)
@report_options
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
    compare: tuple[tuple[str, Path], ...],
    reporting: ReportOptions,
) -> None:
    """Score DETECTIONS (JSON or CSV) against annotations: mAP under a named protocol.

    Beside it recall: recall@kx lets k times as many detections of a label count in a video as it
    has annotations; AR@N lets N detections a video count, whatever their labels.

    The table is in percent; the file of --json holds fractions of 1.
    """
    from tad_distill.data import annotations as annotation_files
    from tad_distill.data.files import write_text
    from tad_distill.evaluate import detections as detection_files
    from tad_distill.evaluate import diagnosis, report, report_files
    from tad_distill.evaluate.bootstrap import bootstrap
    from tad_distill.evaluate.figures import check_format
    from tad_distill.evaluate.protocols import score
    from tad_distill.evaluate.recall import recalls

    if timeline:
        check_format(timeline)
    protocol = rules(protocol_name, tiou, unknown_videos, tie_order, exclude)
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
    detector = None
    if reporting.wanted:
        detector = report_files.look(result, truth, found, detections, reporting)
    if json_path:
        sources = {"detections": str(detections), "annotations": str(annotations)}
        recalled = {"recall": report.recall_document(*recall)}
        document = sources | report.document(result) | recalled
        if "provenance" in found.header:
            document["provenance"] = found.header["provenance"]
        document |= {"bootstrap": asdict(drawn)} if drawn else {}
        document |= {"diagnosis": diagnosis.document(detector.diagnosis)} if detector else {}
        write_text(json_path, json.dumps(document, indent=1) + "\n")
    if detector:
        report_files.write(detector, truth, compare, reporting)
    if timeline:
        others = [(name or path.stem, detection_files.read(path)) for name, path in compare]
        _draw(timeline, truth, result, [(detections.stem, found.table), *others], video)


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
