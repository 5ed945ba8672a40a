"""The command ``pretrain``."""

from pathlib import Path

import click

from tad_distill import console

PRESETS = sorted(path.stem for path in (Path(__file__).parent / "presets").glob("pretrain*.toml"))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("clips", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--backbone", required=True, help="As streams name it: tsm_mini, tsm18, tsm50.")
@click.option("--modality", default="rgb", show_default=True, help="What it is shown, as tg_luma.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The checkpoint to write; extract reads it.",
)
@click.option("--preset", help=f"Settings to start from: {', '.join(PRESETS)}.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one setting, as in steps=3000 or tasks.motion=0.1. Repeatable.",
)
@click.option(
    "--init",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Start from this checkpoint, an official one for example, instead of random weights.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1.")
def pretrain(
    clips: Path,
    backbone: str,
    modality: str,
    out: Path,
    preset: str | None,
    overrides: tuple[str, ...],
    init: Path | None,
    device: str,
) -> None:
    """Train a backbone to recognise the trimmed clips of a CSV.

    CLIPS has the columns video, start_s, end_s (blank: the whole video), optionally split (train
    or validation), and one column per task with each clip's class. Every video is decoded once.
    Prints the accuracy on the validation clips and the path of the checkpoint.
    """
    from tad_distill.extract.config import ExtractConfig
    from tad_distill.extract.device import choose_device
    from tad_distill.extract.pretrain import Job, load_config, pretrain

    config = load_config(modality, preset, overrides)
    job = Job(clips=clips, backbone=backbone, modality=modality, out=out, init=init)
    results = pretrain(job, config, choose_device(ExtractConfig(device=device)))
    rows = [
        (
            r.task,
            r.num_classes,
            r.num_clips,
            "-" if r.accuracy is None else f"{100 * r.accuracy:.1f}",
        )
        for r in results
    ]
    columns = ("task", "classes", "validation clips", "accuracy %")
    console.table(columns, rows, title=f"{backbone}:{modality}")
    console.result(str(out))
