"""A small world of moving noise, with runs to start from."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from finetuning import CONFIG, HEAD, MAPS, MOTION, RGB, SEEDS, SINGLE, TG, Make

from tad_distill.config import load as load_table
from tad_distill.distill.adapter.config import AdapterConfig
from tad_distill.distill.adapter.run import adapt
from tad_distill.distill.config import Experiment
from tad_distill.distill.finetune.config import FinetuneConfig, load
from tad_distill.distill.train import train
from tad_distill.extract.run import extract


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of moving noise, their features, a teacher, and runs named after their streams."""
    folder = tmp_path_factory.mktemp("finetune")
    random = np.random.default_rng(0)
    database: dict[str, Any] = {}
    (folder / "videos").mkdir()
    for number in range(6):
        length = 37 + number
        noise = random.integers(0, 256, (32, 120, 3), dtype=np.uint8)
        scene = np.asarray(cv2.GaussianBlur(noise, (5, 5), 0))
        path = str(folder / f"videos/v{number}.mp4")
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), 10, (40, 32))
        for frame in range(length):
            writer.write(np.ascontiguousarray(scene[:, 2 * frame % 70 :][:, :40]))
        writer.release()
        subset = "validation" if number == 5 else "training"
        rows = [{"label": f"{'ab'[number % 2]}{m}", "segment": [0.2 + m, 1.1 + m]} for m in (0, 2)]
        database[f"v{number}"] = {"subset": subset, "duration": length / 10, "annotations": rows}
    (folder / "annotations.json").write_text(json.dumps({"database": database}))
    sources = {stream: Path(seed) for stream, seed in SEEDS.items()}
    files = sorted((folder / "videos").iterdir())
    extract(files, list(SEEDS), folder / "store", CONFIG, sources)
    settings = [
        f'data.store="{folder / "store"}"',
        f'data.annotations="{folder / "annotations.json"}"',
    ]
    copy = {"adapter": {"maps": MAPS, "teacher": TG}, "train": {"steps": 2, "window_frames": 16}}
    adapt(load_table(AdapterConfig, copy, settings), folder / "adapter")
    single = {"model": SINGLE, "head": HEAD, "train": {"steps": 3, "lr": 1e-3, "ema": 0.5}}
    train(load_table(Experiment, single, settings), folder / "rgb")
    train(
        load_table(Experiment, single, [*settings, f'model.streams=["{TG}"]']), folder / "teacher"
    )
    student = single | {
        "model": {"kind": "decomposed", "appearance": RGB, "motion": MOTION, "dim": 8},
        "transfers": [{"kind": "response"}, {"kind": "feature"}],
        "teacher": {"run": str(folder / "teacher")},
        "data": {"label_fraction": 0.5, "unlabelled": True},
    }
    train(load_table(Experiment, student, settings), folder / "student")
    return folder


@pytest.fixture
def make(world: Path, tmp_path: Path) -> Make:
    def config(*overrides: str, run: str = "rgb", **options: Any) -> FinetuneConfig:
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(
            "[data]\nmax_len = 12\n[train]\nsteps = 4\nbatch_size = 3\nlr = 1e-2\nema = 0.5\n"
            'warmup = 0.0\nlog_every = 2\ndevice = "cpu"\n[backbone]\nlr_scale = 0.1\n'
        )
        given = {"backbone.videos": [world / "videos"], **options}
        return load(recipe, world / run, overrides, given)

    return config
