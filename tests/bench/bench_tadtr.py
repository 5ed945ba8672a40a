"""How long a training step and a detection of the TadTR head take on one core.

With a clone of xlliu7/TadTR at 983ae14 in the environment variable TADTR, the official code runs
beside ours, on the same windows from the same weights, with its own pure-PyTorch attention. What
does not run on a CPU or is not installed is given to it: Align1D and two imports that it does not
use here. Writes results/tadtr.md.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tad_distill.distill import official
from tad_distill.distill.deformable import pool_segments
from tad_distill.distill.heads import Targets
from tad_distill.distill.heads.tadtr import Config, TadTR
from tad_distill.distill.matching import as_segments

NUM_VIDEOS, NUM_STEPS, DIM, NUM_LABELS, NUM_SEGMENTS = 16, 128, 2048, 20, 4
NUM_REPEATS = 7
Step = Callable[[], tuple[float, float]]  # the loss, the length of its gradient


class Settings(dict[str, Any]):
    """A dictionary whose keys are attributes, as the official code wants its settings."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


class Align(nn.Module):
    """Takes the place of the official CUDA operator."""

    def __init__(self, num_bins: int, _: int) -> None:
        super().__init__()
        self.num_bins = num_bins

    def forward(self, feats: Tensor, rows: Tensor) -> Tensor:
        """``(B, C, T)`` and ``(B N, 3)`` video, start, end to ``(B N, C, bins)``."""
        segments = rows[:, 1:].unflatten(0, (len(feats), -1))
        lengths = torch.full((len(feats),), feats.shape[2])
        pooled = pool_segments(feats.transpose(1, 2), segments, lengths, self.num_bins)
        return pooled.flatten(0, 1).transpose(1, 2).contiguous()


def official_code(folder: Path, dropout: float) -> tuple[nn.Module, nn.Module]:
    """The official network and its loss, with the THUMOS'14 settings."""
    for name, contents in (
        ("easydict", {"EasyDict": Settings}),
        ("torchvision", {"__version__": "0.20"}),
        ("yaml", {}),
    ):
        if name not in sys.modules:
            module = ModuleType(name)
            vars(module).update(contents)
            sys.modules[name] = module
    sys.path.insert(0, str(folder))
    from opts import cfg  # type: ignore[import-not-found]

    cfg.disable_cuda = True
    from models import tadtr  # type: ignore[import-not-found]

    tadtr.ROIAlign = Align
    cfg.update(enc_layers=4, dec_layers=4, dim_feedforward=1024, num_queries=40, dropout=dropout)
    torch.manual_seed(0)
    model, criterion, _ = tadtr.build(cfg)
    return model.train(), criterion


def windows() -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """``(B, T, D)`` features, and of each window spans and labels."""
    generator = torch.Generator().manual_seed(0)
    feats = torch.randn(NUM_VIDEOS, NUM_STEPS, DIM, generator=generator)
    centres = torch.rand(NUM_VIDEOS, NUM_SEGMENTS, generator=generator) * 0.6 + 0.2
    widths = torch.rand(NUM_VIDEOS, NUM_SEGMENTS, generator=generator) * 0.2 + 0.02
    labels = torch.randint(0, NUM_LABELS, (NUM_VIDEOS, NUM_SEGMENTS), generator=generator)
    return feats, list(zip(torch.stack([centres, widths], -1), labels, strict=True))


def our_step(head: TadTR, optimizer: torch.optim.Optimizer, dtype: torch.dtype) -> Step:
    feats, wanted = windows()
    mask = torch.ones(feats.shape[:2], dtype=torch.bool)
    targets = [Targets(as_segments(span) * NUM_STEPS - 0.5, label) for span, label in wanted]

    def step() -> tuple[float, float]:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            terms = head.loss(head(feats, mask), targets)
            loss = torch.stack(list(terms.values())).sum()
        return learn(head, optimizer, loss)

    return step


