"""Every shipped preset can be built, is documented, and says at once what it lacks."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tad_distill import config as settings
from tad_distill.config import ConfigError
from tad_distill.console import UserError
from tad_distill.data.store import Stream
from tad_distill.distill.config import PRESETS, Experiment, dump, load, load_preset
from tad_distill.distill.model import Decomposed, Single, build
from tad_distill.distill.train import train

ALL = sorted(path.stem for path in PRESETS.glob("*.toml"))
# Those of a data set and a head are held to more in test_recipes.py.
NAMES = [name for name in ALL if not name.startswith(("thumos_", "anet_"))]
ROWS = ["conventional", "control", "rgb", "student", "teacher", "two_stream"]
# Rows whose motion branch reads a copy of the last stage.
COPIED = {"adapter_student": "motion", "adapter_control": "labels"}
TAUGHT = ("student", "conventional")


def read(name: str, *overrides: str) -> Experiment:
    taught = name.endswith(TAUGHT)
    return load_preset(name, ["teacher.run=runs/teacher"] * taught + list(overrides))


def small(table: dict[str, Any]) -> dict[str, Any]:
    """What the rows of one table have in common: all but the model, and who teaches it."""
    parts = {key: table[key] for key in ("head", "nms", "predict", "train", "objective")}
    sizes = {k: v for k, v in table["model"].items() if k in ("dim", "num_layers", "noise")}
    return parts | {"sizes": sizes, "labels": table["data"]["label_fraction"]}


@pytest.mark.parametrize("group", ["", "world_"])
def test_the_rows_of_a_table_differ_in_model_and_teacher_alone(group: str) -> None:
    rows = [*ROWS, *COPIED]
    assert set(NAMES) == {group + row for group in ("", "world_") for row in rows}
    tables = [dump(read(group + row)) for row in rows]
    assert all(small(table) == small(tables[0]) for table in tables)


def test_the_control_is_the_student_without_a_teacher() -> None:
    for group in ("", "world_"):
        student, control = dump(read(group + "student")), dump(read(group + "control"))
        for key in ("transfers", "teacher", "preset"):
            student.pop(key), control.pop(key)
        student["data"].pop("unlabelled"), control["data"].pop("unlabelled")
        assert student == control


@pytest.mark.parametrize("group", ["", "world_"])
@pytest.mark.parametrize("row", COPIED)
def test_a_row_with_a_copy_is_another_row_but_for_one_stream(group: str, row: str) -> None:
    ours, other = read(group + row), read(group + row.removeprefix("adapter_"))
    assert ours.model.motion == f"{other.model.motion}+{COPIED[row]}"
    tables = [dump(experiment) for experiment in (ours, other)]
    for table in tables:
        table.pop("preset"), table["model"].pop("motion")
    assert tables[0] == tables[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_builds_the_detector_that_its_name_says(name: str) -> None:
    experiment = read(name)
    assert experiment.preset == name
    dims = dict.fromkeys(experiment.model.all_streams, 8)
    with torch.device("meta"):
        model = build(experiment.model, experiment.head, experiment.fusion, dims, 3)
    row = name.removeprefix("world_").removeprefix("adapter_")
    assert isinstance(model, Decomposed if row in ("student", "control") else Single)
    modalities = {re.split("[_+]", stream.partition(":")[2])[0] for stream in model.streams}
    assert modalities == {"teacher": {"tg"}, "two_stream": {"rgb", "tg"}}.get(row, {"rgb"})
    assert bool(experiment.transfers) == (row in TAUGHT)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_says_what_to_expect_and_where_its_numbers_come_from(name: str) -> None:
    text = (PRESETS / f"{name}.toml").read_text()
    head = " ".join(line.removeprefix("# ") for line in text.split("[data]")[0].splitlines())
    if name.startswith("world_"):
        assert "on one core" in head and "README.md" in head
    else:
        assert "depend on your data" in head and "ActionFormer's" in head and "Ours: " in head


@pytest.mark.parametrize("name", TAUGHT)
def test_a_student_without_a_teacher_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="teacher.run: not set.*--teacher RUN"):
        load_preset(name)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith(TAUGHT)])
def test_a_preset_says_which_streams_the_store_lacks(
    name: str, tmp_path: Path, add_stream: Callable[..., Stream]
) -> None:
    add_stream(tmp_path / "store", "other:rgb", {"v": np.zeros((9, 2), np.float32)})
    experiment = read(name, f'data.store="{tmp_path / "store"}"', 'data.annotations="a.json"')
    plain = [s for s in experiment.model.all_streams if "+" not in s]
    lacking = "extract with " + " ".join(f"--stream {s}" for s in plain)
    if name.endswith("adapter_control"):
        lacking += f"; make {experiment.model.motion} with tad-distill adapt"
    with pytest.raises(UserError) as caught:
        train(experiment, tmp_path / "run")
    assert "there are other:rgb" in str(caught.value)
    assert f"preset {name} needs them: {lacking}" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_preset_survives_being_written_and_read(tmp_path: Path) -> None:
    import json

    for name in NAMES:
        experiment = read(name)
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"tad_distill": "x", "experiment": dump(experiment)}))
        assert load(path) == experiment


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lrr=1", "train.lrr: no such setting; did you mean lr"),
        ("train.lr=high", "train.lr: expected float"),
        ("train.ema=1.0", r"train: ema must be in \[0, 1\)"),
        ("train.epochs=0", "train: epochs must be at least 1"),
        ("train.schedule=step", "train: drop_at goes with schedule=step"),
        ("train.drop_factor=2", r"train: drop_factor must be in \(0, 1\]"),
        ("train.select=validation", "train.select: 'validation' needs data.validation_subset"),
        ("data.unlabelled=true", "data.unlabelled: true, but only a teacher's lessons"),
        ("data.subset=test", "data: subset: 'test' is test_subset"),
        ("teacher.run=runs/teacher", "has no transfers"),
        ("head.kind=no_head", "head.kind: expected one of"),
        ("predict.overlap=-1", "predict: overlap must be in"),
    ],
)
def test_impossible_experiments_die_at_once(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_preset("world_rgb", [override])


def test_warm_up_and_length_follow_the_recipe() -> None:
    recipe = load_preset("rgb").train
    # THUMOS'14: 200 videos in batches of 2; 5 of 35 epochs are warm-up.
    assert (recipe.num_steps(100), recipe.num_warmup(100)) == (3500, 500)
    short = settings.load(Experiment, dump(load_preset("rgb")), ["train.steps=21"]).train
    assert (short.num_steps(100), short.num_warmup(100)) == (21, 3)
