"""Detectors made from a few tuples, scored and diagnosed, for the tests of reports."""

from dataclasses import replace

import pandas as pd
from scoring_cases import ANNOTATION, DETECTION

from tad_distill.data.annotations import Annotation, AnnotationSet, Video
from tad_distill.evaluate.detectors import Detector, look_at
from tad_distill.evaluate.protocols import PROTOCOLS, score


def detector(
    annotations: list[tuple[str, str, float, float]],
    detections: list[tuple[str, str, float, float, float]],
    name: str = "own",
    tiou: tuple[float, ...] = (0.5,),
) -> Detector:
    """Score and diagnose detections in videos of 60 seconds."""
    table = pd.DataFrame(annotations, columns=ANNOTATION)
    videos = {
        str(video): Video(
            str(video),
            "test",
            60.0,
            None,
            tuple(
                Annotation(str(label), float(start), float(end))
                for label, start, end in part[["label", "start_s", "end_s"]].itertuples(index=False)
            ),
        )
        for video, part in table.groupby("video", sort=False)
    }
    truth = AnnotationSet(videos, tuple(sorted(table["label"].unique())), "made")
    protocol = replace(PROTOCOLS["plain"], tiou=tiou)
    found = pd.DataFrame(detections, columns=DETECTION)
    found = found.astype(dict.fromkeys(DETECTION[2:], float))
    result = score(truth, found, protocol)
    return look_at(name, f"{name}.json", {}, result, dict.fromkeys(videos, 60.0))


# Two annotations of one label in each of four videos.
TRUTH = [(video, "x", 10.0 * i, 10.0 * i + 5) for video in "abcd" for i in range(2)]


def hits(*found: str) -> list[tuple[str, str, float, float, float]]:
    """Detections that take annotations of ``TRUTH``: "a01" takes both of video a."""
    return [
        (name[0], "x", 0.9, 10.0 * int(i), 10.0 * int(i) + 5) for name in found for i in name[1:]
    ]
