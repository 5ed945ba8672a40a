"""Commands of this tool that need each other's results, run side by side and never twice.

A step is a command line, so whatever a plan does a user can do by hand. Its output goes to
``LOGS/NAME.running``, which becomes ``NAME.log`` when it has succeeded and ``NAME.failed`` when it
has not: the logs say what is done, also to the next call and to other machines. The first line of a
log is the command, so a changed step is run again. While a step runs its log is locked, so that of
several calls on one folder (the shares of a cluster array) one runs the step and the others wait.
"""

import fcntl
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from tad_distill.console import UserError, check_stop, log, progress, stop_requested

POLL_S = 0.05
ELSEWHERE_S = 1.0  # before another look at a step that another call is at
COST = re.compile(r"^event=cost cpu_s=([\d.]+) wall_s=([\d.]+) memory_mb=(\d+)$")

Args = list[str | int | Path]
State = Literal["done", "failed", "begun", "open"]


@dataclass(frozen=True)
class Step:
    """One command of the tool, by name, with the steps that have to be finished before it.

    Attributes:
        name: Of the log; unique in a plan.
        args: The command line after ``tad-distill``.
        needs: Names of other steps of the plan.
        logs: Folder of its log.
    """

    name: str
    args: Args
    logs: Path
    needs: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Cost:
    """What a step took, attempts that failed included: processor time, time, most memory."""

    cpu_s: float
    wall_s: float
    memory_mb: int


@dataclass(frozen=True)
class Ended:
    """How a plan ended: why steps failed, by name, and what was not started because of that."""

    failed: dict[str, str]
    blocked: list[str]


