"""Why a detector's mAP is what it is: errors by type, strengths and misses by characteristic.

After DETAD: Alwassel, Caba Heilbron, Escorcia and Ghanem, "Diagnosing Error in Temporal Action
Detectors", ECCV 2018.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tad_distill.evaluate.diagnosis import errors, matches, strata
from tad_distill.evaluate.diagnosis.characteristics import BinSet, describe
from tad_distill.evaluate.diagnosis.errors import MIN_OVERLAP, NUM_GROUPS, TYPES, Codes, Errors
from tad_distill.evaluate.diagnosis.strata import MIN_PRECISION, Stratum

if TYPE_CHECKING:
    from tad_distill.evaluate.protocols import Result

__all__ = ["TYPES", "BinSet", "Diagnosis", "diagnose", "document"]


@dataclass(frozen=True)
class Diagnosis:
    """What :func:`diagnose` found. Fractions of 1.

    Attributes:
        tiou: The thresholds.
        mAP: Average mAP of all detections.
        mAP_N: The same, normalised: as if every label had the mean number of annotations.
        errors: False positives by type, and what each type costs.
        strata: Sensitivity and misses by characteristic.
        missed: Share of all annotations that are missed, the mean over thresholds.
        types: ``(T, N)`` for every row of the table of detections its place in ``TYPES``; -1
            where the label is none of the annotations'.
    """

    tiou: tuple[float, ...]
    mAP: float
    mAP_N: float
    errors: Errors
    strata: list[Stratum]
    missed: float
    types: Codes


def diagnose(
    result: "Result", durations_s: Mapping[str, float | None], bins: BinSet = "auto"
) -> Diagnosis:
    """Diagnose what was scored.

    Args:
        result: Detections and annotations, matched under a protocol.
        durations_s: Length of each video, where it is known.
        bins: Whose bins for the characteristics; ``auto`` goes by the protocol, see
            :func:`tad_distill.evaluate.diagnosis.characteristics.describe`.
    """
    found = matches.find(result, min(MIN_OVERLAP, *result.protocol.tiou))
    codes = errors.types(found)
    if bins == "auto":
        name = result.protocol.name.partition("-")[0]
        bins = "thumos" if name == "thumos" else "activitynet" if name == "activitynet" else bins
    hits = strata.hits_of(found)
    mean, mean_n = strata.mean_precision(found, hits)
    types = np.full((len(codes), len(result.detections)), -1, dtype=np.int8)
    types[:, found.matching.row] = codes
    return Diagnosis(
        tiou=found.matching.tiou,
        mAP=mean,
        mAP_N=mean_n,
        errors=errors.analyse(found, codes),
        strata=strata.analyse(found, hits, describe(result.annotations, durations_s, bins)),
        missed=float(strata.missed(found, hits).mean()),
        types=types,
    )


def document(diagnosis: Diagnosis) -> dict[str, Any]:
    """All of a diagnosis but the type of each detection, as plain values; ``None`` for NaN."""
    found = diagnosis.errors
    return {
        "method": "DETAD (Alwassel et al., ECCV 2018)",
        "tiou": list(diagnosis.tiou),
        "average_mAP": diagnosis.mAP,
        "average_mAP_N": diagnosis.mAP_N,
        "missed": diagnosis.missed,
        "missed_below_precision": MIN_PRECISION,
        "false_positives": {
            "groups": [f"{g + 1}G" for g in range(NUM_GROUPS)],
            "shares": {name: _plain(found.shares[:, i]) for i, name in enumerate(TYPES)},
            "average_mAP": found.mAP,
            "average_mAP_N": found.mAP_N,
            "gain": found.gain,
            "gain_N": found.gain_N,
            "gain_without_false_positives": found.gain_all,
            "lost_to_missed_annotations": found.missed,
            "mixups": [mixup._asdict() for mixup in found.mixups],
        },
        "characteristics": {
            stratum.of.name: {
                "about": stratum.of.about,
                "bins_of": stratum.of.edges,
                "bins": list(stratum.of.bins),
                "ranges": list(stratum.of.ranges),
                "num_annotations": stratum.num_annotations.tolist(),
                "num_unknown": int((stratum.of.bin_of < 0).sum()),
                "average_mAP_N": _plain(stratum.mAP_N),
                "missed": _plain(stratum.missed),
            }
            for stratum in diagnosis.strata
        },
    }


def _plain(values: "np.typing.NDArray[np.float64]") -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
