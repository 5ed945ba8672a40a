"""The main job as one reads it: every step of the built-in benchmark is a command of this tool.

The steps and what each needs stand in :func:`steps`; :mod:`tad_distill.steps` starts whatever is
ready, as many at once as there are cores. A step that has finished is not run again, and a step
that was killed goes on where it stopped, because every command does.
"""

import json
import os
import time
from pathlib import Path
from statistics import mean, stdev

import click

from tad_distill.console import log, result, table
from tad_distill.steps import Args, Step, run_steps

RGB, MOTION, MAPS = "tsm_mini:rgb", "tsm_mini:tg_luma", "tsm_mini:rgb@layer2"
# The rows of the table, in its order, and what a reader has to know about each.
ROWS = {
    "teacher": "motion teacher (gradient only)",
    "rgb": "RGB only",
    "control": "dual branch without teacher",
    "conventional": "conventional distillation",
    "student": "decomposed student",
    "adapter_student": "adapter student",
    "two_stream": "two-stream (RGB + gradient)",
}
TAUGHT = ("student", "conventional", "adapter_student")
# Rows whose motion branch reads what the motion adapter makes of the maps.
ADAPTED = ("adapter_student",)
# What the page shows beside the adapter student.
COMPARED = ("rgb", "control", "teacher")
# What the gates look at, before any student is trained.
GATED = ("rgb", "teacher", "two_stream")
TIOU = "0.3:0.7:0.1"


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/demo"),
    show_default=True,
    help="Folder for everything: world, weights, features, runs, logs, pictures.",
)
@click.option("--seeds", default=2, show_default=True, help="Detectors trained per row.")
@click.option("--seed", default=0, show_default=True, help="Seed of the world.")
@click.option("--tiny", is_flag=True, help="The smallest form: checks the plumbing, shows nothing.")
@click.option("--jobs", type=int, help="Commands at once; the number of cores if left out.")
def demo(out: Path, seeds: int, seed: int, tiny: bool, jobs: int | None) -> None:
    """Run the whole pipeline on the built-in benchmark: mp4 files to a table of mAP."""
    started = time.monotonic()
    seeds = 1 if tiny else seeds
    run_steps(steps(out, tiny, seed, seeds), jobs or os.cpu_count() or 1, "demo")
    report(out, seeds)
    log("demo", out=out, minutes=round((time.monotonic() - started) / 60, 2))


def steps(out: Path, tiny: bool, seed: int, num_seeds: int) -> list[Step]:
    """The commands of the demo, as a user would type them."""
    world, store = out / "world", out / "features"
    annotations = world / "annotations.json"
    logs, size = out / "logs", "tiny" if tiny else "demo"
    plan = [Step("world", ["data", "world", world, "--size", size, "--seed", seed], logs)]
    extract: Args = ["extract", world / "videos", "--store", store, "--preset", "world"]
    for streams, name in (((RGB, MAPS), "rgb"), ((MOTION,), "motion")):
        backbone, _, modality = streams[0].partition(":")
        weights = out / f"weights/{name}.pt"
        pretrain: Args = [
            "pretrain",
            world / "clips/clips.csv",
            "--preset",
            f"pretrain_world_{name}",
        ]
        pretrain += ["--backbone", backbone, "--modality", modality, "--out", weights]
        pretrain += ["--set", "steps=4"] if tiny else []
        plan.append(Step(f"pretrain_{name}", pretrain, logs, ["world"]))
        for stream in streams:
            extract += ["--stream", stream, "--weights", f"{stream}={weights}"]
    plan.append(Step("extract", extract, logs, ["pretrain_rgb", "pretrain_motion"]))
    plan.append(gates_step(out, store, annotations))
    adapt: Args = ["adapt", "--preset", "world_adapter", "--store", store]
    adapt += ["--annotations", annotations, "--out", out / "adapter"]
    adapt += ["--set", "train.epochs=0.1"] if tiny else []
    plan.append(Step("adapt", adapt, logs, ["gates"]))
    for number in range(num_seeds):
        for row in ROWS:
            plan += detector_steps(out, row, number, store, annotations, tiny)
    plan.append(page_step(out, annotations))
    return plan


def gates_step(out: Path, store: Path, annotations: Path) -> Step:
    """Ask, before any student is trained, whether this world can show an effect at all."""
    args: Args = ["gates", "--store", store, "--annotations", annotations]
    args += ["--rgb-stream", RGB, "--teacher-stream", MOTION, "--json", out / "gates.json"]
    for row in GATED:
        args += [f"--{row.replace('_', '-')}", run_of(out, row, 0) / "validation.json"]
    return Step("gates", args, out / "logs", [f"validate_{row}_0" for row in GATED])


def page_step(out: Path, annotations: Path) -> Step:
    """Write the page about the adapter student of seed 0, other rows beside it."""
    run = run_of(out, "adapter_student", 0)
    args: Args = ["eval", run / "test.json", "--annotations", annotations, "--subset", "test"]
    args += ["--tiou", TIOU, "--report", out / "report.html", "--videos-dir", out / "world/videos"]
    args += ["--name", ROWS["adapter_student"]]
    for row in COMPARED:
        args += ["--compare", f"{ROWS[row]}={run_of(out, row, 0) / 'test.json'}"]
    needs = [f"detect_{row}_0" for row in ("adapter_student", *COMPARED)]
    return Step("page", args, out / "logs", needs)


