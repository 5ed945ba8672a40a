"""Named protocols: which videos, which annotations and which thresholds a published mAP stands on.

mAP figures of one data set are only comparable if these agree; with THUMOS'14 three lists of
videos are in use. The three follow libs/utils/metrics.py of ActionFormer at 61ea7eb,
evaluations/mAP.py of OpenTAD at 3dd7b03 and datasets/tad_eval.py of TadTR at 983ae14;
``activitynet`` follows the kit, Evaluation/eval_detection.py of activitynet/ActivityNet at 82304fa.
"""

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from tad_distill import console
from tad_distill.console import UsageError, UserError
from tad_distill.data.annotation_policy import FINDINGS
from tad_distill.data.annotations import AnnotationSet, Policy
from tad_distill.evaluate.matching import EmptyOverlap, Matching, TieOrder, match
from tad_distill.evaluate.mean_ap import Scores, scores_of

if TYPE_CHECKING:
    import pandas as pd

UnknownVideos = Literal["false_positive", "drop"]

# All that a kit keeps; the mark "Ambiguous" is no action in any of them.
KEEP = Policy(duplicates="keep", zero_length="keep", reversed="keep", out_of_range="keep")

# numpy.linspace(0.5, 0.95, 10) and linspace(0.3, 0.7, 5), which two kits use. They differ from
# 0.9 and 0.4 in the last bit, which decides about overlaps that are exactly 0.9 or 0.4.
LINSPACE_50_95 = tuple(0.5 + i * ((0.95 - 0.5) / 9) for i in range(9)) + (0.95,)
LINSPACE_30_70 = tuple(0.3 + i * ((0.7 - 0.3) / 4) for i in range(4)) + (0.7,)

