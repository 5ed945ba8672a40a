"""A command with commands below its name: the first argument decides which one runs."""

import sys
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

from tad_distill.evaluate.command_group import Below, CommandGroup


@pytest.fixture
def score(monkeypatch: pytest.MonkeyPatch) -> click.Command:
    @click.command()
    @click.argument("files", nargs=2)
    @click.option("--seed", type=int, default=0)
    def compare(files: tuple[str, str], seed: int) -> None:
        click.echo(f"compare {files} {seed}")

    module = ModuleType("tad_distill.made_for_the_test")
    module.compare = compare  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    below = {"compare": Below("made_for_the_test", "compare", "Hold two files together.")}

    @click.command(cls=CommandGroup, name="score", below=below)
    @click.argument("file")
    @click.option("--strict", is_flag=True, help="Be strict.")
    def score(file: str, strict: bool) -> None:
        """Score FILE."""
        click.echo(f"score {file} {strict}")

    return score


@pytest.mark.parametrize(
    ("arguments", "code", "output"),
    [
        (["a.json"], 0, "score a.json False\n"),
        (["--strict", "a.json"], 0, "score a.json True\n"),
        (["a.json", "--strict"], 0, "score a.json True\n"),
        (["./compare"], 0, "score ./compare False\n"),
        (["--", "compare"], 0, "score compare False\n"),
        (["compare", "a", "b", "--seed", "3"], 0, "compare ('a', 'b') 3\n"),
    ],
)
def test_the_first_argument_decides(
    score: click.Command, arguments: list[str], code: int, output: str
) -> None:
    done = CliRunner().invoke(score, arguments)
    assert (done.exit_code, done.output) == (code, output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'FILE'"),
        (["a", "b"], "unexpected extra argument"),
        (["--loose", "a"], "No such option"),
        (["compare", "a", "b", "--loose"], "Usage: score compare"),
    ],
)
def test_misuse_names_the_command_that_was_meant(
    score: click.Command, arguments: list[str], message: str
) -> None:
    done = CliRunner().invoke(score, arguments)
    assert done.exit_code == 2 and message in done.output


def test_help_shows_both_ways_of_use_and_imports_neither(
    score: click.Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "tad_distill.made_for_the_test")
    done = CliRunner().invoke(score, ["--help"])
    assert done.exit_code == 0
    for part in (
        "Usage: score [OPTIONS] FILE",
        "or: score COMMAND [ARGS]...",
        "Score FILE.",
        "--strict",
        "compare  Hold two files together.",
    ):
        assert part in done.output
