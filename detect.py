"""One's own video and a run to detections: extraction, prediction, files and pictures.

Only the streams that the run's detector reads are extracted, so a distilled student needs RGB
alone. Memory does not grow with the frames of a video: only its features are kept.
"""

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tad_distill.console import FAILED, UsageError, UserError, log, result

if TYPE_CHECKING:
    import pandas as pd

    from tad_distill.data.store import Store, Stream
    from tad_distill.distill.predict import Run

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("sources", nargs=-1, required=True, type=PATH)
@click.option(
    "--model", required=True, type=PATH, help="Folder of a finished run, as runs/student."
)
@click.option(
    "--out",
    type=PATH,
    default=Path("detections.json"),
    show_default=True,
    help="Detections in the ActivityNet form; a CSV and the pictures stand beside it.",
)
@click.option(
    "--weights",
    multiple=True,
    metavar="STREAM=FILE",
    help="The backbone's weights, if they are no longer where the run's features were made.",
)
@click.option(
    "--store", type=PATH, help="Keep the features in this store instead of dropping them."
)
@click.option(
    "--scores", type=PATH, help="Label scores of whole videos, which a class-agnostic model needs."
)
@click.option("--annotations", type=PATH, help="Only the videos that this file names.")
@click.option(
    "--subset",
    "subsets",
    multiple=True,
    help="Only the videos of this subset of --annotations. Repeatable.",
)
@click.option(
    "--pictures", default=20, show_default=True, help="Draw a timeline of at most so many videos."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--allow-other-spec", is_flag=True, help="Accept features made in another way.")
def detect(
    sources: tuple[Path, ...],
    model: Path,
    out: Path,
    weights: tuple[str, ...],
    store: Path | None,
    scores: Path | None,
    annotations: Path | None,
    subsets: tuple[str, ...],
    pictures: int,
    device: str,
    allow_other_spec: bool,
) -> int:
    """Find the actions in SOURCES: video files, folders of them, or a feature store."""
    from tad_distill.data.store import Store
    from tad_distill.distill.label_scores import label_scores
    from tad_distill.distill.predict import Run, predict

    begin = time.monotonic()
    if out.suffix not in (".json", ".csv"):
        raise UsageError(f"--out {out}: expected a name that ends in .json or .csv")
    run = Run.load(model, device)
    if scores is not None:
        run = run.with_label_scores(scores)
    label_scores(run.experiment, run.labels, ())  # what is wrong with them is said before the work
    names = named_videos(annotations, subsets)
    failed = 0
    with ExitStack() as stack:
        if any((source / "store.json").is_file() for source in sources):
            if len(sources) > 1 or store is not None or weights:
                raise UsageError("a feature store is the only source, without --store or --weights")
            features = Store.open(sources[0])
        else:
            out.parent.mkdir(parents=True, exist_ok=True)
            folder = store or Path(stack.enter_context(tempfile.TemporaryDirectory(dir=out.parent)))
            failed = extract_for(run, list(sources), folder, weights, device)
            features = Store.open(folder)
        videos = videos_to_read(run, features, names)
        found = predict(run, features, videos, allow_other_spec=allow_other_spec)
        seconds = {
            video: duration_s(features.stream(run.base_spec.stream), video) for video in videos
        }
        write(out, run, found, videos)
        draw(out, found, videos[:pictures], seconds)
    wall_s = time.monotonic() - begin
    log(
        "detected",
        videos=len(videos),
        failed=failed,
        detections=len(found),
        video_s=round(sum(seconds.values()), 1),
        wall_s=round(wall_s, 1),
        times_real_time=round(sum(seconds.values()) / wall_s, 1),
    )
    result(str(out))
    return FAILED if failed else 0


def named_videos(annotations: Path | None, subsets: Sequence[str]) -> list[str] | None:
    """The videos that the options restrict the work to; None for all."""
    if annotations is None:
        if subsets:
            raise UsageError("--subset needs --annotations, which says what is in it")
        return None
    from tad_distill.data.annotations import read

    known = read(annotations)
    if not subsets:
        return list(known.videos)
    return list(dict.fromkeys(name for s in subsets for name in known.subset(s).videos))


def extract_for(
    run: "Run", sources: list[Path], store: Path, weights: tuple[str, ...], device: str
) -> int:
    """Extract what the run's detector reads, in the way its training features were made.

    Returns:
        How many videos failed; the log has a line for each.

    Raises:
        UserError: The weights cannot be found, the stream was imported, or no video was readable.
    """
    from dataclasses import replace

    from tad_distill import config as settings
    from tad_distill.extract import run as extraction
    from tad_distill.extract.commands import parse_weights
    from tad_distill.extract.sources import find

    given = parse_weights(weights)
    specs = {**run.specs, run.base_spec.stream: run.base_spec}
    for name, spec in specs.items():
        if "settings" not in spec.origin:
            raise UserError(
                f"{run.path}: its stream {name} was not extracted by this program, so a video "
                "cannot be; give a feature store with this stream in place of the video"
            )
        recorded = Path(spec.origin["weights"])
        # A fine-tuned run has them beside the model, wherever its folder is now.
        if not recorded.exists() and (beside := run.path / recorded.name).exists():
            recorded = beside
        if name not in given and not str(recorded).startswith("random:") and not recorded.exists():
            raise UserError(
                f"{recorded}: the weights of stream {name} are gone; name the file with --weights "
                f"{name}=FILE (sha256 {spec.weights.get('sha256', 'unknown')})"
            )
        given.setdefault(name, recorded)
    config = settings.build(extraction.ExtractConfig, run.base_spec.origin["settings"])
    config = replace(config, device=device)
    report = extraction.extract(find(sources), list(specs), store, config, given)
    if not report.done and not report.skipped:
        raise UserError(f"none of the {len(report.failed)} videos could be read; see the log")
    return len(report.failed)


def videos_to_read(run: "Run", store: "Store", names: list[str] | None) -> list[str]:
    """The named videos, or all that the store has.

    Raises:
        UserError: A named video has no features.
    """
    there = store.stream(run.base_spec.stream).videos
    if names is None:
        return list(there)
    known = set(there)
    missing = [name for name in names if name not in known]
    if missing:
        raise UserError(
            f"{store.path}: {len(missing)} of the {len(names)} videos asked for have no features "
            f"in stream {run.base_spec.stream}, the first is {missing[0]}"
        )
    return names


def duration_s(stream: "Stream", video: str) -> float:
    """The length of a video; where the store does not know it, the end of its last feature."""
    entry = stream.entry(video)
    if entry.duration_s is not None:
        return entry.duration_s
    return stream.timeline(video).to_seconds(entry.num_steps - 0.5)


def write(out: Path, run: "Run", found: "pd.DataFrame", videos: list[str]) -> None:
    """Write the detections as JSON and CSV, with what they rest on."""
    from tad_distill.evaluate import detections

    detections.write(out.with_suffix(".csv"), found)
    if out.suffix == ".json":
        header = {"provenance": {"run": str(run.path), **run.provenance}}
        detections.write(out, found, videos=tuple(videos), header=header)


def draw(out: Path, found: "pd.DataFrame", videos: list[str], seconds: dict[str, float]) -> None:
    """Draw a timeline of each of these videos into a folder beside the detections."""
    if not videos:
        return
    from tad_distill.evaluate import plots

    folder = out.with_name(f"{out.stem}_timelines")
    folder.mkdir(parents=True, exist_ok=True)
    for video in videos:
        own = found[found["video"] == video].drop(columns="video")
        plots.detections(folder / f"{video}.png", own, duration_s=seconds[video], title=video)
    log("timelines", pictures=len(videos), folder=folder)
