"""Detections are in seconds, whatever the windows, and only of features that the model knows."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tad_distill.config import load as load_table
from tad_distill.console import UserError
from tad_distill.data.grid import Grid
from tad_distill.data.store import Store, Stream
from tad_distill.distill import checkpoint
from tad_distill.distill.config import Experiment, PredictConfig
from tad_distill.distill.heads import Candidates, Predictions
from tad_distill.distill.predict import Run, pick_device, predict, predict_on
from tad_distill.distill.train import train

AddStream = Callable[..., Stream]


@pytest.fixture(scope="module")
def run(signal_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("run") / "rgb"
    train(experiment(signal_world, "train.steps=12"), out)
    return Run.load(out, "cpu")


def experiment(world: Path, *overrides: str) -> Experiment:
    table: dict[str, Any] = {
        "data": {"max_len": 48},
        "model": {"streams": ["made:rgb"], "dim": 16, "num_layers": 1},
        "head": {"embd_dim": 16, "num_heads": 2, "arch": [1, 1, 2], "window": [7]}
        | {"kind": "actionformer", "loss_normalizer": 30.0, "decode_min_score": 0.0},
        "train": {"lr": 4e-3, "ema": 0.5},
    }
    paths = [
        f'data.store="{world / "store"}"',
        f'data.annotations="{world / "annotations.json"}"',
        'train.device="cpu"',
    ]
    return load_table(Experiment, table, [*paths, *overrides])


class Echo(torch.nn.Module):
    """Says where each step of its window lies by the features that it reads there."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.reach = reach
        self.joint_head = self
        self.lengths: list[int] = []

    def detect(self, feats: dict[str, torch.Tensor], mask: torch.Tensor) -> Predictions:
        self.lengths.append(int(mask.sum()))
        values = feats["a:rgb"][0, :, 0]
        context = torch.nn.functional.pad(values, (self.reach, self.reach))
        around = context.unfold(0, 2 * self.reach + 1, 1).sum(1)
        points = torch.arange(len(values), dtype=torch.float32)
        return Predictions(around[None, :, None], points[None, :, None], mask, torch.zeros(0, 4))

    def decode(self, predictions: Predictions) -> list[Candidates]:
        at = predictions.regression[0, predictions.mask[0], 0]
        scores = predictions.logits[0, predictions.mask[0], 0] / 1e4
        return [
            Candidates(torch.stack([at - 0.4, at + 0.4], 1), scores, torch.zeros_like(at).long())
        ]


class Blind(Echo):
    """Sees nothing."""

    def decode(self, predictions: Predictions) -> list[Candidates]:
        return [Candidates(torch.zeros(0, 2), torch.zeros(0), torch.zeros(0).long())]