# Test videos of THUMOS'14 whose annotations are in doubt: 270 shows something else, 1292 has only
# marks, 1496 is cut wrongly.
THUMOS_270, THUMOS_1292, THUMOS_1496 = (f"video_test_{i:07d}" for i in (270, 1292, 1496))


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How detections are scored.

    Attributes:
        name: What ``--protocol`` calls it.
        about: One line for the help.
        tiou: Thresholds.
        subset: The subset that is scored where none is named; ``None``: all videos.
        policy: What happens to doubtful annotations.
        excluded: Videos left out, annotations and detections.
        unknown_videos: What detections in videos without annotations are. (Detections with an
            unknown label are left out in every protocol, and counted.)
        num_videos: How many videos with annotations the published list has.
        num_annotations: How many annotations it has.
        tie_order: See :func:`tad_distill.evaluate.matching.match`.
        empty_overlap: See there.
    """

    name: str
    about: str
    tiou: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7)
    subset: str | None = None
    policy: Policy = KEEP
    excluded: tuple[str, ...] = ()
    unknown_videos: UnknownVideos = "false_positive"
    num_videos: int | None = None
    num_annotations: int | None = None
    tie_order: TieOrder = "stable_first"
    empty_overlap: EmptyOverlap = "match"


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(name="plain", about="every video and annotation of the subset as it stands"),
        Protocol(
            name="activitynet",
            about="the ActivityNet kit: as plain, validation subset, tIoU 0.5:0.95:0.05",
            tiou=LINSPACE_50_95,
            subset="validation",
        ),
        Protocol(
            name="thumos-212",
            about="ActionFormer: 212 test videos, duplicates and annotations under 1 ms dropped",
            tiou=LINSPACE_30_70,
            subset="test",
            policy=replace(KEEP, duplicates="drop", zero_length="drop", reversed="drop"),
            num_videos=212,
            num_annotations=3358,
        ),
        Protocol(
            name="thumos-211",
            about="OpenTAD: without video 270, duplicates and empty annotations dropped",
            subset="test",
            policy=replace(KEEP, duplicates="drop", zero_length="drop_empty", reversed="drop"),
            excluded=(THUMOS_270,),
            num_videos=211,
            num_annotations=3329,
        ),
        Protocol(
            name="thumos-210",
            about="G-TAD, TadTR: without 270, 1292, 1496; detections in other videos dropped",
            subset="test",
            excluded=(THUMOS_270, THUMOS_1292, THUMOS_1496),
            unknown_videos="drop",
            num_videos=210,
            num_annotations=3311,
        ),
    )
}


@dataclass(frozen=True)
class Result:
    """Scores, and on what they stand.

    Attributes:
        protocol: With the thresholds and rules that were used.
        subset: The subset that was scored; ``None``: all videos.
        scores: The scores.
        videos: Videos of the subset, those without annotations included.
        annotations: The annotations that were scored: video, label, start_s, end_s.
        detections: The detections that were scored, those with unknown labels included.
        matching: Which of them took which annotation.
        removed: How many annotations, videos and detections each rule left out.
        found: What else was counted: doubtful annotations that were kept, detections that can be
            nothing but false positives, pairs without length.
        seconds: Time by step of the work.
    """

    protocol: Protocol
    subset: str | None
    scores: Scores
    videos: tuple[str, ...]
    annotations: "pd.DataFrame"
    detections: "pd.DataFrame"
    matching: Matching
    removed: dict[str, int]
    found: dict[str, int]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def num_videos(self) -> int:
        """How many videos the subset has."""
        return len(self.videos)


def score(
    annotations: AnnotationSet,
    detections: "pd.DataFrame",
    protocol: Protocol = PROTOCOLS["plain"],
    subset: str | None = None,
) -> Result:
    """Score detections under a protocol.

    Args:
        annotations: Read with ``protocol.policy``.
        detections: Columns video, label, score, start_s, end_s.
        protocol: The rules; ``dataclasses.replace`` changes one.
        subset: A subset of the annotations, by default the protocol's.

    Raises:
        UserError: There is no such subset, it is not the list that the protocol stands for, or no
            detection fits any video or label of it.
    """
    subset = subset or protocol.subset
    whole = annotations
    if subset:
        annotations = annotations.subset(subset)
    scored = annotations.without(protocol.excluded)
    _check_list(protocol, scored)
    table = scored.table()
    _check_fit(scored, table, detections)
    kept = detections[~detections["video"].isin(protocol.excluded)]
    removed = {
        "videos_excluded": len(annotations.videos) - len(scored.videos),
        "detections_in_excluded_videos": len(detections) - len(kept),
        "detections_in_unknown_videos": 0,
    }
    if protocol.unknown_videos == "drop":
        known = kept["video"].isin(set(table["video"]))
        removed["detections_in_unknown_videos"] = int((~known).sum())
        kept = kept[known]
    matching = match(table, kept, protocol.tiou, protocol.tie_order, protocol.empty_overlap)
    scores = scores_of(matching, num_unknown_label=len(kept) - len(matching.row))
    removed["detections_with_unknown_label"] = scores.num_unknown_label
    dropped = {name: scored.counts.get(f"{name}_dropped", 0) for name in FINDINGS}
    removed |= {f"annotations_{name}": count for name, count in dropped.items()}
    found = {
        f"annotations_{name}": scored.counts.get(name, 0) - count for name, count in dropped.items()
    }
    found["videos_without_annotations"] = scored.counts["videos_without_annotations"]
    found["detections_in_videos_without_annotations"] = scores.num_unknown_video
    found["empty_overlaps"] = scores.num_empty_overlaps
    _tell(whole, scored, kept, scores)
    videos = tuple(scored.videos)
    return Result(protocol, subset, scores, videos, table, kept, matching, removed, found)


def _check_list(protocol: Protocol, scored: AnnotationSet) -> None:
    """Hold the videos against the published list.

    Raises:
        UserError: Another number of videos has annotations than in the list.
    """
    if protocol.num_videos is None:
        return
    annotated = sum(bool(video.annotations) for video in scored.videos.values())
    if annotated != protocol.num_videos:
        raise UserError(
            f"{scored.source}: protocol {protocol.name} scores {protocol.num_videos} videos with "
            f"annotations, found {annotated}; use the list it stands for or --protocol plain"
        )
    if scored.num_annotations != protocol.num_annotations:
        console.warn(
            f"{scored.source}: protocol {protocol.name} has {protocol.num_annotations} "
            f"annotations, found {scored.num_annotations}; published figures may not compare"
        )


def parse_tiou(text: str) -> tuple[float, ...]:
    """Read thresholds: ``0.3:0.7:0.1`` (both ends belong) or ``0.3,0.5``.

    Raises:
        UsageError: The text is neither, or a threshold is not above 0 and at most 1.

    >>> parse_tiou("0.3:0.7:0.1"), parse_tiou("0.5")
    ((0.3, 0.4, 0.5, 0.6, 0.7), (0.5,))
    """
    expected = f"--tiou {text}: expected FIRST:LAST:STEP or a list, as 0.3:0.7:0.1 or 0.3,0.5"
    try:
        if ":" in text:
            first, last, step = (float(part) for part in text.split(":"))
            if not (0 < step and first <= last and math.isfinite(last) and step >= 0.001):
                raise UsageError(f"{expected}; FIRST <= LAST and STEP at least 0.001")
            count = math.floor((last - first) / step + 1e-6) + 1
            # Decimals, not sums of floats: 0.3 + 3 * 0.1 is not 0.6.
            found = tuple(round(first + i * step, 10) for i in range(count))
        else:
            found = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(expected) from error
    if not all(0 < threshold <= 1 for threshold in found):
        raise UsageError(f"{expected}; thresholds are above 0 and at most 1")
    if len(set(found)) < len(found):
        raise UsageError(f"{expected}; a threshold stands twice")
    return found


def _check_fit(scored: AnnotationSet, table: "pd.DataFrame", detections: "pd.DataFrame") -> None:
    """Refuse detections of other videos or labels altogether: the mAP of 0 would mean nothing."""
    if table.empty:
        raise UserError(
            f"{scored.source}: no annotation to score among {len(scored.videos)} videos; "
            "name a subset with annotations"
        )
    if detections.empty:
        console.warn("there are no detections: every precision is 0")
        return
    for column, there in (("video", set(scored.videos)), ("label", set(table["label"]))):
        if not detections[column].isin(there).any():
            some, other = detections[column].iloc[0], min(there)
            hint = (
                "; the names differ by a leading v_"
                if {f"v_{some}", some.removeprefix("v_")} & there
                else ""
            )
            raise UserError(
                f"{scored.source}: no detection fits any {column} of the annotations: the "
                f"detections have {some!r}, the annotations {other!r}{hint}"
            )


def _tell(
    whole: AnnotationSet, scored: AnnotationSet, kept: "pd.DataFrame", scores: Scores
) -> None:
    """Log what would otherwise go unnoticed."""
    strange = kept.loc[~kept["video"].isin(set(scored.videos)), "video"]
    if len(strange):
        console.log(
            "unknown_videos",
            num_detections=len(strange),
            num_videos=strange.nunique(),
            in_other_subsets=int(strange.isin(set(whole.videos)).sum()),
            first=strange.iloc[0],
            counted_as="false positives",
        )
    if scores.num_unknown_label:
        names = kept.loc[~kept["label"].isin(set(scores.ap_per_class)), "label"]
        console.log(
            "unknown_labels",
            num_detections=len(names),
            labels=",".join(sorted(names.unique())[:5]),
            counted_as="left out",
        )
    if scores.num_empty_overlaps:
        console.log(
            "empty_overlaps",
            num_pairs=scores.num_empty_overlaps,
            meaning="detection and annotation without length: 0/0",
        )
