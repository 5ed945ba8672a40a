"""A diagnosis as tables on the terminal, in percent."""

import numpy as np

from tad_distill import console
from tad_distill.evaluate.diagnosis import Diagnosis
from tad_distill.evaluate.diagnosis.errors import NUM_GROUPS, TYPES

# So many pairs of labels that are mixed up are printed.
MAX_MIXUPS = 5


def show(diagnosis: Diagnosis) -> None:
    """Print what each type of error costs, and how each kind of annotation is detected."""
    found = diagnosis.errors
    console.result("")
    rows = []
    for i, name in enumerate(TYPES):
        gain = f"{100 * found.gain[name]:+.2f}" if i else ""
        gain_n = f"{100 * found.gain_N[name]:+.2f}" if i else ""
        rows.append([name, _percent(found.shares[0, i]), _percent(_of_all(diagnosis, i)),
                     gain, gain_n])  # fmt: skip
    console.table(
        [
            "type (DETAD)",
            "of the top G",
            f"of the top {NUM_GROUPS}G",
            "mAP without",
            "mAP_N without",
        ],
        rows,
        title="detections by type, percent; what average mAP gains without such errors, points",
    )
    console.result(
        f"without any false positive: {100 * found.gain_all:+.2f}; "
        f"lost to missed annotations: {100 * found.missed:.2f}"
    )
    for mixup in found.mixups[:MAX_MIXUPS]:
        console.result(
            f"mixed up: {mixup.annotated} detected as {mixup.detected}, {mixup.times:.1f} times"
        )
    console.result("")
    rows = []
    for stratum in diagnosis.strata:
        bins = zip(stratum.of.bins, stratum.of.ranges, strict=True)
        for (name, held), number, score, missed in zip(
            bins, stratum.num_annotations, stratum.mAP_N, stratum.missed, strict=True
        ):
            if number:
                rows.append([stratum.of.name, name, held, number, _percent(score),
                             _percent(missed)])  # fmt: skip
    total = [str(num_annotations(diagnosis)), _percent(diagnosis.mAP_N), _percent(diagnosis.missed)]
    console.table(
        ["annotations by", "bin", "holds", "number", "average mAP_N", "missed"],
        [*rows, ["all", "", "", *total]],
        title="strengths and misses, percent",
        align_left=3,
    )


def num_annotations(diagnosis: Diagnosis) -> int:
    """How many annotations were diagnosed."""
    return len(diagnosis.strata[0].of.bin_of)


def _of_all(diagnosis: Diagnosis, code: int) -> float:
    """The share of a type among all groups together."""
    counts = diagnosis.errors.counts.sum(axis=(0, 1))
    return float(counts[code] / counts.sum()) if counts.any() else float("nan")


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.1f}"
