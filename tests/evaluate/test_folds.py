"""Folds part the videos, keep neighbours together and the labels in each."""

from collections import Counter

import pytest

from tad_distill.console import UserError
from tad_distill.data.annotations import Annotation, AnnotationSet, Video
from tad_distill.evaluate.folds import fold


def videos_of(**labels: int) -> AnnotationSet:
    """So many videos of each label, numbered without leading zeros."""
    videos = {}
    for label, count in labels.items():
        for number in range(count):
            name = f"{label}_{number}"
            found = (Annotation(label, 0.0, 1.0), Annotation(label, 2.0, 3.0))
            videos[name] = Video(name, "somewhere", 9.0, 30.0, found)
    return AnnotationSet(videos, tuple(sorted(labels)), "made.json")


def subsets(annotations: AnnotationSet) -> dict[str, str]:
    return {name: video.subset for name, video in annotations.videos.items()}


@pytest.mark.parametrize("count", [3, 5])
def test_every_video_is_tested_once_and_validated_once(count: int) -> None:
    annotations = videos_of(run=11, jump=7, rare=1)
    folds = [subsets(fold(annotations, number, count)) for number in range(count)]
    for name in annotations.videos:
        roles = Counter(found[name] for found in folds)
        assert roles == {"test": 1, "validation": 1, "training": count - 2}


def test_neighbours_stay_together_and_numbers_count_as_numbers() -> None:
    annotations = videos_of(run=12)
    found = subsets(fold(annotations, 0, 4))
    assert [found[f"run_{number}"] for number in range(12)] == (
        ["test"] * 3 + ["validation"] * 3 + ["training"] * 6
    )


def test_each_fold_has_every_label_that_suffices_for_it() -> None:
    annotations = videos_of(run=5, jump=9, fall=6)
    for number in range(5):
        parts = fold(annotations, number, 5)
        for subset in ("training", "validation", "test"):
            labels = {name.split("_")[0] for name in parts.subset(subset).videos}
            assert labels == {"run", "jump", "fall"}


def test_rare_labels_do_not_all_meet_in_one_fold() -> None:
    annotations = videos_of(a=1, b=1, c=1)
    for number in range(3):
        assert len(fold(annotations, number, 3).subset("test").videos) == 1


def test_a_video_counts_for_its_most_frequent_label() -> None:
    annotations = videos_of(run=3, jump=3)
    both = (*[Annotation("run", 0.0, 1.0)] * 1, *[Annotation("jump", 2.0, 3.0)] * 2)
    annotations.videos["jump_9"] = Video("jump_9", "x", 9.0, 30.0, both)
    tested = [set(fold(annotations, n, 3).subset("test").videos) for n in range(3)]
    assert all(len([v for v in videos if v.startswith("run")]) == 1 for videos in tested)


def test_videos_without_annotations_are_left_for_training() -> None:
    annotations = videos_of(run=6)
    annotations.videos["silent"] = Video("silent", "test", 9.0, 30.0, ())
    assert {subsets(fold(annotations, n, 3))["silent"] for n in range(3)} == {"training"}


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_too_few_or_too_many_folds_are_refused(count: int) -> None:
    with pytest.raises(UserError, match=f"made.json: {count} folds of 6 videos.*expected 3 to 6"):
        fold(videos_of(run=6), 0, count)


def test_folds_of_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="3 folds of 0 videos"):
        fold(AnnotationSet({}, (), "none.json"), 0, 3)
