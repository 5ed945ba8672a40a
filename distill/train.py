"""The loop: one for teacher, baselines and student, which differ in what they are built of.

What happens in step k depends on the settings, the data and the state after step k - 1 alone: a
killed run that goes on ends bit for bit where an uninterrupted one ends (on the CPU).
"""

import copy
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from tad_distill import console
from tad_distill.console import UserError
from tad_distill.data.batch import Batch
from tad_distill.data.dataset import Windows
from tad_distill.distill import checkpoint, optim
from tad_distill.distill.config import Experiment, dump
from tad_distill.distill.model import Detector, Outputs, build
from tad_distill.distill.objective import Objective
from tad_distill.distill.predict import LAYOUT, pick_device
from tad_distill.distill.run_folder import RunFolder
from tad_distill.distill.sources import Sources, open_sources, statistics
from tad_distill.distill.validate import Validation


def train(experiment: Experiment, out: Path, overwrite: bool = False) -> None:
    """Train one detector into a folder, going on with whatever stands there.

    Args:
        experiment: What to train.
        out: The run's folder. A finished run of the same settings is left as it is.
        overwrite: Begin anew, whatever stands there.

    Raises:
        UserError: Something does not fit together, or the loss is not finite any more.
        ConfigError: The folder holds a run of other settings or other data.
        Interrupted: A signal asked for a stop; the state is saved.
    """
    device = pick_device(experiment.train.device)
    sources = open_sources(experiment, device)
    folder = RunFolder(out)
    if folder.claim(experiment, sources.identity(), overwrite):
        console.log("finished_already", run=out)
        return
    trainer = Trainer(experiment, sources, device)
    trainer.run(folder)
    folder.finish(trainer.product())
    console.log("trained", run=out, step=trainer.step)


