"""The command line: which command lives where. Stages are imported when a command runs.

Exit codes: 0 done, 1 failed, 2 misused, 75 interrupted (run the same command again).
"""

import importlib
import os
import sys
from collections.abc import Callable

import click

from tad_distill import __version__
from tad_distill.console import (
    FAILED,
    INTERRUPTED,
    MISUSED,
    Interrupted,
    UserError,
    describe_os_error,
    stop_on_signals,
)

Table = dict[str, tuple[str, str, str]]

# name -> (module, attribute, help line). The help line stands here so that --help imports nothing.
COMMANDS: Table = {
    "data": ("cli", "data", "Worlds, annotations and feature stores."),
    "pretrain": (
        "extract.pretrain_command",
        "pretrain",
        "Train a backbone to recognise trimmed clips.",
    ),
    "weights": ("cli", "weights", "Checkpoints: list, fetch, check and recalibrate them."),
    "extract": ("extract.commands", "extract", "Turn videos into a feature store."),
    "adapt": (
        "distill.adapter.command",
        "adapt",
        "Teach a copy of the last backbone stage what a motion teacher sees.",
    ),
    "train": ("distill.commands", "train", "Train a teacher, a baseline or a student."),
    "finetune": (
        "distill.finetune.command",
        "finetune",
        "Train a finished detector on, together with its backbone.",
    ),
    "detect": ("detect", "detect", "Find the actions in a video, a folder or a store."),
    "eval": ("evaluate.commands", "evaluate", "Score detections under a named protocol."),
    "gates": (
        "evaluate.gates_command",
        "gates",
        "Measure whether a world can show an effect at all.",
    ),
    "job": ("job", "job", "Print a batch script for a SLURM cluster."),
    "study": ("study", "study", "Rows x seeds x worlds (or folds) to one table with intervals."),
    "demo": ("demo", "demo", "The whole pipeline on the built-in benchmark, in minutes."),
}
DATA_COMMANDS: Table = {
    "world": ("data.world.commands", "world", "Render the built-in benchmark."),
    "check": ("check", "check", "Hold videos, annotations and stores against each other."),
    "import": ("data.commands", "import_", "Take features made elsewhere into a store."),
    "export": ("data.commands", "export", "Write the npy files that other tools read."),
    "info": ("data.commands", "info", "What a store holds, stream by stream."),
    "verify": ("data.commands", "verify", "Hold a store against its checksums."),
    "repair": ("data.commands", "repair", "Put damaged files aside; say what to extract again."),
    "index": ("data.commands", "index", "Write the index anew after files were moved by hand."),
}
WEIGHTS_COMMANDS: Table = {
    "list": ("extract.public.commands", "list_", "What is published, where, under which licence."),
    "fetch": ("extract.public.commands", "fetch", "Download and check; goes on after a stop."),
    "check": ("extract.public.commands", "check", "What a file holds and which backbone it fits."),
    "recalibrate": (
        "extract.recalibrate_command",
        "recalibrate",
        "Batch statistics of the videos and the modality at hand.",
    ),
}


class Commands(click.Group):
    """A group that imports a command only when it is asked for."""

    def __init__(self, *, table: Table, name: str, callback: Callable[[], None], help: str) -> None:
        """Take the commands from a table."""
        options = {"help_option_names": ["-h", "--help"]}
        super().__init__(name=name, callback=callback, help=help, context_settings=options)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of use."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in self.table:
            return None
        module, attribute, _ = self.table[cmd_name]
        command = getattr(importlib.import_module(f"tad_distill.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, row[2]) for name, row in self.table.items()])


HELP = """Find when and which actions happen in a video, from RGB alone.

videos -> extract -> feature store -> train -> run -> detect -> detections -> eval -> mAP
"""
data = Commands(table=DATA_COMMANDS, name="data", callback=lambda: None, help=COMMANDS["data"][2])
weights = Commands(
    table=WEIGHTS_COMMANDS, name="weights", callback=lambda: None, help=COMMANDS["weights"][2]
)
cli: click.Command = click.version_option(__version__, prog_name="tad-distill")(
    Commands(table=COMMANDS, name="tad-distill", callback=lambda: None, help=HELP)
)


def main(args: list[str] | None = None) -> None:
    """Run a command and leave with the exit code that stands for how it ended."""
    stop_on_signals()
    try:
        code = cli.main(args, prog_name="tad-distill", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        fail("interrupted from the keyboard; run the same command again to go on", INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show(sys.stderr)
        sys.exit(MISUSED)
    except click.UsageError as error:
        where = f"{error.ctx.command_path} --help" if error.ctx else "tad-distill --help"
        fail(f"{error.format_message().rstrip('.')}; see {where}", MISUSED)
    except click.ClickException as error:
        fail(error.format_message(), FAILED)
    except UserError as error:
        fail(str(error), error.exit_code)
    except Interrupted as error:
        fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        fail("interrupted from the keyboard; run the same command again to go on", INTERRUPTED)
    except BrokenPipeError:  # the reader of our stdout, `head` say, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except OSError as error:
        fail(describe_os_error(error), FAILED)


def fail(message: str, code: int) -> None:
    """Say in one line why the command ended, and leave."""
    sys.stderr.write(f"Error: {message}\n")
    sys.exit(code)
