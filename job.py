"""A batch script for a cluster, as text: the tool knows no scheduler, the script does.

The script asks for a warning before its time is up, hands it on as SIGUSR1, and puts the task back
into the queue when the command says that it stopped half-way (exit code 75). What is finished is
never done again, so a task may be stopped as often as the cluster likes.
"""

import shlex
from dataclasses import dataclass

import click

from tad_distill.console import INTERRUPTED, UsageError, result

# Commands that can be shared out over the tasks of an array.
SHARED_OUT = ("extract", "study")
COMMANDS = (*SHARED_OUT, "train", "adapt", "finetune", "pretrain")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to ask the cluster for.

    Attributes:
        units: Tasks of the array; None: a single job.
        parallel: Tasks at the same time; None: as many as the cluster lets run.
        time: Limit of one task, as SLURM writes it.
        cpus: Cores of one task.
        gpus: GPUs of one task.
        memory: Memory of one task, as SLURM writes it.
        partition: Where to.
        account: On whose account.
        name: Of the job.
        logs: Folder of the logs.
        warn_s: Seconds before the limit at which the task is told to stop.
        setup: A line that makes the command available, as "source .venv/bin/activate".
    """

    units: int | None
    parallel: int | None
    time: str
    cpus: int
    gpus: int
    memory: str | None
    partition: str | None
    account: str | None
    name: str
    logs: str
    warn_s: int
    setup: str | None


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--units", type=int, metavar="N", help="Tasks of an array that share the work out.")
@click.option("--parallel", type=int, metavar="K", help="At most so many tasks at the same time.")
@click.option("--time", default="04:00:00", show_default=True, help="Limit of one task.")
@click.option("--cpus", type=int, default=8, show_default=True, help="Cores of one task.")
@click.option("--gpus", type=int, default=1, show_default=True, help="GPUs of one task.")
@click.option("--memory", help="Memory of one task, as 32G.")
@click.option("--partition", help="The partition.")
@click.option("--account", help="The account.")
@click.option("--name", help="Of the job. [default: the command's name]")
@click.option("--logs", default="logs", show_default=True, help="Folder of the logs.")
@click.option(
    "--warn-s",
    type=int,
    default=120,
    show_default=True,
    help="Seconds before the limit at which a task is told to stop and to queue again.",
)
@click.option("--setup", help="A line to run first, as 'source .venv/bin/activate'.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def job(
    units: int | None,
    parallel: int | None,
    time: str,
    cpus: int,
    gpus: int,
    memory: str | None,
    partition: str | None,
    account: str | None,
    name: str | None,
    logs: str,
    warn_s: int,
    setup: str | None,
    command: tuple[str, ...],
) -> None:
    """Print a SLURM script that runs COMMAND: extract, study, train, adapt, finetune, pretrain.

    COMMAND and its options stand last, as after tad-distill: job --units 64 extract videos/ ...
    """
    check(command, units)
    request = Request(
        units=units,
        parallel=parallel,
        time=time,
        cpus=cpus,
        gpus=gpus,
        memory=memory,
        partition=partition,
        account=account,
        name=name or f"tad-{command[0]}",
        logs=logs,
        warn_s=warn_s,
        setup=setup,
    )
    result(script(request, command))


def check(command: tuple[str, ...], units: int | None) -> None:
    """Refuse a command that the script could not run.

    Raises:
        UsageError: With what is wrong.
    """
    first, *rest = command
    if first not in COMMANDS:
        raise UsageError(
            f"job: {first!r} is none of {', '.join(COMMANDS)}; put the options of job before it"
        )
    if units is not None and units < 1:
        raise UsageError(f"job --units {units}: expected at least 1")
    if units is not None and first not in SHARED_OUT:
        raise UsageError(
            f"job --units: {first} is one piece of work; only {' and '.join(SHARED_OUT)} can be "
            "shared out"
        )
    if {"--unit", "--units"} & {word.partition("=")[0] for word in rest}:
        raise UsageError(f"job: give --units before {first}: the script adds it and --unit itself")
    if "--plan" in rest:
        raise UsageError("job: --plan runs nothing; call it without job")


def script(request: Request, command: tuple[str, ...]) -> str:
    """The whole script, to be given to ``sbatch``."""
    array = request.units is not None
    limit = f"%{request.parallel}" if request.parallel else ""
    asked = {
        "job-name": request.name,
        "array": f"0-{(request.units or 1) - 1}{limit}" if array else None,
        "time": request.time,
        "cpus-per-task": request.cpus,
        "gpus": request.gpus or None,
        "mem": request.memory,
        "partition": request.partition,
        "account": request.account,
        "output": f"{request.logs}/%x-%A_%a.log" if array else f"{request.logs}/%x-%j.log",
        "open-mode": "append",
        "signal": f"B:USR1@{request.warn_s}",
    }
    words = ["tad-distill", *command]
    run = " ".join(word if word.startswith("$") else shlex.quote(word) for word in words)
    if array:
        run += f' --units {request.units} --unit "$SLURM_ARRAY_TASK_ID"'
    me = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" if array else "$SLURM_JOB_ID"
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH --{key}={value}" for key, value in asked.items() if value is not None),
        "#SBATCH --requeue",
        f"# The folder of the logs has to exist before: mkdir -p {shlex.quote(request.logs)}",
        "set -u",
        *([request.setup] if request.setup else []),
        f"export OMP_NUM_THREADS={request.cpus}",
        "",
        "# The shell gets the signal, the command has to: it finishes or drops what is in flight.",
        f"{run} &",
        "command=$!",
        "trap 'kill -USR1 $command 2>/dev/null' USR1 TERM",
        "wait $command; code=$?",
        "# A signal ends the wait, not the command.",
        "while kill -0 $command 2>/dev/null; do wait $command; code=$?; done",
        "",
        f"# {INTERRUPTED}: stopped half-way, everything finished is kept. Queue it again.",
        f'if [ "$code" -eq {INTERRUPTED} ]; then',
        f'    scontrol requeue "{me}"',
        "fi",
        "exit $code",
    ]
    return "\n".join(lines)
