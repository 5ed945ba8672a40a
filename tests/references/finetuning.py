"""Fine-tuning a small detector: its trainer, and what has changed."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tad_distill.distill import checkpoint
from tad_distill.distill.finetune.config import FinetuneConfig
from tad_distill.distill.finetune.loop import EndToEndTrainer
from tad_distill.distill.finetune.run import (
    make_trainer,
    open_backbones,
    open_frames,
    open_run,
)
from tad_distill.distill.sources import open_sources
from tad_distill.extract import weights as weight_files
from tad_distill.extract.config import ExtractConfig

RGB, TG, MAPS, MOTION = (
    "tsm_mini:rgb",
    "tsm_mini:tg_luma",
    "tsm_mini:rgb@layer2",
    "tsm_mini:rgb+motion",
)

SEEDS = {RGB: "random:0", TG: "random:1", MAPS: "random:0"}

CONFIG = ExtractConfig(
    short_side_px=24, crop_px=24, window_frames=16, pool_frames=2, dtype="float32", num_decoders=1
)

CPU = torch.device("cpu")

HEAD = {"kind": "actionformer", "embd_dim": 8, "num_heads": 2, "arch": [1, 1, 1], "window": [5]}

SINGLE = {"streams": [RGB], "dim": 8, "num_layers": 1}

Make = Callable[..., FinetuneConfig]


def trainer_of(config: FinetuneConfig, out: Path) -> EndToEndTrainer:
    base, sources = open_run(config, CPU), open_sources(config.experiment(), CPU)
    backbones = open_backbones(base, sources, config, CPU)
    frames = open_frames(config, sources, backbones, out)
    return make_trainer(config, sources, base, backbones, frames)


def state_of(path: Path) -> dict[str, Tensor]:
    return dict(checkpoint.load(path)["state_dict"])


def changed(run: Path, name: str = "backbone.pt", source: str = "random:0") -> set[str]:
    """The tensors of a backbone that fine-tuning has changed."""
    base, _ = weight_files.prepare("tsm_mini", "rgb", 3, Path(source))
    before = base.state_dict()
    return {key for key, value in state_of(run / name).items() if not value.equal(before[key])}
