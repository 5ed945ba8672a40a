"""Small experiments on the signal world, and a teacher."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import DECOMPOSED, HEAD, SINGLE, TRANSFERS

from tad_distill.config import load as load_table
from tad_distill.distill.config import Experiment
from tad_distill.distill.train import train


@pytest.fixture(scope="session")
def experiment(signal_world: Path) -> Callable[..., Experiment]:
    def make(*overrides: str, **sections: Any) -> Experiment:
        table: dict[str, Any] = {
            "data": {"max_len": 48},
            "model": SINGLE,
            "head": HEAD,
            "train": {"steps": 7, "batch_size": 8, "lr": 2e-3, "ema": 0.8, "log_every": 2},
        } | sections
        paths = [
            f'data.store="{signal_world / "store"}"',
            f'data.annotations="{signal_world / "annotations.json"}"',
            'train.device="cpu"',
        ]
        return load_table(Experiment, table, [*paths, *overrides])

    return make


@pytest.fixture(scope="session")
def teacher(
    experiment: Callable[..., Experiment], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "run"
    train(experiment("train.steps=4", 'model.streams=["made:tg"]'), out)
    return out


@pytest.fixture
def student(experiment: Callable[..., Experiment], teacher: Path) -> Callable[..., Experiment]:
    def make(*overrides: str) -> Experiment:
        settings = ("data.label_fraction=0.5", "data.unlabelled=true", f'teacher.run="{teacher}"')
        return experiment(*settings, *overrides, model=DECOMPOSED, transfers=TRANSFERS)

    return make
