"""What a diagnosis says, in sentences: only what its own numbers show."""

from collections.abc import Sequence

import numpy as np

from tad_distill.evaluate import bootstrap
from tad_distill.evaluate.detectors import Detector
from tad_distill.evaluate.diagnosis import Stratum

# Draws of videos behind an interval.
NUM_DRAWS = 500

# Differences of fewer points are not worth a sentence.
MIN_POINTS = 0.5

# Bins with fewer annotations, or a smaller share of all, make no sentence.
MIN_NUMBER, MIN_SHARE = 10, 0.05


def findings(detectors: Sequence[Detector]) -> list[str]:
    """Sentences on the first detector, and on what sets it off from the others."""
    first = detectors[0]
    said = [_reading(first), *_price(first)]
    said += [line for line in (_mixups(first), _weakness(first)) if line]
    said += [_beside(first, other) for other in detectors[1:]]
    return said


def _reading(detector: Detector) -> str:
    at = detector.operating
    if not at.f1:
        return f"No detection is right at tIoU {detector.tiou:.2g}."
    return (
        f"Read from a score of {at.min_score:.2f}, where F1 is best at tIoU {detector.tiou:.2g}, "
        f"{100 * at.precision:.0f} % of the detections are right and {100 * at.recall:.0f} % of "
        "the annotations are found."
    )


def _price(detector: Detector) -> list[str]:
    errors = detector.diagnosis.errors
    worst = max(errors.gain, key=errors.gain.__getitem__)
    if errors.gain_all <= 0:
        return ["No false positive costs anything; what lacks is what is missed."]
    said = (
        f"The costliest error is {worst}: without it average mAP would be "
        f"{100 * errors.gain[worst]:.1f} points higher, without any false positive "
        f"{100 * errors.gain_all:.1f}. Annotations that are not found at all cost the remaining "
        f"{100 * errors.missed:.1f}."
    )
    return [said]


def _mixups(detector: Detector) -> str:
    mixups = detector.diagnosis.errors.mixups
    total = sum(mixup.times for mixup in mixups)
    if not mixups or total < 1:
        return ""
    pairs = ", ".join(f"{m.annotated} taken for {m.detected} ({m.times:.1f})" for m in mixups[:3])
    return (
        f"Labels most often mixed up among the best detections, of {total:.0f} times in all: "
        f"{pairs}."
    )


def _weakness(detector: Detector) -> str:
    """The characteristic whose bins differ most."""
    widest, said = 0.0, ""
    for stratum in detector.diagnosis.strata:
        bins = _solid(stratum)
        if len(bins) < 2:
            continue
        low = min(bins, key=lambda b: stratum.mAP_N[b])
        high = max(bins, key=lambda b: stratum.mAP_N[b])
        gap = float(stratum.mAP_N[high] - stratum.mAP_N[low])
        if gap > widest:
            of, widest = stratum.of, gap
            said = (
                f"It depends most on {of.name}: normalised mAP is "
                f"{100 * stratum.mAP_N[low]:.0f} % for {of.bins[low]} ({of.ranges[low]}) and "
                f"{100 * stratum.mAP_N[high]:.0f} % for {of.bins[high]} ({of.ranges[high]}); of "
                f"those {100 * stratum.missed[low]:.0f} % and {100 * stratum.missed[high]:.0f} % "
                "are missed."
            )
    return said


def _solid(stratum: Stratum) -> list[int]:
    """The bins that hold enough annotations to speak of."""
    number = stratum.num_annotations
    enough = max(MIN_NUMBER, MIN_SHARE * number.sum())
    return [b for b in range(len(number)) if number[b] >= enough]


def _beside(first: Detector, other: Detector) -> str:
    own, its = first.diagnosis.errors, other.diagnosis.errors
    gap = first.result.scores.average_mAP - other.result.scores.average_mAP
    low, high = _interval(first, other, gap)
    moved = {name: own.gain[name] - its.gain[name] for name in own.gain}
    most = max(moved, key=lambda name: abs(moved[name]))
    said = (
        f"Average mAP is {100 * abs(gap):.1f} points {'above' if gap >= 0 else 'below'} that of "
        f"{other.name}; other videos of the kind would make it {_signed(low)} to "
        f"{_signed(high)} (95 %, {NUM_DRAWS} draws), other seeds not counted."
    )
    if abs(moved[most]) < MIN_POINTS / 100:
        return said
    return said + (
        f" The price of errors differs most in {most}: {100 * own.gain[most]:.1f} points against "
        f"{100 * its.gain[most]:.1f}."
    )


def _interval(first: Detector, other: Detector, gap: float) -> tuple[float, float]:
    """How far the difference would move with other videos; both are scored on the same draws."""
    matchings = first.result.matching, other.result.matching
    names = bootstrap.population(first.result.videos, *matchings)
    weights = bootstrap.draw(len(names), NUM_DRAWS, seed=0)
    own, its = (
        bootstrap.mean_over_labels(
            bootstrap.sampled_ap(matching, weights[bootstrap.columns(names, matching)])
        )
        for matching in matchings
    )
    figures = (own - its).mean(axis=1)
    found = bootstrap.interval(figures[~np.isnan(figures)], gap, 0.95)
    return found.low, found.high


def _signed(share: float) -> str:
    """Points with their sign."""
    return f"{100 * share:+.1f}".replace("-", "−")
