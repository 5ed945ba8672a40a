"""Detectors that learn where and are told what: class-agnostic ones, with label scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tad_distill.config import ConfigError
from tad_distill.config import load as load_table
from tad_distill.console import UserError
from tad_distill.data import annotations
from tad_distill.data.store import Store
from tad_distill.distill.config import Experiment
from tad_distill.distill.predict import Run, predict
from tad_distill.distill.train import train

HEADS: dict[str, dict[str, Any]] = {
    "actionformer": {"embd_dim": 16, "num_heads": 2, "arch": [1, 1, 2], "window": [7]}
    | {"loss_normalizer": 30.0},
    "gtad": {"embd_dim": 16, "graph_width": 16, "graph_groups": 4, "align_dim": 16}
    | {"map_dim": 8, "max_duration": 12},
}


def experiment(world: Path, head: str, *overrides: str, agnostic: bool = True) -> Experiment:
    table: dict[str, Any] = {
        "data": {"max_len": 48},
        "model": {"streams": ["made:rgb"], "dim": 16, "class_agnostic": agnostic},
        "head": {"kind": head} | HEADS[head],
        "nms": {"min_score": 0.0, "multiclass": False, "voting_threshold": 0.0},
        "train": {"lr": 4e-3, "ema": 0.5, "steps": 4, "device": "cpu"},
    }
    paths = [
        f'data.store="{world / "store"}"',
        f'data.annotations="{world / "annotations.json"}"',
    ]
    return load_table(Experiment, table, [*paths, *overrides])


@pytest.fixture(scope="module")
def scores(signal_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a classifier would say of each video: 0.81 of its first label, 0.16 of another."""
    known = annotations.read(signal_world / "annotations.json")
    results = {}
    for name, video in known.videos.items():
        first = video.annotations[0].label
        other = next(label for label in known.labels if label != first)
        results[name] = [{"label": first, "score": 0.81}, {"label": other, "score": 0.16}]
    path = tmp_path_factory.mktemp("scores") / "scores.json"
    path.write_text(json.dumps({"results": results}))
    return path


@pytest.mark.parametrize("head", HEADS)
def test_a_class_agnostic_detector_says_where_and_the_scores_say_what(
    head: str, signal_world: Path, scores: Path, tmp_path: Path
) -> None:
    train(experiment(signal_world, head), tmp_path / "run")
    run = Run.load(tmp_path / "run", "cpu")
    assert run.model.num_labels == 1 and len(run.labels) == 3
    store = Store.open(signal_world / "store")
    with pytest.raises(UserError, match="class-agnostic.*--scores FILE"):
        predict(run, store, ["v28"])
    found = predict(run.with_label_scores(scores), store, ["v28", "v30"])
    of_file = json.loads(scores.read_text())["results"]
    for video, rows in found.groupby("video"):
        first, other = (entry["label"] for entry in of_file[video])
        by_label = {label: part for label, part in rows.groupby("label")}
        assert by_label.keys() == {first, other}
        best, second = by_label[first], by_label[other]
        assert 0 < len(best) == len(second) <= run.experiment.nms.num_detections
        np.testing.assert_array_equal(best["start_s"], second["start_s"])
        # Roots of products: 0.9 and 0.4 times the same.
        np.testing.assert_allclose(best["score"] / 0.9, second["score"] / 0.4, rtol=1e-6)
        assert (np.diff(rows["score"]) <= 0).all()


def test_other_detectors_may_use_them_too(signal_world: Path, scores: Path, tmp_path: Path) -> None:
    settings = experiment(signal_world, "gtad", 'predict.external_fusion="product"', agnostic=False)
    train(settings, tmp_path / "run")
    run = Run.load(tmp_path / "run", "cpu")
    store = Store.open(signal_world / "store")
    plain, fused = (predict(r, store, ["v28"]) for r in (run, run.with_label_scores(scores)))
    weight = {e["label"]: e["score"] for e in json.loads(scores.read_text())["results"]["v28"]}
    kept = plain[plain["label"].isin(list(weight))]
    expected = kept["score"] * kept["label"].map(weight)
    assert 0 < len(fused) == len(kept)
    np.testing.assert_allclose(fused["score"], np.sort(expected)[::-1], rtol=1e-6)


def test_validation_fuses_them_and_is_refused_without(
    signal_world: Path, scores: Path, tmp_path: Path
) -> None:
    validated = 'data.validation_subset="validation"'
    with pytest.raises(ConfigError, match=r"predict\.external_scores: not set"):
        experiment(signal_world, "gtad", validated)
    given = f'predict.external_scores="{scores}"'
    train(experiment(signal_world, "gtad", validated, given), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert any(row.get("validation_mAP", 0) > 0 for row in rows)


def test_videos_without_scores_are_named_before_the_work(
    signal_world: Path, tmp_path: Path
) -> None:
    path = tmp_path / "scores.json"
    content = {"class": ["fall", "jump", "run"], "results": {"v24": [1, 0, 0]}}
    path.write_text(json.dumps(content))
    settings = experiment(
        signal_world,
        "gtad",
        'data.validation_subset="validation"',
        f'predict.external_scores="{path}"',
    )
    with pytest.raises(UserError, match=r"no label scores for 3 of the videos \(v25, v26, v27\)"):
        train(settings, tmp_path / "run")
