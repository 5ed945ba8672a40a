"""A look at the validation subset while training."""

from tad_distill import console
from tad_distill.console import UserError
from tad_distill.data.grid import Grid
from tad_distill.distill.config import Experiment
from tad_distill.distill.label_scores import label_scores
from tad_distill.distill.model import Detector
from tad_distill.distill.predict import predict_on
from tad_distill.distill.sources import Sources
from tad_distill.evaluate.mean_ap import mean_ap

TIOU = (0.3, 0.4, 0.5, 0.6, 0.7)


class Validation:
    """The mAP of a detector on the videos of ``data.validation_subset`` that have features."""

    def __init__(self, experiment: Experiment, sources: Sources, streams: tuple[str, ...]) -> None:
        """Find the videos.

        Raises:
            UserError: Features are missing and ``data.missing`` is ``error``, or no video is left;
                or label scores of whole videos are asked for and missing.
        """
        data, grid = experiment.data, sources.dataset.grid
        assert data.validation_subset is not None
        self.experiment = experiment
        self.labels = sources.annotations.labels
        # Not the teacher's streams: the subset may have been extracted for the student alone.
        self.grid = Grid(
            {name: grid.streams[name] for name in streams},
            grid.base,
            grid.target_len,
            data.cache_mb * 2**20,
            grid.step_s,
        )
        subset = sources.annotations.subset(data.validation_subset)
        self.videos = sources.dataset.present(sorted(subset.videos), self.grid)
        table = subset.table()
        self.annotations = table[table["video"].isin(self.videos)]
        if self.annotations.empty:
            raise UserError(
                f"{sources.annotations.source}: subset {data.validation_subset!r} has no "
                "annotation in a video with features: nothing to validate on"
            )
        self.scores = label_scores(experiment, self.labels, self.videos)
        console.log("validation_set", subset=data.validation_subset, videos=len(self.videos))

    def score(self, model: Detector, grid: Grid | None = None) -> float:
        """The mean over tIoU 0.3 to 0.7 of the mAP.

        Args:
            model: In eval mode.
            grid: Features of the same videos to read in place of the stored ones.
        """
        read, settings = grid or self.grid, self.experiment
        found = predict_on(read, model, settings, self.labels, self.videos, self.scores)
        return mean_ap(self.annotations, found, TIOU).average_mAP
