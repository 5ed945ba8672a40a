"""Studies: strict files, a plan that shares what can be shared, cells that pair up."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tad_distill.config import ConfigError, build
from tad_distill.console import UserError
from tad_distill.distill.studies import files, shared
from tad_distill.distill.studies.cells import (
    Draw,
    cells,
    experiments,
    needed,
    only,
    share,
    streams_of,
    train_step,
)
from tad_distill.distill.studies.grid import Grid, Setup
from tad_distill.distill.studies.schema import Study
from tad_distill.steps import command
from tad_distill.units import Unit

ROWS: dict[str, dict[str, Any]] = {
    "teacher": {"role": "teacher", "preset": "world_teacher"},
    "rgb": {"role": "baseline", "preset": "world_rgb"},
    "dual": {"role": "control", "preset": "world_control"},
    "student": {"role": "student", "preset": "world_student", "teacher": "teacher"},
    "two_stream": {"role": "upper", "preset": "world_two_stream"},
}


def made(**changes: Any) -> Study:
    """A study of the demo's rows; ``rows`` change those of the same name."""
    table: dict[str, Any] = {"title": "A study", "seeds": 2, "worlds": 2, **changes}
    rows = {name: {"title": name, **row} for name, row in ROWS.items()}
    for name, row in changes.get("rows", {}).items():
        rows[name] = {**rows.get(name, {"title": name}), **row}
    table["rows"] = rows
    table.setdefault(
        "pretrain",
        {
            "tsm_mini:rgb": {"preset": "pretrain_world_rgb"},
            "tsm_mini:tg_luma": {"preset": "pretrain_world_motion"},
        },
    )
    return build(Study, table)


def grid_of(study: Study, out: Path = Path("/out")) -> Grid:
    return Grid(Setup(study=study, shared=out / "worlds"), out)


@pytest.mark.parametrize("name", files.shipped())
def test_a_shipped_study_can_be_planned_from_the_files_that_are_there(name: str) -> None:
    grid = grid_of(files.load(name))
    names = {step.name for step in grid.steps}
    assert len(names) == len(grid.steps)
    done: set[str] = set()
    while ready := [s for s in grid.steps if s.name not in done and done.issuperset(s.needs)]:
        done.update(step.name for step in ready)
    assert done == names, "a step can never start"
    for group in grid.study.group_names:
        assert grid.study.baseline(group) is not None
        students = [r for r in grid.study.names(group) if grid.study.rows[r].role == "student"]
        assert students and all(grid.study.upper(row, group) for row in students)


def test_the_shipped_studies_are_those_of_the_issue() -> None:
    assert files.shipped() == ["ablation", "backbones", "fusions", "heads", "labels", "modality"]
    fusions = files.load("fusions").rows
    kinds = ("concat", "sum", "self_attention", "cross_attention", "difference_attention", "local")
    assert set(kinds) <= fusions.keys()
    assert list(files.load("heads").groups) == ["actionformer", "gtad", "tadtr"]
    fractions = [group.settings[0] for group in files.load("labels").groups.values()]
    assert fractions == [f"data.label_fraction={f}" for f in ("0.1", "0.25", "0.5", "1.0")]


def test_studies_make_what_they_share_in_the_same_way() -> None:
    """So that they can be run on the same worlds."""
    seen: dict[str, str] = {}
    for name in files.shipped():
        for found in grid_of(files.load(name)).draws:
            for step in found.steps:
                assert seen.setdefault(step.name, command(step)) == command(step), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": {"rgb": {"role": "hero"}}}, "rows.rgb.role: expected one of"),
        ({"rows": {"rgb": {"presets": "x"}}}, "rows.rgb.presets: no such setting; did you mean"),
        ({"rows": {"student": {"teacher": "me"}}}, "rows.student.teacher: no row 'me'"),
        ({"rows": {"student": {"upper": "rgb"}}}, "rows.student.upper: row 'rgb' is not of the"),
        (
            {"rows": {"teacher": {"teacher": "student"}}},
            "rows.teacher.teacher: teacher <- student <- teacher is a circle",
        ),
        ({"rows": {"rgb": {"groups": ["a"]}}}, "rows.rgb.groups: no group 'a' .there are none"),
        ({"rows": {"dual": {"role": "baseline"}}}, "rows: more than one row of the role baseline"),
        ({"rows": {"a/b": ROWS["rgb"]}}, "rows.a/b: a name is made of letters"),
        ({"control": "none"}, "control: expected strongest or a row, got 'none'"),
        ({"compare": [["rgb", "nobody"]]}, "compare: no row 'nobody'"),
        ({"compare": [["rgb"]]}, r"compare\[0\]: expected a list of 2, got 1"),
        ({"seeds": 0}, "seeds: must be at least 1"),
        ({"world": {"size": "huge"}}, "world.size: expected one of 'tiny'"),
        ({"groups": {"a": {"titel": "A"}}}, "groups.a.titel: no such setting; did you mean title"),
    ],
)
def test_a_wrong_study_is_refused_with_the_dotted_key(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        made(**changes)


def test_a_study_without_rows_is_refused() -> None:
    with pytest.raises(ConfigError, match="rows: none; a study needs at least one"):
        build(Study, {"title": "empty", "rows": {}})


def test_rows_whose_options_are_not_there_are_all_named_at_once() -> None:
    study = made(
        rows={
            "student": {"settings": ["fusion.kind=magic"]},
            "dual": {"preset": "world_contrl"},
            "rgb": {"settings": ['model.streams=["$colour"]']},
            "two_stream": {"settings": ['head={kind="crystal_ball"}']},
        }
    )
    with pytest.raises(ConfigError) as error:
        experiments(study)
    message = str(error.value)
    assert "rows.student: fusion.kind: expected one of concat" in message
    assert "rows.dual: preset 'world_contrl': no such preset; did you mean world_cont" in message
    assert "rows.rgb.settings: $colour in" in message
    assert "rows.two_stream: head.kind: expected one of actionformer" in message
    assert "\n" not in message


def test_words_settings_and_overrides_win_in_their_order() -> None:
    study = made(
        words={"rgb": "a:rgb", "share": "0.1"},
        settings=["train.steps=1", "data.label_fraction=$share"],
        overrides=["train.batch_size=3"],
        groups={
            "one": {"title": "One", "words": {"share": "0.2"}},
            "two": {"title": "Two", "settings": ["train.steps=2", "train.batch_size=5"]},
        },
        rows={"rgb": {"settings": ['model.streams=["$rgb"]', "train.lr=$$1"]}},
    )
    assert study.settings_of("rgb", "one") == [
        "train.steps=1",
        "data.label_fraction=0.2",
        'model.streams=["a:rgb"]',
        "train.lr=$1",
        "train.batch_size=3",
    ]
    found = experiments(replace(study, rows={"dual": study.rows["dual"]}))["two", "dual"]
    assert (found.train.steps, found.train.batch_size, found.data.label_fraction) == (2, 3, 0.1)


def test_a_word_given_on_the_command_line_is_text() -> None:
    study = files.load("ablation", ["words.fraction=0.4", "words.recipe=", "words.rgb='x:rgb'"])
    assert (study.words["fraction"], study.words["recipe"], study.words["rgb"]) == (
        "0.4",
        "",
        "x:rgb",
    )


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
