"""A plan of cells: what can be shared is, and pairs share what they must."""

from dataclasses import replace
from pathlib import Path

import pytest
from made_studies import grid_of, made

from tad_distill.config import ConfigError
from tad_distill.distill.studies.cells import (
    Draw,
    cells,
    experiments,
    needed,
    only,
    share,
    streams_of,
)
from tad_distill.distill.studies.grid import Setup
from tad_distill.steps import command
from tad_distill.units import Unit


def test_what_the_cells_of_a_world_share_is_made_once() -> None:
    grid = grid_of(made())
    names = [step.name for step in grid.steps]
    for world in ("world0", "world1"):
        own = [name for name in names if name.startswith(f"{world}.")]
        assert own == [
            f"{world}.world",
            f"{world}.pretrain.tsm_mini:tg_luma",
            f"{world}.extract.tsm_mini:tg_luma",
            f"{world}.pretrain.tsm_mini:rgb",
            f"{world}.extract.tsm_mini:rgb",
        ]
    assert len(names) == 2 * 5 + 2 * 2 * 5 * 2, "worlds + worlds x seeds x rows x (train, detect)"


def test_every_world_is_drawn_anew_with_all_that_depends_on_it() -> None:
    grid = grid_of(made())
    lines = {step.name: command(step) for step in grid.steps}
    for number in (0, 1):
        assert f"--seed {number} " in lines[f"world{number}.world"]
        assert f"--set seed={number}" in lines[f"world{number}.pretrain.tsm_mini:rgb"]
        train = lines[f"student.world{number}.seed1.train"]
        assert f"--seed {100 * number + 1} " in train
        assert f"--set data.label_seed={number}" in train
        assert f"/worlds/world{number}/features " in train


def test_the_rows_of_a_pair_share_seed_labels_and_data() -> None:
    grid = grid_of(made())
    lines = {step.name: command(step) for step in grid.steps}
    student, dual = (lines[f"{row}.world1.seed0.train"] for row in ("student", "dual"))
    for part in ("--seed 100", "--set data.label_seed=1", "--store /out/worlds/world1/features"):
        assert part in student and part in dual
    assert "--teacher /out/runs/teacher/world1_seed0" in student and "--teacher" not in dual


def test_a_student_waits_for_its_own_teacher_and_the_streams_of_both() -> None:
    steps = {step.name: step for step in grid_of(made()).steps}
    assert steps["student.world1.seed0.train"].needs == [
        "world1.extract.tsm_mini:rgb",
        "world1.extract.tsm_mini:tg_luma",
        "teacher.world1.seed0.train",
    ]
    assert steps["dual.world0.seed1.train"].needs == ["world0.extract.tsm_mini:rgb"]
    assert steps["dual.world0.seed1.detect"].needs == ["dual.world0.seed1.train"]


def test_detection_reads_both_subsets_and_scores_neither() -> None:
    plan = grid_of(made()).steps
    (step,) = (step for step in plan if step.name == "rgb.world0.seed0.detect")
    assert command(step).count("--subset") == 2
    assert not [step for step in plan if step.args[0] == "eval"]


def test_a_copy_is_trained_after_its_maps_and_its_teacher_are_there() -> None:
    study = made(
        adapt={"tsm_mini:rgb+motion": {"preset": "world_adapter"}},
        rows={"student": {"settings": ["model.motion=tsm_mini:rgb+motion"]}},
    )
    steps = {step.name: step for step in grid_of(study).steps}
    copy = steps["world0.adapt.tsm_mini:rgb+motion"]
    assert copy.needs == [
        "world0.extract.tsm_mini:rgb@layer2",
        "world0.extract.tsm_mini:tg_luma",
    ]
    assert copy.name in steps["student.world0.seed0.train"].needs
    assert steps["world0.extract.tsm_mini:rgb@layer2"].needs == ["world0.pretrain.tsm_mini:rgb"]
    assert "--set data.label_seed=0" in command(copy)


