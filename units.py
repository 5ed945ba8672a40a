"""A share of a long job: which one this process has, and how work is shared out evenly.

Batch systems start the same command many times and tell each its number: SLURM arrays, indexed
Kubernetes jobs and PBS arrays alike. Nothing is asked of them beyond that number.
"""

import heapq
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import click

from tad_distill.console import UsageError, log, warn

# Where batch systems say which member of an array this process is.
NUMBERS = ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "PBS_ARRAY_INDEX")

Command = TypeVar("Command", bound=Callable[..., object])


@dataclass(frozen=True)
class Unit:
    """One share of the work.

    Attributes:
        number: From 0.
        count: How many shares there are.
    """

    number: int
    count: int

    @property
    def name(self) -> str:
        """As a folder is called after it; "main" is all of the work."""
        return "main" if self.count == 1 else f"{self.number:04d}-of-{self.count:04d}"


ALL = Unit(0, 1)


def options(command: Command) -> Command:
    """The options ``--units`` and ``--unit`` of a command that can be shared out."""
    which = click.option(
        "--unit",
        type=int,
        metavar="I",
        help=f"Which of the shares, from 0. [default: {', '.join(NUMBERS)}]",
    )
    count = click.option(
        "--units", "units_", type=int, metavar="N", help="Do one of N even shares only."
    )
    return count(which(command))


def own(count: int | None, number: int | None) -> Unit:
    """The share of this process.

    Args:
        count: As given by ``--units``.
        number: As given by ``--unit``; by default what the batch system says.

    Raises:
        UsageError: A number without a count, no number at all, or one out of range.
    """
    said = next((name for name in NUMBERS if os.environ.get(name)), None)
    if count is None:
        if number is not None:
            raise UsageError(f"--unit {number}: of how many? give --units N")
        if said:
            warn(
                f"this is task {os.environ[said]} of an array ({said}), and without --units N every"
                " task does all of the work"
            )
        return ALL
    if count < 1:
        raise UsageError(f"--units {count}: expected at least 1")
    if number is None:
        if said is None:
            raise UsageError(
                f"--units {count}: which of them? give --unit I, or start it as an array job, which"
                f" sets {' or '.join(NUMBERS)}"
            )
        text = os.environ[said]
        if not text.isdigit():
            raise UsageError(f"{said}={text}: expected a number")
        number = int(text)
        log("unit", number=number, of=count, by=said)
    if not 0 <= number < count:
        raise UsageError(f"--unit {number}: expected 0 to {count - 1}, there are --units {count}")
    return Unit(number, count)


def balanced(amounts: Mapping[str, float], count: int) -> list[list[str]]:
    """Share things out so that the amounts are as even as a simple rule makes them.

    The largest first, each to the share that has least: no share has more than 4/3 of the best
    possible (Graham 1969). The same amounts give the same shares, in whatever order they come.

    Args:
        amounts: How much each thing is, by name; not negative.
        count: Shares.

    Returns:
        The names in each share, sorted.
    """
    shares: list[list[str]] = [[] for _ in range(count)]
    least = [(0.0, number) for number in range(count)]
    for name in sorted(amounts, key=lambda name: (-amounts[name], name)):
        amount, number = heapq.heappop(least)
        shares[number].append(name)
        heapq.heappush(least, (amount + amounts[name], number))
    return [sorted(share) for share in shares]
