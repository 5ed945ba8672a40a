"""The batch script: what it asks for, what it runs, and that it queues what was stopped again."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tad_distill.console import UsageError
from tad_distill.job import job


def printed(*words: str) -> str:
    result = CliRunner().invoke(job, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_an_array_shares_the_work_out() -> None:
    script = printed(
        *"--units 64 --parallel 16 --gpus 2 --memory 32G --partition gpu --account lab".split(),
        *"extract my videos --store s --stream tsm18:rgb".split(),
    )
    asked = [line for line in script.splitlines() if line.startswith("#SBATCH")]
    for line in ("array=0-63%16", "gpus=2", "mem=32G", "partition=gpu", "signal=B:USR1@120"):
        assert f"#SBATCH --{line}" in asked
    assert {"#SBATCH --requeue", "#SBATCH --open-mode=append"} <= set(asked)
    run = "tad-distill extract my videos --store s --stream tsm18:rgb --units 64 --unit "
    assert f'{run}"$SLURM_ARRAY_TASK_ID" &' in script
    assert 'scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"' in script


def test_a_single_job_has_no_array_and_words_are_quoted() -> None:
    script = printed("--gpus", "0", "train", "--preset", "student", "--out", "my runs/a")
    assert "array" not in script.lower().replace("slurm_job_id", "")
    assert "--gpus" not in script
    assert "tad-distill train --preset student --out 'my runs/a' &" in script
    assert 'scontrol requeue "$SLURM_JOB_ID"' in script


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("eval d.json", "'eval' is none of extract"),
        ("--units 4 train --preset student", "train is one piece of work"),
        ("extract v --store s --units 4", "give --units before extract"),
        ("extract v --unit=4", "give --units before extract"),
        ("extract v --plan", "--plan runs nothing"),
        ("--units 0 extract v", "expected at least 1"),
    ],
)
def test_what_no_script_can_run_is_refused(words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CliRunner().invoke(job, words.split(), catch_exceptions=False, standalone_mode=False)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the script finds a ``tad-distill`` and a ``scontrol`` that take notes."""
    command = """#!/bin/bash
echo "$@" >> called
trap 'echo stopped >> called; exit 75' USR1
for i in $(seq 100); do sleep 0.05; [ -e finish ] && exit "$(cat finish)"; done
"""
    control = '#!/bin/bash\necho "scontrol $@" >> called\n'
    for name, text in (("tad-distill", command), ("scontrol", control)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "77")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.sh").write_text(printed("--units", "8", "extract", "v"))
    return tmp_path


def test_a_task_that_is_warned_stops_its_command_and_queues_again(cluster: Path) -> None:
    task = subprocess.Popen(["bash", "job.sh"], cwd=cluster)
    while not (cluster / "called").exists():
        time.sleep(0.02)
    time.sleep(0.1)
    task.send_signal(signal.SIGUSR1)
    assert task.wait(20) == 75
    assert (cluster / "called").read_text().splitlines() == [
        "extract v --units 8 --unit 5",
        "stopped",
        "scontrol requeue 77_5",
    ]


@pytest.mark.parametrize("code", [0, 1])
def test_a_task_that_has_ended_is_not_queued_again(cluster: Path, code: int) -> None:
    (cluster / "finish").write_text(str(code))
    assert subprocess.run(["bash", "job.sh"], cwd=cluster, timeout=20).returncode == code
    assert "scontrol" not in (cluster / "called").read_text()
