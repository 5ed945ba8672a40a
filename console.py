"""What the program says and how it ends: log lines, progress, tables, errors, exit codes.

stdout carries results, stderr the log. On a terminal rich draws; in a batch log every event is
one plain ``key=value`` line that is never wrapped. Only this module knows rich.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 75

# A batch log gets a progress line at most this often, in seconds.
PROGRESS_EVERY_S = 20.0

# Longest message of an error, in characters: a file may hold names of any length.
LONGEST = 800


class UserError(Exception):
    """Something the user has to correct: file, key, found, expected, remedy, in one line.

    It is one line whatever names it quotes: see :func:`one_line`.
    """

    exit_code = FAILED

    def __init__(self, message: str) -> None:
        """Take the message."""
        super().__init__(one_line(message))


class UsageError(UserError):
    """The command was misused: an unknown setting, impossible options. Exit code 2."""

    exit_code = MISUSED


class Interrupted(Exception):
    """The run was asked to stop and has saved what it had: run the same command again."""

    exit_code = INTERRUPTED


def one_line(text: str) -> str:
    r"""A text that fits a line: what cannot be printed is escaped, a very long middle left out.

    >>> one_line("a\nb")
    'a\\nb'
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 305]} ... {text[-300:]}"


def format_value(value: object) -> str:
    """Write a value so that a ``key=value`` line can be cut at spaces.

    >>> format_value(0.00012345), format_value("a b"), format_value(3)
    ('0.000123', '"a b"', '3')
    """
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) >= 0.001 or value == 0 else f"{value:.3g}"
    text = str(value)
    plain = text.isprintable() and not any(c.isspace() or c == '"' for c in text)
    return text if text and plain else json.dumps(text)


def log(event: str, **fields: object) -> None:
    """Write one event to stderr: ``event=NAME key=value ...``, one line whatever its length."""
    line = " ".join(f"{key}={format_value(value)}" for key, value in fields.items())
    if sys.stderr.isatty():
        from rich.console import Console

        Console(stderr=True, highlight=False).print(
            f"[bold]{event}[/bold] ", end="", soft_wrap=True
        )
        sys.stderr.write(line + "\n")
    else:
        sys.stderr.write(f"event={event} {line}\n".replace(" \n", "\n"))
    sys.stderr.flush()


def warn(message: str) -> None:
    """Write one warning line to stderr."""
    sys.stderr.write(f"Warning: {one_line(message)}\n")
    sys.stderr.flush()


def result(text: str) -> None:
    """Write a result to stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    title: str | None = None,
    align_left: int = 1,
) -> None:
    """Print a table to stdout: drawn on a terminal, aligned plain text elsewhere.

    Args:
        columns: The header.
        rows: Cells; anything that ``str`` turns into text.
        title: A line above the table.
        align_left: How many leading columns hold words; the others are aligned right.
    """
    cells = [[one_line(str(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        drawn = Table(title=title, title_justify="left")
        for i, column in enumerate(columns):
            drawn.add_column(column, justify="left" if i < align_left else "right")
        for row in cells:
            drawn.add_row(*row)
        Console().print(drawn)
        return
    widths = [max(len(r[i]) for r in [list(columns), *cells]) for i in range(len(columns))]
    if title:
        result(title)
    for row in [list(columns), *cells]:
        parts = [
            cell.ljust(width) if i < align_left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        result("  ".join(parts).rstrip())


class Step(Protocol):
    """What :func:`progress` yields: call it when ``amount`` more is done."""

    def __call__(self, amount: float = 1, **fields: object) -> None:
        """Count ``amount`` as done; ``fields`` are shown beside the count."""


@contextmanager
def progress(label: str, total: float) -> Iterator[Step]:
    """Show how far a long piece of work is, with an estimate of what is left.

    On a terminal a bar; elsewhere a line ``event=progress what=LABEL done= total= eta_s=`` at
    most every ``PROGRESS_EVERY_S`` seconds.

    Args:
        label: What is being done.
        total: The amount of work, in any unit that the caller counts in.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress, TextColumn

        columns = (*Progress.get_default_columns(), TextColumn("{task.fields[note]}"))
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(label, total=total, note="")

            def draw(amount: float = 1, **fields: object) -> None:
                note = " ".join(f"{k}={format_value(v)}" for k, v in fields.items())
                bar.update(task, advance=amount, note=note)

            yield draw
        return
    start = last = time.monotonic()
    done = 0.0

    def write(amount: float = 1, **fields: object) -> None:
        nonlocal done, last
        done += amount
        now = time.monotonic()
        if now - last >= PROGRESS_EVERY_S and done < total:
            last = now
            eta = (now - start) / done * (total - done) if done else float("nan")
            log(
                "progress", what=label, done=round(done, 1), total=total, eta_s=round(eta), **fields
            )

    yield write


_stop_signal: int | None = None


def stop_on_signals() -> None:
    """Let SIGTERM and SIGUSR1 ask for a stop at the next safe point instead of killing the run.

    Batch systems send them before they take a node away; :func:`check_stop` is the safe point.
    Forked children, which have no safe point, die of them as usual.
    """
    owner = os.getpid()

    def remember(number: int, frame: FrameType | None) -> None:
        global _stop_signal
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        _stop_signal = number

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, remember)


def stop_requested() -> bool:
    """Whether a signal has asked this process to stop."""
    return _stop_signal is not None


def check_stop(what: str) -> None:
    """Raise :class:`Interrupted` if a signal has asked for a stop; ``what`` names what is kept."""
    if _stop_signal is not None:
        name = signal.Signals(_stop_signal).name
        raise Interrupted(f"stopped by {name}: {what}; run the same command again to go on")


def describe_os_error(error: OSError) -> str:
    """One line for an error of the operating system, with the remedy where there is one."""
    import errno

    where = f"{error.filename}: " if error.filename else ""
    remedy = {
        errno.ENOSPC: "; free space and run the same command again, finished work is kept",
        errno.EFBIG: "; the file-size limit (ulimit -f) is too low",
        errno.EACCES: "; check the permissions",
    }.get(error.errno or 0, "")
    return f"{where}{error.strerror or error}{remedy}"


def jsonable(value: Any) -> Any:
    """Turn numpy scalars and paths into what ``json`` writes."""
    if hasattr(value, "item"):
        return value.item()
    return str(value)
