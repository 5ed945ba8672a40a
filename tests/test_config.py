"""Settings are read strictly; a complaint says which one, what was found, what is allowed."""

import importlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from tad_distill.config import ConfigError, assign, build, dump, load, preset, read


@dataclass(frozen=True, kw_only=True)
class Inner:
    lr: float = 1e-3
    steps: tuple[int, ...] = (1, 2)
    ends: tuple[float, float] = (0.0, 1.0)
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner = Inner()
    rule: Literal["a", "b"] = "a"
    path: Path | None = None

    def __post_init__(self) -> None:
        if self.rule == "b" and self.path is None:
            raise ValueError("rule b needs a path")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "name: required, but not set"),
        ({"name": 3}, "name: expected str, got 3"),
        ({"name": "x", "inner": {"lrr": 1}}, "inner.lrr: no such setting; did you mean lr?"),
        ({"name": "x", "inner": {"lr": "fast"}}, "inner.lr: expected float, got 'fast'"),
        ({"name": "x", "inner": {"lr": True}}, "inner.lr: expected float, got True"),
        ({"name": "x", "inner": 3}, "inner: expected a table, got 3"),
        ({"name": "x", "inner": {"steps": [1, "2"]}}, "inner.steps[1]: expected int, got '2'"),
        ({"name": "x", "inner": {"ends": [1.0]}}, "inner.ends: expected a list of 2, got 1 items"),
        ({"name": "x", "inner": {"weights": {"a": "b"}}}, "inner.weights.a: expected float"),
        ({"name": "x", "rule": "c"}, "rule: expected one of 'a', 'b', got 'c'"),
        ({"name": "x", "rule": "b"}, "rule b needs a path"),
        ({"name": "x", "zzz": 1}, "zzz: no such setting (there are name, inner, rule, path)"),
    ],
)
def test_a_wrong_setting_is_named(table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Outer, table)
    assert message in str(caught.value)


def test_overrides_reach_nested_settings_and_bare_words_are_strings() -> None:
    overrides = ["inner.lr=2e-4", "inner.steps=[3]", "name=thumos", "inner.weights.cls=2"]
    outer = load(Outer, {}, overrides)
    assert outer.name == "thumos"
    assert outer.inner == Inner(lr=2e-4, steps=(3,), weights={"cls": 2.0})


@pytest.mark.parametrize("override", ["inner.lr", "=3", "name.deep.er=1"])
def test_an_override_that_cannot_apply_is_an_error(override: str) -> None:
    with pytest.raises(ConfigError):
        assign({"name": "x"}, override)


def test_loading_does_not_change_the_table_it_was_given() -> None:
    table = {"name": "x", "inner": {"lr": 1.0}}
    load(Outer, table, ["inner.lr=2"])
    assert table == {"name": "x", "inner": {"lr": 1.0}}


def test_a_dumped_configuration_builds_an_equal_one() -> None:
    outer = Outer(name="x", inner=Inner(weights={"a": 1.0}), rule="b", path=Path("p/q"))
    assert build(Outer, json.loads(json.dumps(dump(outer)))) == outer


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """A family on disk: a package with a base class and the members ``round`` and ``square``."""
    folder = tmp_path / "shapes_family"
    folder.mkdir()
    head = "from dataclasses import dataclass\n"
    (folder / "__init__.py").write_text(
        head + "@dataclass(frozen=True, kw_only=True)\nclass Shape:\n    size: int = 1\n"
    )
    for name in ("round", "square"):
        (folder / f"{name}.py").write_text(
            head + "from shapes_family import Shape\n"
            "@dataclass(frozen=True, kw_only=True)\nclass Config(Shape):\n    edge: float = 0.5\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("shapes_family")
    for name in [n for n in sys.modules if n.startswith("shapes_family")]:
        del sys.modules[name]


def test_a_family_member_is_the_file_of_that_name(family: object) -> None:
    shape = build(family.Shape, {"kind": "square", "edge": 2})  # type: ignore[attr-defined]
    assert type(shape).__module__ == "shapes_family.square"
    assert dump(shape) == {"kind": "square", "size": 1, "edge": 2.0}
    with pytest.raises(ConfigError, match="kind: expected one of round, square, got 'oval'"):
        build(family.Shape, {"kind": "oval"})  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="kind: expected one of round, square, got None"):
        build(family.Shape, {})  # type: ignore[attr-defined]


def test_a_settings_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(ConfigError, match="broken.toml: not valid TOML"):
        read(broken)
    with pytest.raises(ConfigError, match="absent.toml: cannot read the settings"):
        read(tmp_path / "absent.toml")


def test_an_unknown_preset_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "student.toml").write_text("")
    assert preset(tmp_path, "student") == tmp_path / "student.toml"
    with pytest.raises(ConfigError, match="preset 'studnt': no such preset; did you mean student"):
        preset(tmp_path, "studnt")
