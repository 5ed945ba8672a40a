"""The loop with frames in it: :class:`~tad_distill.distill.train.Trainer`, seeing for itself."""

from typing import Any

from torch import Tensor

from tad_distill import console
from tad_distill.data.batch import Batch
from tad_distill.distill.finetune.config import FinetuneConfig
from tad_distill.distill.finetune.features import FreshGrid, see
from tad_distill.distill.finetune.frames import FrameCache
from tad_distill.distill.finetune.network import Backbones
from tad_distill.distill.model import Detector, Outputs
from tad_distill.distill.run_folder import RunFolder
from tad_distill.distill.sources import Sources
from tad_distill.distill.train import Trainer
from tad_distill.distill.validate import Validation

# As a submodule of the detector, so that whatever is done to its weights is done to these as well.
BACKBONES = "backbones"


class EndToEndTrainer(Trainer):
    """A fine-tuning in progress.

    Everything is as in a training on features, but that the streams of the backbones are computed
    from frames in every step. The teacher reads the stored features, those of its training.

    Attributes:
        backbones: In the loop.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        sources: Sources,
        detector: Detector,
        backbones: Backbones,
        frames: FrameCache,
        lessons: dict[str, Any] | None,
    ) -> None:
        """Start from a detector and, if it is known, from the state of the lessons it had."""
        self.backbones, self._frames, self._detector = backbones, frames, detector
        detector.add_module(BACKBONES, backbones)
        super().__init__(config.experiment(), sources, backbones.device)
        if lessons is not None:
            self.objective.load_state_dict(lessons)
        elif len(self.objective.transfers):
            console.log("lessons_begin_anew", transfers=",".join(self.objective.transfers))

    def run(self, folder: RunFolder) -> None:
        """Score the start, then make all steps that are left.

        Raises:
            UserError: The loss or the gradient is not finite.
            Interrupted: A signal asked for a stop; the state is saved.
        """
        if folder.state() is None:
            folder.history.rewind(-1)  # a kill before the first saved state leaves some lines
            self._validate(folder, epoch=0, last=True)
        super().run(folder)

    def product(self) -> dict[str, Any]:
        """The finished detector with the finished backbones' state under ``backbones``."""
        made = super().product()
        prefix = f"{BACKBONES}."
        parts: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        for name, tensor in made["weights"].items():
            parts[name.startswith(prefix)][name.removeprefix(prefix)] = tensor
        return made | {"weights": parts[False], BACKBONES: parts[True]}

    def _make_model(self) -> Detector:
        return self._detector

    def _outputs(self, batch: Batch) -> Outputs:
        seen = see(self.backbones, self._frames, self.sources.dataset.grid, batch)
        return self._forward(batch.feats | seen, batch.mask)

    def _score(self, validation: Validation, model: Detector) -> float:
        backbones = model.get_submodule(BACKBONES)
        assert isinstance(backbones, Backbones)
        return validation.score(model, FreshGrid(validation.grid, backbones, self._frames))
