"""End-to-end fine-tuning starts where the features are, learns, and resumes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetuning import CONFIG, HEAD, MOTION, RGB, SINGLE, Make, changed, state_of, trainer_of

from tad_distill import console
from tad_distill.config import load as load_table
from tad_distill.console import Interrupted
from tad_distill.distill import checkpoint
from tad_distill.distill.config import Experiment
from tad_distill.distill.finetune.config import load
from tad_distill.distill.finetune.features import FreshGrid, see
from tad_distill.distill.finetune.loop import EndToEndTrainer
from tad_distill.distill.finetune.run import finetune
from tad_distill.distill.train import train
from tad_distill.extract import weights as weight_files
from tad_distill.extract.run import extract


@pytest.mark.parametrize(("run", "streams"), [("rgb", [RGB]), ("student", [RGB, MOTION])])
@pytest.mark.parametrize("max_len", [7, 12, 64])
def test_training_starts_from_the_stored_features(
    run: str, streams: list[str], max_len: int, make: Make, tmp_path: Path
) -> None:
    trainer = trainer_of(make(f"data.max_len={max_len}", run=run), tmp_path)
    dataset = trainer.sources.dataset
    for epoch in range(3):
        samples = [dataset.window(index, epoch) for index in range(len(dataset))]
        batch = trainer.experiment.data.batch(samples)
        seen = see(trainer.backbones, trainer._frames, dataset.grid, batch)
        assert list(seen) == streams
        for stream in streams:
            assert seen[stream].requires_grad
            stored = batch.feats[stream]
            assert stored.abs().max() > 0.1
            # The copy's stored features went through maps in float32, so these agree as well.
            torch.testing.assert_close(seen[stream].detach(), stored, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "step_s"),
    [
        ({"halo_frames": 0}, 0.0),
        ({"halo_frames": 2, "pool_frames": 4}, 0.0),
        ({"pool_frames": 1}, 0.15),
        ({"dtype": "float16", "fps": 5.0}, 0.0),
    ],
)
def test_windows_are_cut_as_the_extraction_cuts(
    settings: dict[str, Any], step_s: float, world: Path, tmp_path: Path
) -> None:
    files = sorted((world / "videos").iterdir())
    extract(files, [RGB], tmp_path / "store", replace(CONFIG, **settings), {RGB: Path("random:0")})
    paths = [f'data.store="{tmp_path / "store"}"']
    paths += [f'data.annotations="{world / "annotations.json"}"']
    table: dict[str, Any] = {"model": SINGLE, "head": HEAD, "train": {"steps": 1}}
    table["data"] = {"step_s": step_s}
    train(load_table(Experiment, table, paths), tmp_path / "run")
    (tmp_path / "recipe.toml").write_text('[data]\nvalidation_subset = "validation"\n')
    options = {"backbone.videos": [world / "videos"]}
    config = load(tmp_path / "recipe.toml", tmp_path / "run", [], options)
    trainer = trainer_of(config, tmp_path)
    grid = trainer.sources.dataset.grid
    fresh = FreshGrid(grid, trainer.backbones, trainer._frames)
    tolerance = 2e-3 if "dtype" in settings else 2e-5
    for epoch, max_len in enumerate((5, 9)):
        dataset = trainer.sources.dataset
        dataset.config = replace(dataset.config, max_len=max_len)
        batch = dataset.config.batch([dataset.window(i, epoch) for i in range(len(dataset))])
        seen = see(trainer.backbones, trainer._frames, grid, batch)[RGB]
        torch.testing.assert_close(seen.detach(), batch.feats[RGB], atol=tolerance, rtol=1e-3)
    for video in (*dataset.videos, "v5"):
        for start, stop in ((0, None), (2, 3), (1, 6)):
            ours, stored = (g.read(video, start, stop)[RGB] for g in (fresh, grid))
            np.testing.assert_allclose(ours, stored, atol=tolerance, rtol=1e-3)


def test_batch_norms_stay_and_everything_else_learns(make: Make, tmp_path: Path) -> None:
    finetune(make(), tmp_path / "run")
    network, _ = weight_files.prepare("tsm_mini", "rgb", 3, Path("random:0"))
    norms = {
        f"{name}.{key}"
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
        for key in module.state_dict()
    }
    assert changed(tmp_path / "run") == set(network.state_dict()) - norms


def test_stages_below_the_first_trained_one_get_no_gradient(make: Make, tmp_path: Path) -> None:
    config = make("backbone.from_stage=layer3")
    trainer = trainer_of(config, tmp_path)
    dataset = trainer.sources.dataset
    batch = config.data.batch([dataset.window(0, 0)])
    see(trainer.backbones, trainer._frames, dataset.grid, batch)[RGB].sum().backward()
    graded = {n for n, p in trainer.backbones.named_parameters() if p.grad is not None}
    stage = {"conv1.weight", "conv2.weight", "down.weight"}
    assert graded == {f"networks.{RGB}.layer3.{name}" for name in stage}
    finetune(config, tmp_path / "run")
    assert changed(tmp_path / "run") == {f"layer3.{name}" for name in stage}


def test_the_backbone_learns_at_its_share(make: Make, tmp_path: Path) -> None:
    trainer = trainer_of(make(), tmp_path)
    rates = {
        id(parameter): group["lr_scale"]
        for group in trainer.optimizer.param_groups
        for parameter in group["params"]
    }
    trained = [p for p in trainer.backbones.parameters() if p.requires_grad]
    assert len(trained) == 10 and {rates[id(p)] for p in trained} == {0.1}
    mine = {id(p) for p in trainer.backbones.parameters()}
    rest = [p for p in trainer.model.parameters() if id(p) not in mine]
    assert {rates[id(p)] for p in rest} == {1.0} and len(rates) == len(rest) + 10


@pytest.mark.parametrize("run", ["rgb", "student"])
def test_a_stopped_run_ends_with_the_same_weights(
    run: str, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make('data.validation_subset="validation"', "model.noise=0.0", run=run)
    finetune(config, tmp_path / "whole")
    learn = EndToEndTrainer._learn

    def learn_then_signal(self: EndToEndTrainer, *args: Any) -> None:
        learn(self, *args)
        if self.step == 3:
            monkeypatch.setattr(console, "_stop_signal", 10)

    with monkeypatch.context() as patch:
        patch.setattr(EndToEndTrainer, "_learn", learn_then_signal)
        with pytest.raises(Interrupted, match="step 3 of 4 is saved"):
            finetune(config, tmp_path / "stopped")
    monkeypatch.setattr(console, "_stop_signal", None)
    assert not (tmp_path / "stopped/model.pt").exists()
    finetune(config, tmp_path / "stopped")
    for name in sorted(p.name for p in (tmp_path / "whole").glob("backbone*.pt")):
        ours, theirs = (state_of(tmp_path / out / name) for out in ("whole", "stopped"))
        assert all(ours[key].equal(theirs[key]) for key in ours)
    ours, theirs = (checkpoint.load(tmp_path / o / "model.pt") for o in ("whole", "stopped"))
    assert all(ours["weights"][key].equal(theirs["weights"][key]) for key in ours["weights"])
    histories = []
    for out in ("whole", "stopped"):
        lines = (tmp_path / out / "history.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        histories.append([{k: v for k, v in r.items() if k != "steps_per_s"} for r in rows])
    assert histories[0] == histories[1]
    assert [row["step"] for row in histories[0] if "validation_mAP" in row] == [0, 4]


def test_computing_stages_twice_gives_the_same_weights(make: Make, tmp_path: Path) -> None:
    finetune(make(), tmp_path / "kept")
    finetune(make("backbone.checkpointing=true"), tmp_path / "again")
    assert changed(tmp_path / "kept")
    ours, theirs = (state_of(tmp_path / out / "backbone.pt") for out in ("kept", "again"))
    assert all(ours[key].equal(theirs[key]) for key in ours)
