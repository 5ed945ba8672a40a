"""The command ``gates``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tad_distill import console

if TYPE_CHECKING:
    from tad_distill.data.annotations import AnnotationSet
    from tad_distill.evaluate.gates import Probes

EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
DETECTIONS = {"rgb": "RGB only", "teacher": "teacher", "two_stream": "two-stream"}

# With more motion than this in the RGB features a teacher had no effect when labels were plentiful.
TEACHER_LEAD_POINTS = 7.0


@click.command(name="gates", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--store",
    "store_path",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="The feature store that holds both streams.",
)
@click.option("--annotations", type=EXISTING, required=True, help="What is true: JSON or CSV.")
@click.option("--rgb-stream", required=True, help="As tsm_mini:rgb.")
@click.option("--teacher-stream", required=True, help="As tsm_mini:tg_luma.")
@click.option("--rgb", type=EXISTING, help="Detections of the RGB-only model, for G2 and G3.")
@click.option("--teacher", type=EXISTING, help="Detections of the teacher, for G3.")
@click.option("--two-stream", type=EXISTING, help="Detections of the two-stream model.")
@click.option("--train-subset", default="training", show_default=True, help="Trains the probes.")
@click.option(
    "--subset", default="validation", show_default=True, help="Everything is scored here."
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write all figures to this file.",
)
@click.option("--strict", is_flag=True, help="Exit with 1 if a gate fails or is not measured.")
@click.pass_context
def gates(
    ctx: click.Context,
    store_path: Path,
    annotations: Path,
    rgb_stream: str,
    teacher_stream: str,
    rgb: Path | None,
    teacher: Path | None,
    two_stream: Path | None,
    train_subset: str,
    subset: str,
    json_path: Path | None,
    strict: bool,
) -> None:
    """Measure whether this data can show an effect of a motion teacher, before distilling.

    Linear probes say what the features know (object, motion, action against background); the
    detections, where given, what the detectors make of it. Takes seconds.
    """
    from tad_distill.data import annotations as annotation_files
    from tad_distill.data.store import Store
    from tad_distill.evaluate.gates import as_dict, check, probe_stream, table_rows

    truth = annotation_files.read(annotations)
    train, scored = truth.subset(train_subset), truth.subset(subset)
    store = Store.open(store_path)
    of_rgb = probe_stream(store.stream(rgb_stream), train, scored)
    of_teacher = probe_stream(store.stream(teacher_stream), train, scored)
    files = {"rgb": rgb, "teacher": teacher, "two_stream": two_stream}
    mean_ap = _mean_ap(scored, {name: path for name, path in files.items() if path})
    found = check(of_rgb, of_teacher, mean_ap)
    show_probes([of_rgb, of_teacher])
    columns = ("gate", "measured, points", "value", "bar", "outcome")
    console.table(columns, table_rows(found), title=f"gates on {subset}", align_left=2)
    advise(found[0].value)
    if json_path:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        subsets = {"train_subset": train_subset, "subset": subset}
        document = subsets | as_dict(of_rgb, of_teacher, mean_ap, found)
        json_path.write_text(json.dumps(document, indent=1) + "\n")
    if strict and not all(gate.passed for gate in found if gate.binding):
        ctx.exit(console.FAILED)


def _mean_ap(scored: "AnnotationSet", files: Mapping[str, Path]) -> dict[str, float]:
    """Average mAP in points of each file's detections in the scored videos."""
    from tad_distill.evaluate import detections as detection_files
    from tad_distill.evaluate.gates import TIOU
    from tad_distill.evaluate.mean_ap import mean_ap

    points = {}
    for name, path in files.items():
        found = detection_files.read(path)
        inside = found[found["video"].isin(scored.videos.keys())]
        if len(inside) < len(found):
            num_left_out = len(found) - len(inside)
            console.log("detections_of_other_videos", path=path, left_out=num_left_out)
        points[name] = 100 * mean_ap(scored.table(), inside, TIOU).average_mAP
        console.log("mean_ap", model=DETECTIONS[name], average_mAP=points[name])
    return points


def show_probes(probes: list["Probes"]) -> None:
    """Print what the features of some streams know."""
    rows: list[tuple[str, ...]] = []
    for probe in probes:
        rows += [
            (
                probe.stream,
                task,
                f"{100 * a.mean:.1f}",
                f"{100 * a.mean_std:.1f}",
                f"{100 * a.chance:.1f}",
            )
            for task, a in probe.accuracy.items()
        ]
        rows.append((probe.stream, "action AUC", f"{100 * probe.action_auc:.1f}", "-", "50.0"))
    first = probes[0]
    title = f"probes, per cent; {first.num_train} segments to train, {first.num_scored} to score"
    console.table(("stream", "probe", "mean", "mean+std", "chance"), rows, title, align_left=2)


def advise(lead: float | None) -> None:
    """Say when a teacher is unlikely to help: its lead in the motion probe, in points."""
    if lead is not None and lead < TEACHER_LEAD_POINTS:
        console.warn(
            f"the teacher knows {lead:.1f} points more of motion than the RGB features; below "
            f"{TEACHER_LEAD_POINTS:g} it is unlikely to help unless labels are scarce"
        )