def test_streams_that_nothing_makes_are_refused() -> None:
    rich = {"student": {"settings": ["model.motion=tsm_mini:rgb+motion.rich"]}}
    with pytest.raises(ConfigError, match="adapt: no table for 'tsm_mini:rgb.motion', which a row"):
        grid_of(made(rows=rich))
    adapt = {"tsm_mini:rgb+motion": {"preset": "world_adapter"}}
    with pytest.raises(ConfigError, match="makes tsm_mini:rgb.motion, but a row reads .*rich"):
        grid_of(made(rows=rich, adapt=adapt))
    other = {"tsm_mini:rgb+motion": {"preset": "world_adapter", "settings": ["adapter.name=x"]}}
    with pytest.raises(ConfigError, match="makes tsm_mini:rgb.x; set adapter.name"):
        grid_of(made(rows=rich, adapt=other))
    with pytest.raises(ConfigError, match="pretrain: no table for 'tsm_mini:rgb'"):
        grid_of(made(pretrain={"tsm_mini:tg_luma": {"preset": "pretrain_world_motion"}}))


def test_a_row_alone_keeps_its_teacher() -> None:
    study = made(compare=[["student", "dual"], ["dual", "rgb"]], control="dual")
    alone = only(study, ["student"])
    assert list(alone.rows) == ["teacher", "student"]
    assert alone.compare == () and alone.control == "strongest"
    assert only(study, []) == study
    with pytest.raises(ConfigError, match="--row nobody: no such row .there are teacher, rgb"):
        only(study, ["nobody"])


def test_a_group_alone_leaves_out_the_rows_of_the_others() -> None:
    groups = {"a": {"title": "A"}, "b": {"title": "B"}}
    study = made(groups=groups, rows={"dual": {"groups": ["b"]}})
    alone = only(study, [], ["a"])
    assert alone.group_names == ["a"] and "dual" not in alone.rows
    assert len(cells(alone, [], 1)) == 0
    with pytest.raises(ConfigError, match="--group c: no such group .there are a, b"):
        only(study, [], ["c"])


@pytest.mark.parametrize("count", [1, 3, 7, 20, 50])
def test_shares_are_all_cells_once(count: int) -> None:
    every = grid_of(made()).cells
    shares = [share(every, Unit(number, count)) for number in range(count)]
    assert [cell for part in shares for cell in part] == every
    sizes = [len(part) for part in shares]
    assert max(sizes) - min(sizes) <= 1


def test_a_share_brings_all_that_its_cells_need_and_nothing_else() -> None:
    grid = grid_of(made())
    plan = grid.steps_of([cell for cell in grid.cells if cell.name == "student.world1.seed0"])
    assert [step.name for step in plan] == [
        "world1.world",
        "world1.pretrain.tsm_mini:tg_luma",
        "world1.extract.tsm_mini:tg_luma",
        "world1.pretrain.tsm_mini:rgb",
        "world1.extract.tsm_mini:rgb",
        "teacher.world1.seed0.train",
        "student.world1.seed0.train",
        "student.world1.seed0.detect",
    ]
    assert needed(grid.steps, []) == []


def test_a_teacher_comes_before_its_students_whatever_the_order_of_rows() -> None:
    study = made()
    backwards = replace(study, rows=dict(reversed(study.rows.items())))
    draw = Draw("fold0", 0, Path("s"), Path("a"))
    rows = [cell.row for cell in cells(backwards, [draw], 1)]
    assert rows.index("teacher") < rows.index("student")


def test_the_streams_of_a_row_are_those_of_its_teacher_and_grid_too() -> None:
    study = made(rows={"student": {"settings": ["data.grid=tsm_mini:clock"]}})
    found = experiments(study)
    assert streams_of(study, found, "all", "student") == [
        "tsm_mini:rgb",
        "tsm_mini:clock",
        "tsm_mini:tg_luma",
    ]
    assert streams_of(study, found, "all", "dual") == ["tsm_mini:rgb"]


def test_a_setup_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    setup = Setup(
        study=made(groups={"a": {"title": "A", "words": {"x": "1"}}}, compare=[["rgb", "dual"]]),
        shared=tmp_path / "worlds",
        stores=((Path("/s"), Path("/a.json")),),
        folds=4,
    )
    setup.save(tmp_path)
    assert Setup.saved(tmp_path) == setup
    with pytest.raises(ConfigError, match="no study.json in it; no study has been run there"):
        Setup.saved(tmp_path / "elsewhere")
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(ConfigError, match="study.json: study: required, but not set"):
        Setup.saved(tmp_path)
