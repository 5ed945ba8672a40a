"""Study files: strict, and words, settings and overrides win in their order."""

from dataclasses import replace
from typing import Any

import pytest
from made_studies import ROWS, grid_of, made

from tad_distill.config import ConfigError, build
from tad_distill.distill.studies import files
from tad_distill.distill.studies.cells import experiments
from tad_distill.distill.studies.schema import Study
from tad_distill.steps import command


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


def test_the_shipped_studies_have_these_names() -> None:
    expected = ("ablation", "appearance", "backbones", "fusions", "heads", "labels", "modality")
    assert files.shipped() == list(expected)
    fusions = files.load("fusions").rows
    kinds = ("concat", "sum", "self_attention", "cross_attention", "difference_attention", "local")
    assert set(kinds) <= fusions.keys()
    assert list(files.load("heads").groups) == ["actionformer", "gtad", "tadtr"]
    fractions = [group.settings[0] for group in files.load("labels").groups.values()]
    assert fractions == [f"data.label_fraction={f}" for f in ("0.1", "0.25", "0.5", "1.0")]


def test_studies_make_what_they_share_in_the_same_way() -> None:
    """So that they can be run on the same worlds; one has a backbone of its own."""
    seen: dict[str, str] = {}
    for name in set(files.shipped()) - {"appearance"}:
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
