"""The demo runs each step once, in an order that its needs allow, and stops cleanly."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tad_distill.console import UserError
from tad_distill.demo import GATED, ROWS, TAUGHT, Step, command, run_steps, steps


def test_every_step_of_the_plan_can_be_reached() -> None:
    plan = steps(Path("out"), tiny=False, seed=0, num_seeds=2)
    names = [step.name for step in plan]
    assert len(names) == len(set(names))
    done: set[str] = set()
    while ready := [s for s in plan if s.name not in done and done.issuperset(s.needs)]:
        done.update(step.name for step in ready)
    assert done == set(names)


def test_no_student_is_trained_before_the_gates_and_its_own_teacher() -> None:
    plan = {step.name: step for step in steps(Path("out"), tiny=False, seed=0, num_seeds=2)}
    for row in ROWS:
        for number in range(2):
            needs = plan[f"train_{row}_{number}"].needs
            assert ("gates" in needs) == (row not in GATED)
            assert (f"train_teacher_{number}" in needs) == (row in TAUGHT)


def test_nothing_before_the_table_reads_the_test_split() -> None:
    plan = {step.name: step for step in steps(Path("out"), tiny=False, seed=0, num_seeds=1)}
    before = ["gates"]
    while before:
        step = plan[before.pop()]
        assert "test" not in step.args
        before += step.needs


def test_a_finished_step_is_not_run_again_and_a_changed_one_is(tmp_path: Path) -> None:
    run_steps([Step("version", ["--version"])], tmp_path, jobs=2)
    log = tmp_path / "version.log"
    assert log.read_text().startswith("$ tad-distill --version\ntad-distill, version")
    stamp = log.stat().st_mtime_ns
    run_steps([Step("version", ["--version"])], tmp_path, jobs=2)
    assert log.stat().st_mtime_ns == stamp
    run_steps([Step("version", ["data", "--help"])], tmp_path, jobs=2)
    assert log.read_text().startswith("$ tad-distill data --help\nUsage:")


def test_a_failing_step_is_named_and_what_needs_it_does_not_start(tmp_path: Path) -> None:
    plan = [Step("bad", ["nonsense"]), Step("after", ["--version"], ["bad"])]
    with pytest.raises(UserError, match="step bad ended with exit code 2: .*'nonsense'"):
        run_steps(plan, tmp_path, jobs=2)
    assert not list(tmp_path.glob("after*"))
    assert (tmp_path / "bad.running").exists() and not (tmp_path / "bad.log").exists()


def test_a_command_can_be_pasted_into_a_shell() -> None:
    step = Step("x", ["data", "world", Path("a folder"), "--seed", 3])
    assert command(step) == "tad-distill data world 'a folder' --seed 3"


@pytest.mark.slow
def test_a_stopped_demo_stops_its_steps_and_keeps_what_is_finished(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tad_distill import cli, demo\n"
        "import click\n"
        "out = Path(sys.argv[1])\n"
        "long = ['data', 'world', out / 'world', '--size', 'full']\n"
        "plan = [demo.Step('short', ['--version']), demo.Step('long', long, ['short'])]\n"
        "cli.cli = click.command()(lambda: demo.run_steps(plan, out / 'logs', 2))\n"
        "cli.main([])"
    )
    line = [sys.executable, "-P", "-c", code, str(tmp_path)]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        # The world's identity is written before its first frame is rendered.
        while not (tmp_path / "world/world.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        errors = process.stderr.read()
    assert process.returncode == 75
    assert "finished steps are kept; run the same command again" in errors
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True)
    assert not left.stdout.split(), "a step outlived the demo"
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"short.log", "long.running"}
