"""Scores as a table on the terminal, in percent, and as JSON, as fractions of 1."""

from pathlib import Path
from typing import Any

from tad_distill import __version__, console
from tad_distill.config import dump
from tad_distill.evaluate.protocols import Result


def document(result: Result) -> dict[str, Any]:
    """All of a result as plain values; what ``eval --json`` writes."""
    scores, protocol = result.scores, result.protocol
    return {
        "protocol": protocol.name,
        "subset": result.subset,
        "tiou": list(scores.tiou),
        "mAP": [float(value) for value in scores.mAP],
        "average_mAP": scores.average_mAP,
        "ap_per_class": {
            label: [float(value) for value in ap] for label, ap in scores.ap_per_class.items()
        },
        "num_videos": result.num_videos,
        "num_annotations": scores.num_annotations,
        "num_detections": scores.num_detections,
        "removed": result.removed,
        "found": result.found,
        "rules": {
            "policy": dump(protocol.policy),
            "excluded": list(protocol.excluded),
            "unknown_videos": protocol.unknown_videos,
            "tie_order": protocol.tie_order,
            "empty_overlap": protocol.empty_overlap,
        },
        "seconds": {name: round(value, 4) for name, value in result.seconds.items()},
        "software": {"tad-distill": __version__},
    }


def show(result: Result, source: Path, per_class: bool = False) -> None:
    """Print the mAP by threshold, and above it on what it stands."""
    scores = result.scores
    subset = f"subset {result.subset}" if result.subset else "all subsets"
    console.result(
        f"{source}: protocol {result.protocol.name}, {subset}: {result.num_videos} videos, "
        f"{scores.num_annotations} annotations, {scores.num_detections} detections"
    )
    for title, counts in (("left out", result.removed), ("found", result.found)):
        told = [f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count]
        if told:
            console.result(f"{title}: {', '.join(told)}")
    columns = ["AP (%) at tIoU", *(f"{t:.4g}" for t in scores.tiou), "average"]
    rows = [["mAP", *_percents([*scores.mAP, scores.average_mAP])]]
    if per_class:
        rows += [[label, *_percents([*ap, ap.mean()])] for label, ap in scores.ap_per_class.items()]
    console.table(columns, rows)


def _percents(values: list[float]) -> list[str]:
    return [f"{100 * value:.2f}" for value in values]
