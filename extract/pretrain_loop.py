"""The training loop of pretraining: AdamW, one cycle, resume points, validation."""

import io
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tad_distill import console
from tad_distill.console import UserError
from tad_distill.data import durable
from tad_distill.extract.backbones import Backbone
from tad_distill.extract.device import computing
from tad_distill.extract.pretrain_config import PretrainConfig
from tad_distill.extract.trimmed_batches import ClipBatch, ClipBatches

LOG_EVERY_STEPS = 50


@dataclass(frozen=True)
class TaskResult:
    """How well one label column is recognised on the validation clips.

    Attributes:
        task: The column.
        num_classes: Classes it was trained to tell apart.
        num_clips: Labelled validation clips; classes without training clips count as missed.
        accuracy: A fraction of 1; None without such clips.
    """

    task: str
    num_classes: int
    num_clips: int
    accuracy: float | None


@dataclass(frozen=True)
class ResumePoint:
    """Where an interrupted run is kept, and what it has to be a run of.

    Attributes:
        path: The file.
        key: A hash of everything that decides the result; another key's file is not used.
    """

    path: Path
    key: str

    def save(self, step: int, network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Write the state after ``step`` steps."""
        buffer = io.BytesIO()
        state = {
            "key": self.key,
            "step": step,
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
        }
        torch.save(state, buffer)
        durable.write_bytes(self.path, buffer.getvalue())

    def restore(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> int:
        """Load the state; returns the number of steps done, 0 where there is nothing to resume."""
        if not self.path.is_file():
            return 0
        state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        if state["key"] != self.key:
            console.log("resume_point_of_other_settings_ignored", path=self.path)
            return 0
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        console.log("resumed", path=self.path, step=state["step"])
        return int(state["step"])


class ClipClassifier(nn.Module):
    """A backbone, the mean of its features over time, and one linear classifier per task."""

    def __init__(self, backbone: Backbone, num_classes: list[int], dropout: float) -> None:
        """Put classifiers of these widths on a backbone."""
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.dropout = nn.Dropout(dropout)
        self.classifiers = nn.ModuleList(nn.Linear(backbone.dim, k) for k in num_classes)

    def forward(self, frames: Tensor) -> list[Tensor]:
        """``(B, T, C, H, W)`` frames to ``(B, K)`` scores of each task, before the softmax."""
        feats = self.dropout(self.backbone(frames).mean(1))
        return [classifier(feats) for classifier in self.classifiers]


def task_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled clips; zero where none is labelled.

    Args:
        scores: ``(B, K)`` before the softmax.
        targets: ``(B,)`` class ids; negative: not labelled.
    """
    total = F.cross_entropy(scores.float(), targets.clamp(min=-1), ignore_index=-1, reduction="sum")
    return total / (targets >= 0).sum().clamp(min=1)


def one_cycle(step: int, num_steps: int, warm_up: float = 0.3) -> float:
    """Factor on the highest learning rate: from 1/25 up to 1, then down to 1e-4 / 25, on cosines.

    As ``torch.optim.lr_scheduler.OneCycleLR`` (Smith and Topin, 2017), but a function of the step
    alone, so that a resumed run needs no state for it.
    """
    peak = warm_up * num_steps - 1
    last = num_steps - 1
    if step <= peak:
        low, high, share = 1 / 25, 1.0, step / peak
    else:
        low, high = 1.0, 1e-4 / 25
        share = (step - peak) / (last - peak) if last > peak else 1.0
    return high + (low - high) * (1 + math.cos(math.pi * share)) / 2


def optimiser_for(network: nn.Module, config: PretrainConfig) -> torch.optim.AdamW:
    """AdamW; norms and biases do not decay."""
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)