@dataclass
class _Running:
    step: Step
    process: subprocess.Popen[bytes]
    file: BinaryIO  # holds the lock until the log has its final name
    started: float

    def reap(self, options: int) -> int | None:
        """The exit code of the process if it has ended, with what it took written to the log."""
        pid, status, usage = os.wait4(self.process.pid, options)
        if not pid:
            return None
        self.process.returncode = os.waitstatus_to_exitcode(status)
        end = os.fstat(self.file.fileno()).st_size
        if os.pread(self.file.fileno(), 1, end - 1) != b"\n":  # it ended in the middle of a line
            self.file.write(b"\n")
        cpu_s, wall_s = usage.ru_utime + usage.ru_stime, time.monotonic() - self.started
        self.file.write(_cost_line(Cost(cpu_s, wall_s, usage.ru_maxrss // 1024)))
        self.file.flush()
        return self.process.returncode


def run_steps(plan: Sequence[Step], jobs: int, what: str, keep_going: bool = False) -> Ended:
    """Run every step once what it needs is done, at most ``jobs`` at a time.

    Args:
        plan: The steps, in order of preference.
        jobs: Processes at once; each gets one thread.
        what: Name of the whole, for the log.
        keep_going: Run what can be run when a step has failed, and return why; otherwise stop.

    Raises:
        UserError: A step failed; the message holds its last line.
        Interrupted: A signal asked for a stop; the running steps were asked to stop as well.
    """
    by_name = {step.name: step for step in plan}
    assert len(by_name) == len(plan) and all(by_name.keys() >= set(step.needs) for step in plan)
    done = finished(plan)
    failed: dict[str, str] = {}
    with _Pool(jobs, by_name) as pool, progress(what, len(plan)) as tick:
        tick(len(done))
        while not stop_requested():
            for step, code in pool.ended():
                if code == 0:
                    done.add(step.name)
                elif keep_going:
                    failed[step.name] = explain(step, code)
                    log("step_failed", name=step.name, why=failed[step.name])
                else:
                    raise UserError(explain(step, code))
                tick(1, finished=step.name)
            waiting = [s for s in plan if s.name not in done | failed.keys()]
            ready = [s for s in waiting if done.issuperset(s.needs)]
            if not ready and not pool.running:
                break
            done |= pool.start(ready)
            time.sleep(POLL_S)
    check_stop("finished steps are kept")
    return Ended(failed, [step.name for step in waiting])


def command(step: Step) -> str:
    """The step as a user would type it."""
    return shlex.join(["tad-distill", *map(str, step.args)])


def state(step: Step) -> State:
    """What the logs say of this very command."""
    states: dict[str, State] = {".log": "done", ".failed": "failed", ".running": "begun"}
    for ending, found in states.items():
        if _is_of(step, path_of(step, ending)):
            return found
    return "open"


def finished(plan: Sequence[Step]) -> set[str]:
    """The steps that need not be run: done, and no step that they need was done anew since."""
    by_name = {step.name: step for step in plan}
    found: set[str] = set()
    left = {step.name: step for step in plan if state(step) == "done"}
    while ready := [step for step in left.values() if found.issuperset(step.needs)]:
        for step in ready:
            del left[step.name]
            if _is_current(step, by_name):
                found.add(step.name)
    return found


def cost(step: Step) -> Cost | None:
    """What a finished step took; None if no log of this very command tells."""
    path = path_of(step, ".log")
    if not _is_of(step, path) or not (found := _costs(path)):
        return None
    cpu_s, wall_s = sum(a.cpu_s for a in found), sum(a.wall_s for a in found)
    return Cost(cpu_s, wall_s, max(a.memory_mb for a in found))


def explain(step: Step, code: int | None = None) -> str:
    """Why a step has failed, in one line; ``code`` is how it ended, if known."""
    path = path_of(step, ".failed")
    lines = [line for line in path.read_text(errors="replace").splitlines()[1:] if line.strip()]
    said = [line for line in lines if not COST.match(line)] or ["it said nothing"]
    how = "failed" if code is None else f"ended with exit code {code}"
    if code is not None and code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
    return f"step {step.name} {how}: {said[-1]} (all of it in {path})"


def path_of(step: Step, ending: str) -> Path:
    """The file of a step's log: ``.log``, ``.failed`` or ``.running``."""
    return step.logs / f"{step.name}{ending}"


class _Pool:
    """The processes of a plan."""

    def __init__(self, jobs: int, plan: Mapping[str, Step]) -> None:
        self.jobs, self.plan = jobs, plan
        self.running: dict[str, _Running] = {}
        self.elsewhere: dict[str, float] = {}  # when to look again

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *_: object) -> None:
        """Ask what runs to stop, and wait for it."""
        for running in self.running.values():
            running.process.terminate()
        for running in self.running.values():
            if running.reap(0) == 0:
                _rename(running.step, ".log")
            running.file.close()

    def ended(self) -> list[tuple[Step, int]]:
        """The steps that have ended since the last call, with their exit codes."""
        found = []
        for name, running in list(self.running.items()):
            code = running.reap(os.WNOHANG)
            if code is not None:
                del self.running[name]
                _rename(running.step, ".failed" if code else ".log")
                running.file.close()
                found.append((running.step, code))
        return found

    def start(self, ready: Sequence[Step]) -> set[str]:
        """Start what there is room for; names what another call has finished meanwhile."""
        done = set()
        for step in ready:
            if step.name in self.running or self.elsewhere.get(step.name, 0) > time.monotonic():
                continue
            if len(self.running) == self.jobs:
                break
            file = _claim(step)
            if file is None:
                if step.name not in self.elsewhere:
                    log("step_runs_elsewhere", name=step.name)
                self.elsewhere[step.name] = time.monotonic() + ELSEWHERE_S
            elif state(step) == "done" and _is_current(step, self.plan):
                path_of(step, ".running").unlink(missing_ok=True)
                file.close()
                done.add(step.name)
            else:
                self.running[step.name] = _begin(step, file)
        return done


def _claim(step: Step) -> BinaryIO | None:
    """Open and lock a step's log; None if another call holds it."""
    step.logs.mkdir(parents=True, exist_ok=True)
    file = path_of(step, ".running").open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:  # a file system without locks
        log("no_locks", folder=step.logs, why=error.strerror, meaning="start no second call here")
    return file


def _begin(step: Step, file: BinaryIO) -> _Running:
    """Start a step as a process of its own, with one thread, so that steps share the cores."""
    before = [path_of(step, ending) for ending in (".running", ".failed", ".log")]
    # Each holds what the attempts before it took.
    attempts = next((_costs(path) for path in before if _is_of(step, path)), [])
    file.truncate(0)
    file.write(f"$ {command(step)}\n".encode() + b"".join(map(_cost_line, attempts)))
    file.flush()
    log("step", name=step.name, command=command(step))
    process = subprocess.Popen(
        [sys.executable, "-m", "tad_distill", *map(str, step.args)],
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"},
    )
    return _Running(step, process, file, time.monotonic())


def _rename(step: Step, ending: str) -> None:
    """Give a log its final name; what an earlier attempt has left goes."""
    other = {".log": ".failed", ".failed": ".log"}[ending]
    path_of(step, ".running").replace(path_of(step, ending))
    path_of(step, other).unlink(missing_ok=True)


def _is_of(step: Step, path: Path) -> bool:
    """Whether a log is there, and of this very command."""
    try:
        with path.open("rb") as file:
            return file.readline() == f"$ {command(step)}\n".encode()
    except FileNotFoundError:
        return False


def _is_current(step: Step, plan: Mapping[str, Step]) -> bool:
    """Whether a step was done after the steps that it needs."""
    logs = [path_of(of, ".log") for of in (step, *(plan[name] for name in step.needs))]
    times_ns = [path.stat().st_mtime_ns for path in logs]
    return times_ns[0] == max(times_ns)


def _costs(path: Path) -> list[Cost]:
    """What each attempt in a log took."""
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    found = [match for match in map(COST.match, lines) if match]
    return [Cost(float(m[1]), float(m[2]), int(m[3])) for m in found]


def _cost_line(cost: Cost) -> bytes:
    took = f"cpu_s={cost.cpu_s:.2f} wall_s={cost.wall_s:.2f} memory_mb={cost.memory_mb}"
    return f"event=cost {took}\n".encode()