def official_step(model: nn.Module, criterion: Any, optimizer: torch.optim.Optimizer) -> Step:
    feats, wanted = windows()
    feats = feats.transpose(1, 2).contiguous()
    mask = torch.zeros(NUM_VIDEOS, NUM_STEPS, dtype=torch.bool)
    targets = [{"segments": span, "labels": label} for span, label in wanted]

    def step() -> tuple[float, float]:
        terms = criterion(model((feats, mask)), targets)
        weights = criterion.weight_dict
        loss = sum(terms[name] * weights[name] for name in terms if name in weights)
        return learn(model, optimizer, loss)

    return step


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Any) -> tuple[float, float]:
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()
    return float(loss.detach()), float(norm)


def adamw(model: nn.Module, fused: bool) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=2e-4, weight_decay=1e-4, fused=fused)


def in_turns(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median CPU milliseconds of each call, after one to warm up, one after the other."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(NUM_REPEATS + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(1000 * (time.process_time() - start))
    return {name: median(values[1:]) for name, values in times.items()}


def detection(call: Callable[[], object]) -> Callable[[], object]:
    return torch.inference_mode()(call)


@pytest.fixture
def folder() -> Path | None:
    found = os.environ.get("TADTR")
    return Path(found) if found else None


def test_losses_and_gradients_are_those_of_the_official_code(folder: Path | None) -> None:
    """Along the official code's training: two runs part where a tie is matched otherwise."""
    if folder is None:
        pytest.skip("TADTR names no clone of the official code")
    torch.set_num_threads(1)
    model, criterion = official_code(folder, 0.0)
    head = Config(dropout=0.0, actionness_target="batch").build(DIM, NUM_LABELS).train()
    ours = our_step(head, torch.optim.SGD(head.parameters(), lr=0.0), torch.float32)
    theirs = official_step(model, criterion, adamw(model, False))
    for _ in range(8):
        official.load_official(head, model.state_dict(), "official")
        (loss, norm), (official_loss, official_norm) = ours(), theirs()
        print(f"\nloss {loss:.6f} {official_loss:.6f} gradient {norm:.6f} {official_norm:.6f}")
        assert loss == pytest.approx(official_loss, rel=1e-5)
        assert norm == pytest.approx(official_norm, rel=1e-3)


def test_steps_of_the_head(
    folder: Path | None,
    machine: str,
    publish: Callable[[str, Sequence[str]], None],
) -> None:
    torch.set_num_threads(1)
    head = Config().build(DIM, NUM_LABELS).train()
    feats, _ = windows()
    one, mask = feats[:1], torch.ones(1, NUM_STEPS, dtype=torch.bool)
    exact = our_step(head, adamw(head, True), torch.float32)
    steps = {"float32": exact, "bfloat16": our_step(head, adamw(head, True), torch.bfloat16)}
    finds = {"float32": detection(lambda: head.decode(head(one, mask)))}
    if folder is not None:
        model, criterion = official_code(folder, 0.1)
        padded, turned = ~mask, one.transpose(1, 2).contiguous()
        steps["official"] = official_step(model, criterion, adamw(model, False))
        finds["official"] = detection(lambda: model((turned, padded)))
    step_ms = in_turns(steps)
    head.eval()
    if folder is not None:
        model.eval()
    detect_ms = in_turns(finds)
    rows = [
        f"| {name} | {step_ms[name]:.0f} | "
        + (f"{detect_ms[name]:.1f} |" if name in detect_ms else "|")
        for name in steps
    ]
    lines = [
        "# The TadTR head on one core",
        "",
        f"A step is forward, matching, loss, backward, clipping and AdamW on {NUM_VIDEOS} windows "
        f"of {NUM_STEPS} steps of width {DIM}; a detection is forward and decoding of one window. "
        "The official THUMOS'14 recipe: 4 + 4 layers, 40 queries, width 256. Median CPU time, the "
        "rows in turns; official: xlliu7/TadTR at 983ae14, its network without decoding.",
        f"{machine}, torch {torch.__version__}.",
        "",
        "| | ms per step | ms per detection |",
        "|---|---:|---:|",
        *rows,
    ]
    publish("tadtr", lines)
