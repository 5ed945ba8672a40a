"""The label scores of whole videos that an experiment asks for."""

from collections.abc import Iterable, Sequence

from tad_distill.console import UserError
from tad_distill.distill.config import Experiment
from tad_distill.evaluate import video_scores
from tad_distill.evaluate.video_scores import VideoScores


def label_scores(
    experiment: Experiment, labels: Sequence[str], videos: Iterable[str]
) -> VideoScores | None:
    """The label scores of whole videos that an experiment names, if any.

    Raises:
        UserError: A class-agnostic detector has none, or the file lacks a label or a video.
    """
    path = experiment.predict.external_scores
    if path is None:
        if experiment.model.class_agnostic:
            raise UserError(
                "the detector is class-agnostic, it says where and not what: give the label scores "
                "of the videos, with --scores FILE or predict.external_scores"
            )
        return None
    scores = video_scores.read(path, labels)
    scores.require(videos)
    return scores