class Trainer:
    """A run in progress.

    Attributes:
        step: How many steps have been made.
        num_steps: How many there will be.
    """

    def __init__(self, experiment: Experiment, sources: Sources, device: torch.device) -> None:
        """Build model, losses and optimiser from the seed."""
        self.experiment = experiment
        self.sources = sources
        self.device = device
        settings = experiment.train
        # Here and not before: to open a teacher draws numbers that the control does not draw.
        checkpoint.seed_everything(settings.seed)
        self.model = self._make_model()
        teacher = None if sources.teacher is None else sources.teacher.model
        self.objective = Objective(experiment.objective, self.model, experiment.transfers, teacher)
        self.model.to(device)
        self.objective.to(device)
        # The state stays the plain model's; only its forward is compiled.
        self._forward = torch.compile(self.model) if settings.compile else self.model
        groups = optim.parameter_groups([self.model, self.objective], settings.weight_decay)
        self._parameters = [p for group in groups for p in group["params"]]
        self.optimizer = optim.make(settings.optimizer, groups, settings.lr)
        self.average = optim.WeightAverage(self.model, settings.ema)
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "float16")
        self.validation: Validation | None = None
        if experiment.data.validation_subset is not None:
            self.validation = Validation(experiment, sources, self.model.streams)
        self.step = 0
        self.best: dict[str, Any] = {"mAP": -1.0, "step": 0, "weights": {}}
        self.sums: dict[str, float] = {}
        self.num_summed = 0
        self.steps_per_epoch = len(self._plan(0))
        self.num_steps = settings.num_steps(self.steps_per_epoch)
        self.num_warmup = settings.num_warmup(self.steps_per_epoch)

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        settings = self.experiment.train
        if settings.schedule == "step":
            return optim.stepped_learning_rate(
                self.step,
                base=settings.lr,
                num_warmup=self.num_warmup,
                drops=[round(share * self.num_steps) for share in settings.drop_at],
                factor=settings.drop_factor,
            )
        return optim.learning_rate(
            self.step, base=settings.lr, num_warmup=self.num_warmup, num_steps=self.num_steps
        )

    def run(self, folder: RunFolder) -> None:
        """Make all steps that are left, saving as it goes.

        Raises:
            UserError: The loss or the gradient is not finite.
            Interrupted: A signal asked for a stop; the state is saved.
        """
        if (state := folder.state()) is not None:
            self.restore(state)
            console.log("resumed", run=folder.path, step=self.step, of=self.num_steps)
        folder.history.rewind(self.step)
        settings = self.experiment.train
        saved = logged = time.monotonic()
        first = self.step
        while self.step < self.num_steps:
            epoch, position = divmod(self.step, self.steps_per_epoch)
            for batch in self._batches(epoch, position):
                self._learn(batch, epoch)
                last = self.step == self.num_steps
                if self.step % settings.log_every == 0 or last:
                    now = time.monotonic()
                    self._log(folder, epoch, (self.step - first) / (now - logged))
                    logged, first = now, self.step
                if self.step % self.steps_per_epoch == 0 or last:
                    self._validate(folder, epoch, last)
                stop = console.stop_requested()
                if stop or last or time.monotonic() - saved >= settings.save_every_s:
                    folder.save(self.state())
                    saved = time.monotonic()
                if stop and not last:
                    console.check_stop(f"step {self.step} of {self.num_steps} is saved")
                if last:
                    break

    def _make_model(self) -> Detector:
        """What is trained; a new detector, standardising by the training videos."""
        experiment, dataset = self.experiment, self.sources.dataset
        parts = experiment.model, experiment.head, experiment.fusion
        model = build(*parts, dataset.grid.dims, len(self.sources.annotations.labels))
        if experiment.data.standardise:
            for stream, (mean, std) in statistics(dataset).items():
                if stream in model.streams:
                    model.set_statistics(stream, mean, std)
        return model

    def _outputs(self, batch: Batch) -> Outputs:
        """What the detector says of a batch on its device."""
        return self._forward(batch.feats, batch.mask)

    def _score(self, validation: Validation, model: Detector) -> float:
        """The validation mAP of weights in eval mode."""
        return validation.score(model)

    def _learn(self, batch: Batch, epoch: int) -> None:
        """Make one step; refuse to make it with numbers that are not finite."""
        settings = self.experiment.train
        optim.set_learning_rate(self.optimizer, self.learning_rate)
        self.model.train()
        self.objective.train()
        moved = batch.to(self.device)
        with self._autocast():
            terms = self.objective(self._outputs(moved), moved)
            loss = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self._parameters, settings.clip_norm or math.inf)
        # One transfer from the device for all that is looked at.
        *values, gradient = torch.stack([*terms.values(), norm.to(loss)]).tolist()
        self._refuse_infinite(dict(zip(terms, values, strict=True)), gradient, batch, epoch)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update(self.model)
        for name, value in zip(terms, values, strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.num_summed += 1
        self.step += 1

    def _refuse_infinite(
        self, terms: dict[str, float], gradient: float, batch: Batch, epoch: int
    ) -> None:
        bad = [name for name, value in terms.items() if not math.isfinite(value)]
        # With a scaler an infinite gradient is how it learns the scale: it skips the step itself.
        if not bad and (math.isfinite(gradient) or self.scaler.is_enabled()):
            return
        found = ", ".join(f"{name}={value:g}" for name, value in terms.items())
        what = f"loss {' and '.join(bad)}" if bad else "gradient"
        raise UserError(
            f"step {self.step} (epoch {epoch}): the {what} is not finite ({found}, "
            f"gradient={gradient:g}) for the videos {', '.join(batch.videos)}; nothing was "
            "learned from them; check their features with `tad-distill data verify`, or lower "
            "train.lr"
        )

    def _log(self, folder: RunFolder, epoch: int, steps_per_s: float) -> None:
        means = {name: value / self.num_summed for name, value in self.sums.items()}
        row = {"epoch": epoch, "step": self.step, "loss": sum(means.values()), **means}
        row |= {"lr": self.optimizer.param_groups[0]["lr"], "steps_per_s": steps_per_s}
        folder.history.append(row)
        eta_s = round((self.num_steps - self.step) / steps_per_s)
        console.log("train", **row, of=self.num_steps, eta_s=eta_s)
        self.sums, self.num_summed = {}, 0

    def _validate(self, folder: RunFolder, epoch: int, last: bool) -> None:
        """Look at the validation subset with the averaged weights, if it is time to."""
        due = (epoch + 1) % self.experiment.train.validate_every == 0 or last
        if self.validation is None or not due:
            return
        model = copy.deepcopy(self.model).eval()
        model.load_state_dict(self.average.state)
        score = self._score(self.validation, model)
        row = {"epoch": epoch, "step": self.step, "validation_mAP": score}
        folder.history.append(row)
        console.log("validate", subset=self.experiment.data.validation_subset, **row)
        if self.experiment.train.select == "validation" and score > self.best["mAP"]:
            weights = {name: tensor.clone() for name, tensor in self.average.state.items()}
            self.best = {"mAP": score, "step": self.step, "weights": weights}

    def _plan(self, epoch: int) -> list[list[int]]:
        settings = self.experiment.train
        return self.sources.dataset.batches(epoch, settings.batch_size, settings.num_unlabelled)

    def _batches(self, epoch: int, position: int) -> Iterator[Batch]:
        """The batches of an epoch, from the given one on."""
        windows = Windows(self.sources.dataset, epoch)
        collate = self.experiment.data.batch
        plan = self._plan(epoch)[position:]
        if not (workers := self.experiment.train.workers):
            return (collate([windows[i] for i in indices]) for indices in plan)
        # A generator of its own: the loader must not draw from the run's random stream.
        return iter(
            DataLoader(
                windows,
                batch_sampler=plan,
                collate_fn=collate,
                num_workers=workers,
                generator=torch.Generator(),
            )
        )

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": checkpoint.random_state(),
            "best": self.best,
            "sums": self.sums,
            "num_summed": self.num_summed,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where :meth:`state` was taken."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        for name, tensor in state["average"].items():
            self.average.state[name].copy_(tensor)
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.best = state["best"]
        self.sums, self.num_summed = state["sums"], state["num_summed"]
        checkpoint.set_random_state(state["random"])

    def product(self) -> dict[str, Any]:
        """The finished detector, with all that is needed to use it and to quote its numbers."""
        grid = self.sources.dataset.grid
        chosen = self.experiment.train.select == "validation"
        return {
            "layout": LAYOUT,
            "weights": self.best["weights"] if chosen else self.average.state,
            "experiment": dump(self.experiment),
            "labels": list(self.sources.annotations.labels),
            "dims": {name: grid.dims[name] for name in self.model.streams},
            "specs": {n: json.loads(grid.streams[n].spec.json()) for n in self.model.streams},
            "base_spec": json.loads(grid.base.spec.json()),
            "provenance": self.sources.provenance(self.experiment)
            | {"steps": self.step, "selected_step": self.best["step"] if chosen else self.step},
        }

    def _autocast(self) -> torch.autocast:
        precision = self.experiment.train.precision
        dtype = None if precision == "float32" else getattr(torch, precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)