def run_of(out: Path, row: str, number: int) -> Path:
    """The folder of one trained detector."""
    return out / "runs" / f"{row}_{number}"


def detector_steps(
    out: Path, row: str, number: int, store: Path, annotations: Path, tiny: bool
) -> list[Step]:
    """Train one detector, detect with it, score it."""
    run, name, logs = run_of(out, row, number), f"{row}_{number}", out / "logs"
    train: Args = ["train", "--preset", f"world_{row}", "--store", store]
    train += ["--annotations", annotations, "--out", run, "--seed", number]
    needs = ["extract"] if row in GATED else ["gates"]
    if row in TAUGHT:
        train += ["--teacher", run_of(out, "teacher", number)]
        needs.append(f"train_teacher_{number}")
    if row in ADAPTED:
        needs.append("adapt")
    train += ["--set", "train.steps=4"] if tiny else []
    plan = [Step(f"train_{name}", train, logs, needs)]
    detect: Args = ["detect", store, "--model", run, "--annotations", annotations]
    detect += ["--pictures", 0]
    if number == 0 and row in GATED:
        on_validation: Args = ["--subset", "validation", "--out", run / "validation.json"]
        plan.append(Step(f"validate_{name}", detect + on_validation, logs, [f"train_{name}"]))
    on_test: Args = ["--subset", "test", "--out", run / "test.json"]
    plan.append(Step(f"detect_{name}", detect + on_test, logs, [f"train_{name}"]))
    score: Args = ["eval", run / "test.json", "--annotations", annotations, "--subset", "test"]
    score += ["--tiou", TIOU, "--json", run / "scores.json"]
    plan.append(Step(f"eval_{name}", score, logs, [f"detect_{name}"]))
    return plan


def report(out: Path, num_seeds: int) -> None:
    """Print the table, say what it rests on, and draw it."""
    scores = {
        row: [
            json.loads((run_of(out, row, n) / "scores.json").read_text()) for n in range(num_seeds)
        ]
        for row in ROWS
    }
    # Results only: the log's first line is the command, and events stand beside what was asked for.
    lines = (out / "logs/gates.log").read_text().splitlines()[1:]
    result("\n".join(line for line in lines if not line.startswith("event=")) + "\n")
    first = scores["rgb"][0]
    columns = ["detector", *(f"{t:.1f}" for t in first["tiou"]), "average", "sd"]
    rows = []
    for row, title in ROWS.items():
        at = [mean(s["mAP"][i] for s in scores[row]) for i in range(len(first["tiou"]))]
        rows.append([title, *(f"{100 * v:.1f}" for v in at), *spread(averages(scores[row]))])
    table(columns, rows, title=f"mAP in percent by tIoU, test split, {num_seeds} seed(s)")
    result(basis(out))
    if num_seeds > 1:
        for row in ("student", "adapter_student"):
            pairs = zip(averages(scores[row]), averages(scores["control"]), strict=True)
            difference, sd = spread([a - b for a, b in pairs])
            result(f"{ROWS[row]} minus control, paired by seed: {difference} (sd {sd})")
    draw(out, scores)


def basis(out: Path) -> str:
    """What the numbers rest on, in one line."""
    run = json.loads((run_of(out, "two_stream", 0) / "test.json").read_text())["provenance"]
    world = json.loads((out / "world/annotations.json").read_text())["world"]
    seen = []
    for stream, weights in run["pretraining"].items():
        notes = weights["pretraining"]
        tasks = " + ".join(f"{weight:g} {task}" for task, weight in notes["tasks"].items())
        seen.append(f"{stream} {notes['config']['steps']} steps on {tasks}")
    return (
        f"presets world_*, world {world['version']} (seed {world['seed']}), "
        f"{run['counts']['labelled']} of {run['counts']['videos']} training videos labelled, "
        f"features {run['features']}; "
        f"backbones pretrained on rendered clips: {', '.join(seen)}"
    )


def averages(scores: list[dict[str, float]]) -> list[float]:
    """The average mAP of each seed, in percent."""
    return [100 * s["average_mAP"] for s in scores]


def spread(values: list[float]) -> tuple[str, str]:
    """Mean and standard deviation, as text."""
    return f"{mean(values):.1f}", f"{stdev(values):.1f}" if len(values) > 1 else "-"


def draw(out: Path, scores: dict[str, list[dict[str, float]]]) -> None:
    """Draw the table, and what each detector finds in the test video with most annotations."""
    from tad_distill.data.annotations import read
    from tad_distill.evaluate import detections, plots

    bars = {title: [s["average_mAP"] for s in scores[row]] for row, title in ROWS.items()}
    title = "average mAP, tIoU 0.3 to 0.7, test split"
    plots.bars(out / "table.png", bars, title=title, highlight=[ROWS["adapter_student"]])
    test = read(out / "world/annotations.json").subset("test")
    video = max(test.videos.values(), key=lambda v: (len(v.annotations), v.name))
    found = {}
    for row, title in ROWS.items():
        table_of = detections.read(run_of(out, row, 0) / "test.json")
        found[title] = table_of[table_of["video"] == video.name].drop(columns="video")
    truth = test.table()
    truth = truth[truth["video"] == video.name].drop(columns="video")
    assert video.duration_s is not None, "the world states every duration"
    path = out / "timeline.png"
    plots.compare(path, truth, found, duration_s=video.duration_s, title=video.name)
    result(f"pictures: {out / 'table.png'} {path}; page: {out / 'report.html'}")
