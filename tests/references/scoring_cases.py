"""Annotations with detections: the reference cases, and random ones full of edge cases."""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

CASES = (
    "anet_small classes_without_predictions degenerate_predictions duplicate_annotations "
    "duplicates empty_videos predicted_class_not_in_gt subset_filter threshold_edges thumos_full "
    "thumos_small ties_20_levels ties_all_equal tiny_hand unknown_videos "
    "unknown_videos_distinct_scores zero_length_annotations zero_length_both"
).split()
DETECTION = ["video", "label", "score", "start_s", "end_s"]
ANNOTATION = ["video", "label", "start_s", "end_s"]


@cache
def golden(shared: Path, name: str) -> dict[str, Any]:
    """A reference case as it stands in its file."""
    with gzip.open(shared / "golden" / "map" / f"{name}.json.gz") as file:
        case: dict[str, Any] = json.load(file)
    return case


def tables(case: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Annotations and detections of a case, built from it raw: readers have their own tests."""
    annotations = [
        (video, a["label"], *a["segment"])
        for video, entry in case["database"].items()
        if entry["subset"] == case["subset"]
        for a in entry["annotations"]
    ]
    detections = [
        (video, d["label"], d["score"], *d["segment"])
        for video, found in case["results"].items()
        for d in found
    ]
    return (
        pd.DataFrame(annotations, columns=ANNOTATION),
        pd.DataFrame(detections, columns=DETECTION),
    )


def random_case(seed: int, ties: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Few videos, few labels, whole seconds: whatever is odd happens often."""
    rng = np.random.default_rng(seed)
    num_annotations, num_detections = int(rng.integers(1, 40)), int(rng.integers(0, 120))

    def segments(count: int) -> tuple[np.ndarray, np.ndarray]:
        # Whole seconds: equal overlaps, exact thresholds, empty and reversed segments all occur.
        start = rng.integers(0, 12, count)
        return start.astype(float), (start + rng.integers(-1, 8, count)).astype(float)

    start, end = segments(num_annotations)
    annotations = pd.DataFrame(
        {
            "video": rng.choice(["a", "b", "c"], num_annotations),
            "label": rng.choice(["x", "y"], num_annotations),
            "start_s": start,
            "end_s": np.maximum(start, end),
        }
    )
    start, end = segments(num_detections)
    score = rng.integers(0, 8, num_detections) / 8 if ties else rng.permutation(num_detections)
    detections = pd.DataFrame(
        {
            "video": rng.choice(["a", "b", "c", "unknown"], num_detections),
            "label": rng.choice(["x", "y", "z"], num_detections),
            "score": score.astype(float),
            "start_s": start,
            "end_s": end,
        }
    )
    return annotations, detections
