"""Scores as a table on the terminal, in percent, and as JSON, as fractions of 1."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tad_distill import __version__, console
from tad_distill.config import dump
from tad_distill.evaluate.bootstrap import Bootstrap
from tad_distill.evaluate.protocols import Result
from tad_distill.evaluate.recall import NUM_PROPOSALS, AverageRecall, TopRecall


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
        "per_class": per_class(result),
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


def recall_document(top: TopRecall, average: AverageRecall) -> dict[str, Any]:
    """Recall as plain values; stands as ``recall`` in what ``eval --json`` writes."""
    return {
        "at_kx": {
            "k": list(top.k),
            "tiou": list(top.tiou),
            "mean": top.mean.tolist(),
            "per_class": {label: values.tolist() for label, values in top.per_class.items()},
        },
        "AR": {
            "tiou": list(average.tiou),
            "num_proposals": average.num_proposals.tolist(),
            "average_recall": average.average_recall.tolist(),
            "at": {str(number): average.at(number) for number in NUM_PROPOSALS},
            "auc": average.auc,
        },
    }


def per_class(result: Result) -> dict[str, dict[str, float]]:
    """How many annotations, videos and detections each label has, and its average AP."""
    found = result.matching
    rows = {}
    for k, (label, ap) in enumerate(result.scores.ap_per_class.items()):
        own = found.owner_label == k
        rows[label] = {
            "num_annotations": int(own.sum()),
            "num_videos": len(np.unique(found.owner_video[own])),
            "num_detections": int((found.label == k).sum()),
            "average_AP": float(ap.mean()),
        }
    return rows


def show(
    result: Result, source: Path, recall: tuple[TopRecall, AverageRecall], drawn: Bootstrap | None
) -> None:
    """Print on what the figures stand, then mAP and recall by threshold.

    Args:
        result: The scores.
        source: The file of detections.
        recall: Of the same detections.
        drawn: Intervals, if they were asked for.
    """
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
    top, average = recall
    rows = [["mAP", *_percents([*scores.mAP, scores.average_mAP])]]
    if drawn:
        rows += _interval_rows(drawn)
    rows += [
        [f"recall@{k}x", *_percents([*values, values.mean()])]
        for k, values in zip(top.k, top.mean, strict=True)
    ]
    console.table(["% at tIoU", *(f"{t:.4g}" for t in scores.tiou), "average"], rows)
    console.table(
        [f"% at tIoU {average.tiou[0]:.4g} to {average.tiou[-1]:.4g}",
         *(f"AR@{number}" for number in NUM_PROPOSALS), "area"],
        [["average recall", *_percents([*map(average.at, NUM_PROPOSALS), average.auc])]],
    )  # fmt: skip
    if drawn:
        console.result(
            f"low, high: {100 * drawn.share:g} % of {drawn.num_samples} draws of "
            f"{drawn.num_videos} videos, seed {drawn.seed}, less their bias of "
            f"{100 * drawn.average_mAP.bias:+.2f} (average)"
            + (f"; {drawn.num_undefined} without annotation" if drawn.num_undefined else "")
        )


def show_per_class(result: Result) -> None:
    """Print a line per label, the best first."""
    about = per_class(result)
    ap_per_class = result.scores.ap_per_class
    names = sorted(about, key=lambda label: (-about[label]["average_AP"], label))
    counts = ("num_annotations", "num_videos", "num_detections")
    columns = ["AP (%) at tIoU", *(name.removeprefix("num_") for name in counts)]
    columns += [*(f"{t:.4g}" for t in result.scores.tiou), "average"]
    console.table(
        columns,
        [
            [
                label,
                *(about[label][name] for name in counts),
                *_percents([*ap_per_class[label], about[label]["average_AP"]]),
            ]
            for label in names
        ],
    )


def _interval_rows(drawn: Bootstrap) -> list[list[str]]:
    intervals = [*drawn.mAP, drawn.average_mAP]
    ends = {"low": [i.low for i in intervals], "high": [i.high for i in intervals]}
    return [[f"  {name}", *_percents(values)] for name, values in ends.items()]


def _percents(values: Iterable[float]) -> list[str]:
    return [f"{100 * value:.2f}" for value in values]