@pytest.mark.parametrize(("window", "overlap"), [(100, 0), (40, 10), (16, 8), (33, 32)])
def test_windows_say_what_the_whole_video_says(
    tmp_path: Path, add_stream: AddStream, signal_world: Path, window: int, overlap: int
) -> None:
    """As long as half the overlap holds all that a prediction depends on."""
    feats = np.random.default_rng(0).uniform(1, 2, size=(97, 1)).astype(np.float32)
    stream = add_stream(tmp_path, "a:rgb", {"v": feats})
    settings = experiment(signal_world, "nms.num_detections=1000", "nms.min_score=0.0")
    settings = replace(settings, predict=PredictConfig(window=window, overlap=overlap))
    model: Any = Echo(reach=min(3, overlap // 2) if window < 97 else 3)
    found = predict_on(Grid({"a:rgb": stream}, stream), model, settings, ["x"], ["v"])
    assert max(model.lengths) <= window
    found = found.sort_values("start_s")
    context = np.pad(feats[:, 0], model.reach)
    expected = [context[t : t + 2 * model.reach + 1].sum() / 1e4 for t in range(97)]
    np.testing.assert_allclose(found["score"], expected, rtol=1e-5)
    centres = (found["start_s"] + found["end_s"]) / 2
    np.testing.assert_allclose(centres, (np.arange(97) + 0.5) / 10, atol=1e-5)


def test_detections_lie_within_the_video(run: Run, signal_world: Path) -> None:
    store = Store.open(signal_world / "store")
    found = predict(run, store, ["v28", "v35"])
    assert list(found.columns) == ["video", "label", "score", "start_s", "end_s"]
    assert set(found["video"]) == {"v28", "v35"}
    assert set(found["label"]) <= {"fall", "jump", "run"}
    for video, rows in found.groupby("video"):
        duration_s = store.stream("made:rgb").entry(str(video)).duration_s
        assert duration_s is not None
        assert (rows["start_s"] >= 0).all() and (rows["end_s"] <= duration_s).all()
        assert (rows["end_s"] > rows["start_s"]).all()
        assert rows["score"].is_monotonic_decreasing


def test_by_default_every_video_is_read_and_the_order_does_not_matter(
    run: Run, signal_world: Path
) -> None:
    store = Store.open(signal_world / "store")
    found = predict(run, store)
    assert sorted(set(found["video"])) == store.stream("made:rgb").videos
    one = predict(run, store, ["v07"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(found[found["video"] == "v07"].reset_index(drop=True), one)


def test_no_video_and_no_detection_give_an_empty_table(run: Run, signal_world: Path) -> None:
    store = Store.open(signal_world / "store")
    stream = store.stream("made:rgb")
    blind: Any = Blind(reach=0)
    settings = experiment(signal_world)
    found = predict_on(Grid({"a:rgb": stream}, stream), blind, settings, ["x"], ["v00", "v01"])
    assert len(blind.lengths) == 2
    for table in (predict(run, store, []), found):
        assert len(table) == 0
        assert list(table.columns) == ["video", "label", "score", "start_s", "end_s"]
        assert table["score"].dtype == np.float64


def test_only_the_streams_of_the_model_are_needed(
    run: Run, tmp_path: Path, add_stream: AddStream, signal_world: Path
) -> None:
    """A student's store needs no teacher's stream."""
    original = Store.open(signal_world / "store").stream("made:rgb")
    feats = {"v00": original.read("v00")}
    spec = {"clip_frames": 2, "stride_frames": 2, "offset_frames": 1, "dtype": "float16"}
    add_stream(tmp_path, "made:rgb", feats, fps=8.0, **spec)
    found = predict(run, Store.open(tmp_path))
    expected = predict(run, Store.open(signal_world / "store"), ["v00"])
    pd.testing.assert_frame_equal(found, expected)


def test_features_of_another_kind_are_refused(
    run: Run, tmp_path: Path, add_stream: AddStream, capsys: pytest.CaptureFixture[str]
) -> None:
    feats = {"v": np.zeros((30, 12), np.float32)}
    spec: dict[str, Any] = {"clip_frames": 2, "stride_frames": 2, "offset_frames": 1}
    add_stream(tmp_path / "other", "made:rgb", feats, dtype="float16", backbone="else", **spec)
    other = Store.open(tmp_path / "other")
    with pytest.raises(UserError, match='stream made:rgb is not what .*backbone: "else" here'):
        predict(run, other)
    capsys.readouterr()
    predict(run, other, allow_other_spec=True)
    assert "used nevertheless" in capsys.readouterr().err
    add_stream(tmp_path / "wide", "made:rgb", {"v": np.zeros((30, 13), np.float32)}, **spec)
    with pytest.raises(UserError, match=r"shape: \[13\] here, \[12\] there"):
        predict(run, Store.open(tmp_path / "wide"), allow_other_spec=True)
    add_stream(tmp_path / "none", "made:tg", feats)
    with pytest.raises(UserError, match="no stream made:rgb, which .* extract with --stream"):
        predict(run, Store.open(tmp_path / "none"))


def test_an_unknown_video_is_named(run: Run, signal_world: Path) -> None:
    with pytest.raises(UserError, match="video v99: no features of made:rgb"):
        predict(run, Store.open(signal_world / "store"), ["v00", "v99"])


def test_folders_without_a_finished_run_are_named(tmp_path: Path, run: Run) -> None:
    with pytest.raises(UserError, match="no model.pt in it: not a run"):
        Run.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="the run has not finished"):
        Run.load(tmp_path)
    state = checkpoint.load(run.path / "model.pt")
    checkpoint.save(state | {"layout": "something else"}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="layout 'something else'"):
        Run.load(tmp_path)
    table = json.loads(json.dumps(state["experiment"]))
    table["train"]["added_later"] = 1
    checkpoint.save(state | {"experiment": table}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="made by tad-distill .*train.added_later: no such setting"):
        Run.load(tmp_path)


def test_a_loaded_model_is_frozen_and_what_it_says_of_itself_is_kept(run: Run) -> None:
    assert not run.model.training
    assert not any(parameter.requires_grad for parameter in run.model.parameters())
    assert run.labels == ("fall", "jump", "run")
    assert run.specs.keys() == {"made:rgb"} and run.base_spec == run.specs["made:rgb"]
    assert run.provenance["seed"] == 0 and run.provenance["features"] == "frozen"
    assert Run.load(run.path, "cpu").weights_hash == run.weights_hash


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(UserError, match="cuda: no CUDA device"):
        pick_device("cuda")
