"""Cross-validation on a set of videos: contiguous folds, the same labels in each."""

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np

from tad_distill.console import UserError
from tad_distill.data.annotations import AnnotationSet, Video
from tad_distill.evaluate.figures import in_reading_order

FEWEST = 3


def fold(annotations: AnnotationSet, number: int, count: int) -> AnnotationSet:
    """The annotations with the subsets of one fold in place of their own.

    The videos of each label (a video's most frequent one) are cut into ``count`` runs in reading
    order of their names, because neighbouring names often come from one source, which must not
    stand on both sides of a split. Of each label one run is ``test``, the next one ``validation``,
    the others are ``training``. Videos without annotations are ``training``: only a teacher's
    lessons can use them.

    Args:
        annotations: All videos.
        number: The fold, from 0.
        count: How many folds there are.

    Raises:
        UserError: Fewer than three folds, or more folds than videos with annotations.
    """
    annotated = [video for video in annotations.videos.values() if video.annotations]
    if not FEWEST <= count <= len(annotated):
        raise UserError(
            f"{annotations.source}: {count} folds of {len(annotated)} videos with annotations; "
            f"expected {FEWEST} to {len(annotated)}, one each to test and to validate on and the "
            "others to train on"
        )
    by_label: dict[str, list[Video]] = defaultdict(list)
    for video in annotated:
        counts = Counter(annotation.label for annotation in video.annotations)
        by_label[min(counts, key=lambda label: (-counts[label], label))].append(video)
    subsets = dict.fromkeys(annotations.videos, "training")
    for place, label in enumerate(sorted(by_label)):
        ordered = sorted(by_label[label], key=lambda video: in_reading_order(video.name))
        for run, chunk in enumerate(np.array_split(np.arange(len(ordered)), count)):
            # Labels start at different folds, so that rare ones do not all meet in the first.
            role = {0: "test", 1: "validation"}.get((run + place - number) % count, "training")
            subsets |= {ordered[index].name: role for index in chunk}
    videos = {
        name: replace(video, subset=subsets[name]) for name, video in annotations.videos.items()
    }
    return replace(annotations, videos=videos)
