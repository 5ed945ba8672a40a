"""A command that works as it stands and has further commands below its name."""

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click


class Below(NamedTuple):
    """Where a command below another one lives, and its line in the help."""

    module: str
    attribute: str
    help: str


class CommandGroup(click.Group):
    """A command with arguments of its own whose first argument may name another command.

    ``eval FILE ...`` runs the command, ``eval compare ...`` the one below it: the first argument
    decides, so a file of that name is written ``./compare``. Commands below are imported when they
    are asked for.
    """

    # A group takes the first argument for a command and lets all others pass; this one does not.
    allow_interspersed_args = True
    allow_extra_args = False

    def __init__(self, *args: Any, below: Mapping[str, Below], **settings: Any) -> None:
        """Take the commands from a table; the rest goes to :class:`click.Group`."""
        super().__init__(*args, **{**settings, "no_args_is_help": False})
        self.below = below

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands below, in the order of the table."""
        return list(self.below)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in self.below:
            return None
        place = self.below[cmd_name]
        command = getattr(importlib.import_module(f"tad_distill.{place.module}"), place.attribute)
        assert isinstance(command, click.Command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leave the arguments to the command below if the first one names it."""
        if args and args[0] in self.below:
            ctx.invoked_subcommand, ctx.args = args[0], args[1:]
            return ctx.args
        return click.Command.parse_args(self, ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command below if one was named, else this one."""
        if ctx.invoked_subcommand is None:
            return click.Command.invoke(self, ctx)
        name = ctx.invoked_subcommand
        command = self.get_command(ctx, name)
        assert command is not None
        # Not a child of this context: click would write this command's arguments into its usage.
        path = f"{ctx.info_name} {name}"
        with command.make_context(path, list(ctx.args), parent=ctx.parent) as below:
            return command.invoke(below)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Both ways of use."""
        own = click.Command.collect_usage_pieces(self, ctx)
        formatter.write_usage(ctx.command_path, " ".join(own))
        formatter.write_usage(ctx.command_path, "COMMAND [ARGS]...", prefix="   or: ")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, importing none."""
        if not self.below:
            return
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.help) for name, place in self.below.items()])
