"""The training of the copy, and how much of the teacher it explains.

What happens in step k depends on the settings, the data and the state after step k - 1 alone: a
killed run that goes on ends bit for bit where an uninterrupted one ends (on the CPU).
"""

import math
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tad_distill import console
from tad_distill.console import UserError
from tad_distill.data.dataset import Dataset
from tad_distill.distill import checkpoint, optim
from tad_distill.distill.adapter.config import RecipeConfig
from tad_distill.distill.adapter.stage import Base, StageCopy
from tad_distill.distill.adapter.windows import Targets, WindowBatch, Windows
from tad_distill.distill.run_folder import RunFolder


class Trainer:
    """A training in progress.

    Attributes:
        copy: What is trained.
        step: How many steps have been made.
        num_steps: How many there will be.
    """

    def __init__(
        self, base: Base, dataset: Dataset, targets: Targets, recipe: RecipeConfig
    ) -> None:
        """Build copy and optimiser from the seed."""
        checkpoint.seed_everything(recipe.seed)
        self.base, self.recipe, self.targets = base, recipe, targets
        self.copy = StageCopy(base, targets.dim, recipe.batch_norm)
        self.windows = Windows(dataset, targets, recipe, base.encoder.backbone.multiple_frames)
        self.num_steps = self.windows.num_batches
        groups = optim.parameter_groups([self.copy], recipe.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr)
        self.step = 0
        self._sum = 0.0

    def run(self, folder: RunFolder) -> None:
        """Make all steps that are left, saving as it goes.

        Raises:
            UserError: The loss is not finite.
            Interrupted: A signal asked for a stop; the state is saved.
        """
        if (state := folder.state()) is not None:
            self.restore(state)
            console.log("resumed", run=folder.path, step=self.step, of=self.num_steps)
        folder.history.rewind(self.step)
        saved = time.monotonic()
        self.copy.train()
        with console.progress("adapt", self.num_steps) as tick, self.copy.computing():
            tick(self.step)
            while self.step < self.num_steps:
                loss = self._learn(self.windows.batch(self.step))
                tick(1, loss=loss)
                last = self.step == self.num_steps
                if self.step % self.recipe.log_every == 0 or last:
                    self._log(folder)
                stop = console.stop_requested()
                if stop or last or time.monotonic() - saved >= self.recipe.save_every_s:
                    folder.save(self.state())
                    saved = time.monotonic()
                if stop and not last:
                    console.check_stop(f"step {self.step} of {self.num_steps} is saved")

    def _learn(self, batch: WindowBatch) -> float:
        """Make one step; refuse to make it with numbers that are not finite."""
        recipe = self.recipe
        rate = optim.learning_rate(
            self.step,
            base=recipe.lr,
            num_warmup=round(recipe.warmup * self.num_steps),
            num_steps=self.num_steps,
        )
        optim.set_learning_rate(self.optimizer, rate)
        device = self.base.device
        predicted = self.copy(batch.maps.to(device))
        loss = step_loss(predicted, batch.targets.to(device), self.targets.teacher is not None)
        loss = loss[batch.counts.to(device)].mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise UserError(
                f"step {self.step}: the loss is {value} for windows of the videos "
                f"{', '.join(batch.videos)}; nothing was learned from them; check their features "
                "with `tad-distill data verify`, or lower train.lr"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self._sum += value
        self.step += 1
        return value

    def _log(self, folder: RunFolder) -> None:
        count = (self.step - 1) % self.recipe.log_every + 1
        row = {"step": self.step, "loss": self._sum / count}
        folder.history.append(row)
        console.log("adapt", **row, lr=self.optimizer.param_groups[0]["lr"], of=self.num_steps)
        self._sum = 0.0

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "step": self.step,
            "copy": self.copy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sum": self._sum,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where :meth:`state` was taken."""
        self.step, self._sum = state["step"], state["sum"]
        self.copy.load_state_dict(state["copy"])
        self.optimizer.load_state_dict(state["optimizer"])

    @torch.no_grad()
    def validate(self, dataset: Dataset) -> float:
        """How well whole videos are predicted.

        Returns:
            Of a teacher's standardised features the explained variance: one minus the squared error
            over the squared distance to each channel's mean over these videos, both summed over
            steps and channels. Of labels the share of the steps inside segments whose label is
            named; a step with several counts the share that the named one has. NaN if nothing
            could be predicted.
        """
        self.copy.eval()
        error = spread = 0.0
        count, sums, squares = 0, torch.zeros(()), torch.zeros(())
        for index, video in enumerate(dataset.videos):
            target = torch.from_numpy(self.targets.of(dataset, index)).double()
            feats = self.base.features(video).to(self.base.device)
            predicted = self.copy.predict(feats).cpu().double()
            if self.targets.teacher is None:
                inside = target[:, -1] == 0
                named = predicted[inside, :-1].argmax(1, keepdim=True)
                error += float(target[inside].gather(1, named).sum())
                count += int(inside.sum())
                continue
            error += float((predicted - target).square().sum())
            count, sums = count + len(target), sums + target.sum(0)
            squares = squares + target.square().sum(0)
        if self.targets.teacher is None:
            return error / count if count else math.nan
        spread = float((squares - sums.square() / max(count, 1)).sum())
        return 1 - error / spread if spread > 0 else math.nan


def step_loss(predicted: Tensor, targets: Tensor, of_teacher: bool) -> Tensor:
    """``(B, S)`` loss of each step.

    Args:
        predicted: ``(B, S, D)``.
        targets: ``(B, S, D)`` standardised features, or the share of each class.
        of_teacher: The mean squared error over the channels (Eq. 5) if so, else cross-entropy.
    """
    if of_teacher:
        return (predicted - targets).square().mean(-1)
    return -(targets * F.log_softmax(predicted, dim=-1)).sum(-1)
