"""Log lines can be grepped, and every way to end has its exit code."""

import subprocess
import sys
import time

import click
import pytest

from tad_distill import cli, console


def test_a_log_event_is_one_line_that_can_be_cut_at_spaces(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.log("epoch", epoch=3, loss=0.81234567, lr=1e-5, path="a dir/x", note='say "hi"\nno')
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line == (
        'event=epoch epoch=3 loss=0.8123 lr=1e-05 path="a dir/x" note="say \\"hi\\"\\nno"\n'
    )


def test_progress_in_a_batch_log_estimates_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 5.0, 25.0, 26.0, 100.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with console.progress("videos", total=4) as step:
        for _ in range(4):
            step(loss=0.5)
    lines = capsys.readouterr().err.splitlines()
    # 2 of 4 done after 25 s: 25 s are left. Too early for a line at 5 s and 26 s; none at the end.
    assert lines == ["event=progress what=videos done=2 total=4 eta_s=25 loss=0.5"]


def test_a_table_without_a_terminal_is_aligned_text(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(["model", "mAP"], [["rgb", "9.1"], ["two-stream", "10.0"]], title="test")
    assert capsys.readouterr().out == "test\nmodel        mAP\nrgb          9.1\ntwo-stream  10.0\n"


def test_an_error_is_one_line_whatever_it_quotes() -> None:
    assert str(console.UserError("a\nb\x1b[31m\ud800 é")) == r"a\nb\x1b[31m\ud800 é"
    long = str(console.UsageError("begin " + "x" * 10**6 + " remedy"))
    assert len(long) == console.LONGEST
    assert long.startswith("begin xx") and " ... xx" in long and long.endswith("x remedy")


def test_names_cannot_break_a_table_a_warning_or_an_event(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.table(["name"], [["a\tb\n\x1b[0m"]])
    console.warn("v\nw: odd")
    console.log("odd", name="a\x1b[0m")
    said = capsys.readouterr()
    assert said.out == "name\na\\tb\\n\\x1b[0m\n"
    assert said.err == 'Warning: v\\nw: odd\nevent=odd name="a\\u001b[0m"\n'


def raising(error: BaseException) -> click.Command:
    @click.command()
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (console.UserError("a.mp4: empty"), 1, "Error: a.mp4: empty\n"),
        (
            console.UsageError("train.lrr: no such setting"),
            2,
            "Error: train.lrr: no such setting\n",
        ),
        (console.Interrupted("stopped by SIGTERM"), 75, "Error: stopped by SIGTERM\n"),
        (
            OSError(28, "No space left on device", "runs/x.tmp"),
            1,
            "Error: runs/x.tmp: No space left on device; free space and run the same command "
            "again, finished work is kept\n",
        ),
        (KeyboardInterrupt(), 75, "interrupted from the keyboard"),
    ],
)
def test_every_end_has_its_exit_code_and_one_line(
    error: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "cli", raising(error))
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == code
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("number", ["SIGTERM", "SIGUSR1"])
def test_a_signal_becomes_exit_75_at_the_next_safe_point(number: str) -> None:
    code = (
        "import os, signal, sys, click; from tad_distill import cli, console\n"
        "@click.command()\n"
        "def work():\n"
        f"    os.kill(os.getpid(), signal.{number})\n"
        "    print('saved'); console.check_stop('epoch 3 is saved')\n"
        "    print('not reached')\n"
        "cli.cli = work; cli.main([])"
    )
    ended = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert ended.returncode == console.INTERRUPTED
    assert ended.stdout == "saved\n"
    assert f"stopped by {number}: epoch 3 is saved; run the same command again" in ended.stderr


def test_a_forked_child_still_dies_of_a_stop_signal() -> None:
    code = (
        "import os, signal, time; from tad_distill import console\n"
        "console.stop_on_signals()\n"
        "reader, writer = os.pipe()\n"
        "child = os.fork()\n"
        "if not child: os.write(writer, b'.'); time.sleep(30); os._exit(0)\n"
        "os.read(reader, 1)\n"  # Python forgets what arrives while it is forking
        "os.kill(child, signal.SIGTERM)\n"
        "assert os.waitpid(child, 0)[1] == signal.SIGTERM and not console.stop_requested()"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=20)


def test_help_is_quick_and_needs_no_torch() -> None:
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from tad_distill import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules\n"
    )
    ended = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    for name in cli.COMMANDS:
        assert f"\n  {name} " in ended.stdout


def test_an_unknown_command_is_a_misuse() -> None:
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "tad_distill", "trian"], capture_output=True, text=True
    )
    assert ended.returncode == console.MISUSED
    assert "No such command 'trian'" in ended.stderr


def test_a_misuse_is_one_line_that_says_where_to_look() -> None:
    line = [sys.executable, "-P", "-m", "tad_distill", "data", "info"]
    ended = subprocess.run(line, capture_output=True, text=True)
    assert ended.returncode == console.MISUSED
    assert ended.stderr == "Error: Missing argument 'STORE'; see tad-distill data info --help\n"
