"""Who is taught by whom: labels, teachers and grids that fit, and those that do not."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import CPU, DECOMPOSED, equal, weights

from tad_distill.config import ConfigError
from tad_distill.console import UserError
from tad_distill.data.store import Store, Stream
from tad_distill.distill.config import Experiment
from tad_distill.distill.predict import Run, predict
from tad_distill.distill.sources import open_sources
from tad_distill.distill.train import train


def test_the_control_differs_from_the_student_in_the_teacher_alone(
    student: Callable[..., Experiment], experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """With lessons of weight 0 the student is the control, to the last bit."""
    train(student("objective.distillation=0.0", "data.unlabelled=false"), tmp_path / "student")
    control = experiment("data.label_fraction=0.5", model=DECOMPOSED)
    train(control, tmp_path / "control")
    assert equal(weights(tmp_path / "student"), weights(tmp_path / "control"))


def test_videos_that_the_annotations_do_not_name_are_taught_on(
    student: Callable[..., Experiment], tmp_path: Path, signal_world: Path
) -> None:
    everything = json.loads((signal_world / "annotations.json").read_text())["database"]
    training = [name for name, video in everything.items() if video["subset"] == "training"]
    few = {name: video for name, video in everything.items() if name not in training[8:]}
    (tmp_path / "few.json").write_text(json.dumps({"database": few}))
    settings = (f'data.annotations="{tmp_path / "few.json"}"', "data.label_fraction=1.0")
    listed = open_sources(student(*settings), CPU).dataset
    assert (listed.counts["labelled"], listed.counts["unlabelled"]) == (8, 0)
    unlisted = open_sources(student(*settings, "data.unlisted=true"), CPU).dataset
    assert set(unlisted.videos) == set(training)
    assert (unlisted.counts["labelled"], unlisted.counts["unlisted"]) == (8, len(training) - 8)
    rows = unlisted.batches(0, 8, 4)
    assert [sum(unlisted.labelled[i] for i in row) for row in rows] == [8]
    assert [len(row) for row in rows] == [12]


def test_a_teacher_of_other_labels_or_another_grid_is_refused(
    student: Callable[..., Experiment], tmp_path: Path, signal_world: Path
) -> None:
    text = (signal_world / "annotations.json").read_text()
    (tmp_path / "other.json").write_text(text.replace('"run"', '"swim"'))
    with pytest.raises(UserError, match="only the teacher: run; only the annotations: swim"):
        train(student(f'data.annotations="{tmp_path / "other.json"}"'), tmp_path / "run")
    with pytest.raises(UserError, match=r"target_len=None.*target_len=32.*do not correspond"):
        train(student("data.target_len=32"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_coarser_features_teaches_on_the_grid_of_the_student(
    student: Callable[..., Experiment],
    experiment: Callable[..., Experiment],
    tmp_path: Path,
    signal_world: Path,
    add_stream: Callable[..., Stream],
) -> None:
    shutil.copytree(signal_world / "store", tmp_path / "store")
    fine = Store.open(signal_world / "store").stream("made:tg")
    halved = {video: fine.read(video)[: len(fine.read(video)) // 2 * 2] for video in fine.videos}
    halved = {video: (x[0::2] + x[1::2]) / 2 for video, x in halved.items()}
    spec = {"clip_frames": 4, "stride_frames": 4, "offset_frames": 2}
    add_stream(tmp_path / "store", "slow:tg", halved, fps=8.0, **spec)
    settings = (f'data.store="{tmp_path / "store"}"', "train.steps=2")
    slow = 'model.streams=["slow:tg"]'
    train(experiment(*settings, slow), tmp_path / "own")
    with pytest.raises(UserError, match="grid is that of slow:tg .* that of made:rgb .*data.grid"):
        train(student(*settings, f'teacher.run="{tmp_path / "own"}"'), tmp_path / "run")
    train(experiment(*settings, slow, 'data.grid="made:rgb"'), tmp_path / "shared")
    train(student(*settings, f'teacher.run="{tmp_path / "shared"}"'), tmp_path / "run")
    # Of steps of one length in seconds it does not matter whose they were.
    paced = (*settings, "data.step_s=0.25")
    train(experiment(*paced, slow), tmp_path / "paced")
    teacher = f'teacher.run="{tmp_path / "paced"}"'
    with pytest.raises(UserError, match=r"step_s=0.25\).*step_s=0\): their predictions do not"):
        train(student(*settings, teacher), tmp_path / "other")
    train(student(*paced, teacher), tmp_path / "other")
    # Alone, it finds actions on the grid that it was trained on.
    found = predict(Run.load(tmp_path / "shared", "cpu"), Store.open(tmp_path / "store"), ["v00"])
    assert set(found["video"]) == {"v00"}


def test_missing_streams_and_paths_are_named_at_once(
    experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"no stream b:x, b:y \(there are .*--stream b:x --stream"):
        train(experiment('model.streams=["b:x","made:rgb","b:y"]'), tmp_path)
    without = experiment()
    without = replace(without, data=replace(without.data, store=None))
    with pytest.raises(ConfigError, match="data.store: not set; name it with --store"):
        train(without, tmp_path)
    with pytest.raises(UserError, match="no subset 'trainig'; subsets there are: test, training"):
        train(experiment('data.subset="trainig"'), tmp_path)
    short = ("data.max_len=2", "data.window_overlap=0.0", "data.trunc_thresh=0.9")
    with pytest.raises(UserError, match="no window of 2 steps lies enough of a segment of subset"):
        train(experiment(*short), tmp_path)
