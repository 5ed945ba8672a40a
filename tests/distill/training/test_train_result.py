"""Validation, selection, an obvious signal, and settings that can be run again."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import equal, losses, weights

from tad_distill.data import annotations
from tad_distill.data.store import Store
from tad_distill.distill import checkpoint
from tad_distill.distill.config import Experiment
from tad_distill.distill.predict import Run, predict
from tad_distill.distill.train import train
from tad_distill.evaluate.mean_ap import mean_ap


def test_validation_leaves_no_trace_in_the_training(
    experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    train(experiment(), tmp_path / "a")
    watch = ('data.validation_subset="validation"', "train.validate_every=1")
    train(experiment(*watch), tmp_path / "b")
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    scores = [row["validation_mAP"] for row in losses(tmp_path / "b") if "validation_mAP" in row]
    assert len(scores) == 3 and all(0 <= score <= 1 for score in scores)


def test_selection_keeps_the_weights_that_validated_best(
    experiment: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    scores = iter([0.1, 0.3, 0.2])

    def score(self: object, model: torch.nn.Module) -> float:
        assert not model.training
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return next(scores)

    monkeypatch.setattr("tad_distill.distill.validate.Validation.score", score)
    watch = ('data.validation_subset="validation"', "train.validate_every=1")
    train(experiment(*watch, 'train.select="validation"'), tmp_path)
    assert equal(weights(tmp_path), seen[1])
    assert checkpoint.load(tmp_path / "model.pt")["provenance"]["selected_step"] == 6


@pytest.mark.slow
def test_an_obvious_signal_is_found(
    experiment: Callable[..., Experiment], tmp_path: Path, signal_world: Path
) -> None:
    train(experiment("train.steps=60", "train.lr=4e-3"), tmp_path)
    test = annotations.read(signal_world / "annotations.json").subset("test")
    found = predict(
        Run.load(tmp_path, "cpu"), Store.open(signal_world / "store"), list(test.videos)
    )
    assert mean_ap(test.table(), found, (0.5,)).average_mAP > 0.7
    shuffled = found.assign(label=list(np.random.default_rng(0).permutation(found["label"])))
    assert mean_ap(test.table(), shuffled, (0.5,)).average_mAP < 0.4


def test_settings_can_be_read_back_and_run_again(
    student: Callable[..., Experiment], tmp_path: Path
) -> None:
    from tad_distill.distill.config import load

    train(student(), tmp_path / "a")
    again = load(tmp_path / "a" / "config.json")
    train(again, tmp_path / "b")
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert json.loads((tmp_path / "a" / "config.json").read_text())["tad_distill"]