def train(
    network: ClipClassifier,
    batches: ClipBatches,
    weights: list[float],
    config: PretrainConfig,
    resume: ResumePoint,
) -> None:
    """Train for ``config.steps`` steps, from the resume point if there is one.

    Args:
        network: Trained in place, on its own device.
        batches: What each step is shown.
        weights: Of each task's loss.
        config: The settings.
        resume: Where the state is kept meanwhile; the caller removes it when all is done.

    Raises:
        UserError: The loss is no number.
        Interrupted: A signal has asked for a stop; the state is saved.
    """
    device = next(network.parameters()).device
    optimiser = optimiser_for(network, config)
    first = resume.restore(network, optimiser)
    network.train()
    saved_at = time.monotonic()
    with console.progress("pretrain", config.steps) as progress:
        progress(first)
        for step, batch in _ahead(batches, range(first, config.steps)):
            for group in optimiser.param_groups:
                group["lr"] = config.lr * one_cycle(step, config.steps)
            # The masks of dropout have to be the same in a resumed run.
            torch.manual_seed(config.seed * 1_000_003 + step)
            losses = _step(network, batch, weights, optimiser, _precision(device, config))
            if not all(math.isfinite(loss) for loss in losses):
                raise UserError(
                    f"the loss is no number at step {step} (losses {losses}); "
                    f"lower lr, now {config.lr:g}, and run again"
                )
            progress(1, loss=sum(losses))
            if console.stop_requested() or time.monotonic() - saved_at > config.save_every_s:
                resume.save(step + 1, network, optimiser)
                saved_at = time.monotonic()
                console.check_stop(f"{step + 1} of {config.steps} steps are kept in {resume.path}")
            if (step + 1) % LOG_EVERY_STEPS == 0 or step + 1 == config.steps:
                console.log("step", step=step + 1, of=config.steps, loss=sum(losses))


@torch.no_grad()
def validate(
    network: ClipClassifier, batches: ClipBatches, tasks: list[str], config: PretrainConfig
) -> list[TaskResult]:
    """Accuracy on the validation clips, by task."""
    device = next(network.parameters()).device
    network.eval()
    right, labelled = [0] * len(tasks), [0] * len(tasks)
    for start in range(0, len(batches.validation), config.batch_size):
        batch = batches.validating(batches.validation[start : start + config.batch_size])
        with _precision(device, config):
            scores = network(batch.frames.to(device))
        for task, task_scores in enumerate(scores):
            targets = batch.targets[:, task]
            right[task] += int((task_scores.argmax(1).cpu() == targets).sum())
            labelled[task] += int((targets != -1).sum())
    return [
        TaskResult(
            task=name,
            num_classes=network.num_classes[i],
            num_clips=labelled[i],
            accuracy=right[i] / labelled[i] if labelled[i] else None,
        )
        for i, name in enumerate(tasks)
    ]


def _step(
    network: ClipClassifier,
    batch: ClipBatch,
    weights: list[float],
    optimiser: torch.optim.Optimizer,
    precision: AbstractContextManager[None],
) -> list[float]:
    """One update; returns each task's weighted loss."""
    device = next(network.parameters()).device
    targets = batch.targets.to(device)
    with precision:
        scores = network(batch.frames.to(device, non_blocking=True))
    losses = torch.stack(
        [
            w * task_loss(s, targets[:, i])
            for i, (s, w) in enumerate(zip(scores, weights, strict=True))
        ]
    )
    optimiser.zero_grad()
    losses.sum().backward()
    optimiser.step()
    return [float(loss) for loss in losses.detach()]


def _ahead(batches: ClipBatches, steps: range) -> Iterator[tuple[int, ClipBatch]]:
    """The training batches, the next one made while the current one is in use."""
    with ThreadPoolExecutor(1) as worker:
        waiting = worker.submit(batches.training, steps.start) if steps else None
        for step in steps:
            assert waiting is not None
            batch = waiting.result()
            if step + 1 < steps.stop:
                waiting = worker.submit(batches.training, step + 1)
            yield step, batch


def _precision(device: torch.device, config: PretrainConfig) -> AbstractContextManager[None]:
    half = config.amp and device.type == "cuda"
    return computing(device, "bfloat16" if half else "float32")
