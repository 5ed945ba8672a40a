"""The README keeps up with the command line."""

import re
from pathlib import Path

import click
import pytest

from tad_distill.cli import COMMANDS, Commands, cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def all_commands() -> list[str]:
    assert isinstance(cli, Commands)
    context = click.Context(cli)
    found = []
    for name in COMMANDS:
        command = cli.get_command(context, name)
        found.append(name)
        if isinstance(command, click.Group):
            found += [f"{name} {sub}" for sub in command.list_commands(context)]
    return found


def test_every_command_stands_in_the_readme() -> None:
    missing = [name for name in all_commands() if f"tad-distill {name}" not in README]
    assert not missing


def test_every_command_in_the_readme_exists() -> None:
    known = {name.split()[0] for name in all_commands()}
    used = set(re.findall(r"^ *\$? ?tad-distill ([a-z]+)", README, flags=re.MULTILINE))
    assert used and used <= known


@pytest.mark.parametrize("name", all_commands())
def test_every_command_and_option_has_help(name: str) -> None:
    command: click.Command | None = cli
    for part in name.split():
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), part)
    assert command is not None and command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    used = set(re.findall(r"\bmake ([a-z]+)\b", README))
    assert {"demo", "test"} <= used <= targets
