"""Real features: a flow teacher and an RGB student on I3D features of gym clips, five folds.

Run with ``make bench ARGS='-k gym'``; needs the reference data beside the clone. Writes
``results/gym.md``. Chosen on nothing: the settings are those of the demo's presets.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev

import torch

from tad_distill import __version__

HERE = Path(__file__).parent
RGB, FLOW = "i3d:rgb", "i3d:flow"
# Row -> what differs from the demo's preset of that name.
ROWS = {
    "teacher": [f'model.streams=["{FLOW}"]'],
    "rgb": [f'model.streams=["{RGB}"]'],
    "control": [f"model.appearance={RGB}", f"model.motion={RGB}"],
    "conventional": [f'model.streams=["{RGB}"]'],
    "student": [f"model.appearance={RGB}", f"model.motion={RGB}"],
    "two_stream": [f'model.streams=["{RGB}", "{FLOW}"]'],
}
TAUGHT = ("student", "conventional")
NUM_FOLDS = 5
# Shares of the training sequences whose labels are used; a teacher's lessons use all of them.
FRACTIONS = (1.0, 0.4)


def command(*args: object) -> None:
    """Run the tool with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-P", "-m", "tad_distill", *map(str, args)]
    ended = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def fold_scores(source: Path, out: Path, fold: int, fraction: float) -> dict[str, float]:
    """Average mAP of every row on the test sequences of one fold."""
    spec = importlib.util.spec_from_file_location("gym", HERE / "gym.py")
    assert spec is not None and spec.loader is not None
    gym = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gym)
    store, annotations = gym.build(source, out, fold)
    scores = {}
    for row, settings in ROWS.items():
        run = out / row
        train: list[object] = ["train", "--preset", f"world_{row}", "--store", store]
        train += ["--annotations", annotations, "--out", run, "--seed", fold]
        settings = [*settings, f"data.label_fraction={fraction}"]
        if row in TAUGHT:
            train += ["--teacher", out / "teacher"]
            settings.append(f"data.unlabelled={str(fraction < 1).lower()}")
        for setting in settings:
            train += ["--set", setting]
        command(*train)
        detections, figures = run / "test.json", run / "scores.json"
        subset = ["--annotations", annotations, "--subset", "test"]
        command("detect", store, "--model", run, "--out", detections, "--pictures", 0, *subset)
        command("eval", detections, "--tiou", "0.3:0.7:0.1", "--json", figures, *subset)
        scores[row] = 100 * json.loads(figures.read_text())["average_mAP"]
    return scores


def rows(folds: list[dict[str, float]]) -> list[str]:
    """The table of one label fraction, and the differences that matter, paired by fold."""
    lines = [
        "| row | mean | sd over folds | "
        + " | ".join(f"fold {f}" for f in range(NUM_FOLDS))
        + " |",
        "| --- |" + " ---: |" * (NUM_FOLDS + 2),
    ]
    for row in ROWS:
        values = [fold[row] for fold in folds]
        cells = [f"{mean(values):.1f}", f"{stdev(values):.1f}", *(f"{v:.1f}" for v in values)]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    for better, worse in (("student", "control"), ("student", "rgb"), ("student", "conventional")):
        values = [fold[better] - fold[worse] for fold in folds]
        lines += [
            "",
            f"{better} minus {worse}, paired by fold: {mean(values):+.1f} "
            f"(sd {stdev(values):.1f}, {sum(v > 0 for v in values)} of {NUM_FOLDS} positive)",
        ]
    return lines


def test_gym(
    shared: Path,
    tmp_path: Path,
    machine: str,
    publish: Callable[[str, Sequence[str]], None],
) -> None:
    source = shared / "real/features/gym_i3d/gym_i3d.npz"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {
            (fraction, fold): pool.submit(
                fold_scores, source, tmp_path / f"{fraction}_{fold}", fold, fraction
            )
            for fraction in FRACTIONS
            for fold in range(NUM_FOLDS)
        }
    lines = [
        "# Real I3D features of gym clips: RGB student, flow teacher",
        "",
        f"Average mAP (tIoU 0.3 to 0.7) in percent on the test sequences, {NUM_FOLDS} folds by",
        "contiguous clip number, one seed a fold; frozen features, presets `world_*` with the",
        f"streams replaced. tad-distill {__version__}, torch {torch.__version__}, {machine}.",
    ]
    for fraction in FRACTIONS:
        folds = [jobs[fraction, fold].result() for fold in range(NUM_FOLDS)]
        lines += ["", f"## {fraction:.0%} of the training sequences labelled", "", *rows(folds)]
    publish("gym", lines)
