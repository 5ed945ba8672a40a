"""Steps run once, in an order that their needs allow; they stop cleanly and remember failures."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tad_distill import steps
from tad_distill.console import UserError
from tad_distill.steps import Args, Step, command, cost, finished, run_steps, state

CODE = """
import sys; from pathlib import Path
import click
from tad_distill import cli
from tad_distill.steps import Args, Step, run_steps
out = Path(sys.argv[1])
long = ["data", "world", out / "world", "--size", "full", "--workers", "1"]
plan = [Step("short", ["--version"], out / "logs")]
plan.append(Step("long", long, out / "logs", ["short"]))
cli.cli = click.command()(lambda: run_steps(plan, 2, "test"))
cli.main([])
"""


@contextmanager
def run_in_a_process(out: Path) -> "Iterator[subprocess.Popen[str]]":
    """A call that runs a short step and is at a long one."""
    line = [sys.executable, "-P", "-c", CODE, str(out)]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        # The world's identity is written before its first frame is rendered.
        wait_until(lambda: (out / "world/world.json").exists())
        yield process


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "waited for a minute"
        time.sleep(0.05)


def processes_on(out: Path) -> list[int]:
    """The processes whose command line names the folder."""
    found = subprocess.run(["pgrep", "-f", str(out)], capture_output=True, text=True)
    return [int(number) for number in found.stdout.split()]


def test_an_empty_plan_ends_at_once() -> None:
    ended = run_steps([], jobs=2, what="test")
    assert not ended.failed and not ended.blocked


def test_a_finished_step_is_not_run_again_and_a_changed_one_is(tmp_path: Path) -> None:
    run_steps([Step("version", ["--version"], tmp_path)], jobs=2, what="test")
    log = tmp_path / "version.log"
    assert log.read_text().startswith("$ tad-distill --version\ntad-distill, version")
    stamp = log.stat().st_mtime_ns
    run_steps([Step("version", ["--version"], tmp_path)], jobs=2, what="test")
    assert log.stat().st_mtime_ns == stamp
    run_steps([Step("version", ["data", "--help"], tmp_path)], jobs=2, what="test")
    assert log.read_text().startswith("$ tad-distill data --help\nUsage:")


def test_a_failing_step_is_named_and_what_needs_it_does_not_start(tmp_path: Path) -> None:
    plan = [Step("bad", ["nonsense"], tmp_path), Step("after", ["--version"], tmp_path, ["bad"])]
    with pytest.raises(UserError, match="step bad ended with exit code 2: .*'nonsense'"):
        run_steps(plan, jobs=2, what="test")
    assert {path.name for path in tmp_path.iterdir()} == {"bad.failed"}
    assert state(plan[0]) == "failed" and state(plan[1]) == "open"


def test_others_go_on_beside_a_failing_step_if_asked(tmp_path: Path) -> None:
    plan = [
        Step("bad", ["nonsense"], tmp_path),
        Step("after", ["--version"], tmp_path, ["bad"]),
        Step("last", ["--version"], tmp_path, ["after"]),
        Step("good", ["--version"], tmp_path),
    ]
    ended = run_steps(plan, jobs=1, what="test", keep_going=True)
    assert list(ended.failed) == ["bad"] and "No such command 'nonsense'" in ended.failed["bad"]
    assert ended.blocked == ["after", "last"]
    assert [state(step) for step in plan] == ["failed", "open", "open", "done"]


def test_a_failed_step_is_tried_again_by_the_next_call(tmp_path: Path) -> None:
    target = tmp_path / "annotations.json"
    plan = [Step("info", ["data", "info", target], tmp_path / "logs")]
    assert run_steps(plan, jobs=1, what="test", keep_going=True).failed
    plan = [Step("info", ["--version"], tmp_path / "logs")]
    assert state(plan[0]) == "open", "the failure was of another command"
    assert not run_steps(plan, jobs=1, what="test").failed
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"info.log"}


def test_a_log_tells_what_its_step_took(tmp_path: Path) -> None:
    step = Step("version", ["--version"], tmp_path)
    assert cost(step) is None
    # Between fork and exec a step counts the memory of whoever starts it: a light process, as the
    # commands are that do, and not this one, which may hold gigabytes.
    program = (
        "import sys; from pathlib import Path; from tad_distill.steps import Step, run_steps; "
    )
    program += "run_steps([Step('version', ['--version'], Path(sys.argv[1]))], 1, 'test')"
    subprocess.run([sys.executable, "-P", "-c", program, str(tmp_path)], check=True)
    found = cost(step)
    assert found is not None
    assert 0 < found.cpu_s < 30 and 0 < found.wall_s < 60 and 5 < found.memory_mb < 500


def test_the_cost_of_earlier_attempts_counts(tmp_path: Path) -> None:
    step = Step("version", ["--version"], tmp_path)
    first = "event=cost cpu_s=1000.00 wall_s=2000.00 memory_mb=5000\n"
    (tmp_path / "version.running").write_text(f"$ {command(step)}\nhalf a li\n{first}")
    assert state(step) == "begun"
    run_steps([step], jobs=1, what="test")
    found = cost(step)
    assert found is not None
    assert found.cpu_s > 1000 and found.wall_s > 2000 and found.memory_mb == 5000
    assert "half a li" not in (tmp_path / "version.log").read_text()


def test_a_command_can_be_pasted_into_a_shell() -> None:
    step = Step("x", ["data", "world", Path("a folder"), "--seed", 3], Path("logs"))
    assert command(step) == "tad-distill data world 'a folder' --seed 3"


def test_what_needs_a_step_is_run_again_after_it(tmp_path: Path) -> None:
    first, second = Step("a", ["--version"], tmp_path), Step("b", ["--help"], tmp_path, ["a"])
    other = Step("c", ["--version"], tmp_path)
    plan = [first, second, other]
    run_steps(plan, jobs=1, what="test")
    assert finished(plan) == {"a", "b", "c"}
    stamps = {name: (tmp_path / f"{name}.log").stat().st_mtime_ns for name in "abc"}
    (tmp_path / "a.log").unlink()
    assert finished(plan) == {"c"}
    run_steps(plan, jobs=1, what="test")
    renewed = [n for n in "abc" if (tmp_path / f"{n}.log").stat().st_mtime_ns > stamps[n]]
    assert renewed == ["a", "b"]


def test_a_step_run_again_keeps_what_it_took_before(tmp_path: Path) -> None:
    first, second = Step("a", ["--version"], tmp_path), Step("b", ["--version"], tmp_path, ["a"])
    run_steps([first, second], jobs=1, what="test")
    once = cost(second)
    (tmp_path / "a.log").unlink()
    run_steps([first, second], jobs=1, what="test")
    twice = cost(second)
    assert once is not None and twice is not None
    assert 1.2 * once.cpu_s < twice.cpu_s < 20 * once.cpu_s
    assert (tmp_path / "b.log").read_text().count("event=cost") == 2


@pytest.mark.slow
def test_a_stopped_call_stops_its_steps_and_keeps_what_is_finished(tmp_path: Path) -> None:
    with run_in_a_process(tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        errors = process.stderr.read()
    assert process.returncode == 75
    assert "finished steps are kept; run the same command again" in errors
    assert not processes_on(tmp_path), "a step outlived the call"
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"short.log", "long.running"}
    assert steps.COST.match((tmp_path / "logs/long.running").read_text().splitlines()[-1])


@pytest.mark.slow
def test_a_step_that_outlives_a_killed_call_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_in_a_process(tmp_path) as process:
        process.kill()
    orphans = processes_on(tmp_path)
    assert orphans
    long: Args = ["data", "world", tmp_path / "world", "--size", "full", "--workers", "1"]
    step = Step("long", long, tmp_path / "logs")
    ends_at = time.monotonic() + 3
    monkeypatch.setattr(steps, "stop_requested", lambda: time.monotonic() > ends_at)
    try:
        run_steps([step], jobs=1, what="test")
        assert "event=step_runs_elsewhere name=long" in capsys.readouterr().err
        assert processes_on(tmp_path) == orphans, "the step was started a second time"
    finally:
        for number in orphans:
            os.kill(number, signal.SIGKILL)
