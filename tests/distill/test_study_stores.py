"""Studies on features of one's own, whole or in folds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_studies import made

from tad_distill.config import ConfigError
from tad_distill.console import UserError
from tad_distill.distill.studies import shared
from tad_distill.distill.studies.cells import (
    Draw,
    cells,
    train_step,
)
from tad_distill.distill.studies.grid import Grid, Setup
from tad_distill.steps import command

WORDS = {"rgb": "made:rgb", "motion": "made:tg"}

ON_A_STORE = {
    "words": WORDS,
    "settings": ["train.steps=2"],
    "rows": {
        "teacher": {"settings": ['model.streams=["$motion"]']},
        "rgb": {"settings": ['model.streams=["$rgb"]']},
        "dual": {"settings": ["model.appearance=$rgb", "model.motion=$rgb"]},
        "student": {"settings": ["model.appearance=$rgb", "model.motion=$rgb"]},
        "two_stream": {"settings": ['model.streams=["$rgb", "$motion"]']},
    },
}


def on_store(world: Path, out: Path, folds: int = 0, **changes: Any) -> Grid:
    pair = world / "store", world / "annotations.json"
    study = made(**{**ON_A_STORE, **changes})
    return Grid(Setup(study=study, shared=out / "worlds", stores=(pair,), folds=folds), out)


def test_on_a_store_nothing_is_rendered(signal_world: Path, tmp_path: Path) -> None:
    grid = on_store(signal_world, tmp_path)
    assert grid.kind == "fold" and len(grid.draws) == 1
    assert {step.args[0] for step in grid.steps} == {"train", "detect"}


def test_folds_write_their_own_subsets(signal_world: Path, tmp_path: Path) -> None:
    from tad_distill.data import annotations

    grid = on_store(signal_world, tmp_path, folds=4)
    assert not (tmp_path / "folds").exists(), "planning writes nothing"
    grid.write_folds()
    tested: list[str] = []
    for number in range(4):
        found = annotations.read(tmp_path / f"folds/fold{number}.json")
        assert found.subsets() == ["test", "training", "validation"]
        tested += found.subset("test").videos
    assert len(tested) == len(set(tested)) == 36


@pytest.mark.parametrize(
    ("changes", "folds", "message"),
    [
        ({"words": {**WORDS, "motion": "made:flux"}}, 0, "no stream made:flux .there are made:fl"),
        ({"validation": "dev"}, 0, "no subset 'dev' .there are test, training, validation"),
        ({"validation": "test"}, 0, "test: 'test' is also trained or chosen on"),
        ({"settings": ["data.subset=train"]}, 0, "no subset 'train'"),
        ({}, 37, "37 folds of 36 videos"),
    ],
)
def test_a_store_that_does_not_fit_is_refused_before_anything_runs(
    signal_world: Path, tmp_path: Path, changes: dict[str, Any], folds: int, message: str
) -> None:
    with pytest.raises((UserError, ConfigError), match=message):
        on_store(signal_world, tmp_path, folds, **changes)
    assert not list(tmp_path.iterdir())


def test_a_copy_on_a_store_is_planned_until_it_is_there(
    signal_world: Path, tmp_path: Path, add_stream: Callable[..., object]
) -> None:
    study = made(
        **ON_A_STORE
        | {"adapt": {"made:rgb+motion": {"preset": "world_adapter", "settings": ADAPTED}}}
    )
    draw = Draw("fold0", 0, signal_world / "store", signal_world / "annotations.json")
    (planned,) = shared.stores(study, [draw], ["made:rgb", "made:rgb+motion"], tmp_path, False)
    assert [step.name for step in planned.steps] == ["fold0.adapt.made:rgb+motion"]
    assert planned.copies(["made:rgb+motion"]) == planned.steps
    with pytest.raises(UserError, match=r"no stream made:rgb\+motion"):
        shared.stores(study, [draw], ["made:rgb+motion"], tmp_path, True)


ADAPTED = ["adapter.maps=made:rgb", "adapter.teacher=made:tg"]


def test_a_training_step_is_what_a_user_would_type() -> None:
    study = made()
    draw = Draw("fold0", 3, Path("/data/store"), Path("/data/a.json"))
    (cell,) = (c for c in cells(study, [draw], 1) if c.row == "student")
    assert command(train_step(study, cell, Path("/out"))) == (
        "tad-distill train --preset world_student --store /data/store --annotations /data/a.json "
        "--out /out/runs/student/fold0_seed0 --seed 300 --teacher /out/runs/teacher/fold0_seed0 "
        "--set data.label_seed=3"
    )
