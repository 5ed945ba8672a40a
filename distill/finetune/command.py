"""The command ``finetune``."""

from pathlib import Path

import click

PATH = click.Path(path_type=Path)
PRESETS = sorted(path.stem for path in (Path(__file__).parent / "presets").glob("*.toml"))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--run", type=PATH, help="Folder of the finished run to start from.")
@click.option("--videos", type=PATH, multiple=True, help="The videos: files or folders. Repeat.")
@click.option("--out", type=PATH, required=True, help="Folder of the run; a killed run goes on.")
@click.option("--preset", help=f"The recipe: {', '.join(PRESETS)}. [default: finetune]")
@click.option("--config", type=PATH, help="A TOML file of your own, or the config.json of a run.")
@click.option("--store", type=PATH, help="Feature store, if it is not where the run found it.")
@click.option("--annotations", type=PATH, help="Annotation file, likewise.")
@click.option("--teacher", type=PATH, help="Folder of the teacher's finished run, likewise.")
@click.option(
    "--weights",
    multiple=True,
    metavar="STREAM=FILE",
    help="The checkpoint of a backbone, if it is no longer where the features were made.",
)
@click.option("--frames", type=PATH, help="Keep decoded frames here, for other runs as well.")
@click.option("--seed", type=int, help="Of order, windows and noise; 0 if the preset names none.")
@click.option("--device", help="auto, cpu or cuda; auto takes CUDA if there is one.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="As in train.lr=2e-4.")
@click.option("--overwrite", is_flag=True, help="Begin anew, whatever stands in --out.")
def finetune(
    run: Path | None,
    videos: tuple[Path, ...],
    out: Path,
    preset: str | None,
    config: Path | None,
    store: Path | None,
    annotations: Path | None,
    teacher: Path | None,
    weights: tuple[str, ...],
    frames: Path | None,
    seed: int | None,
    device: str | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Train a finished detector on, together with the backbone that made its features.

    Frames are decoded from the videos and the backbone is in the loop; what else the detector or
    its teacher reads comes from the store. Prints the run's folder: it holds model.pt for detect,
    and backbone.pt for extract. A run that was killed goes on with the same command.
    """
    from tad_distill.console import UsageError, result
    from tad_distill.distill.finetune import config as settings
    from tad_distill.distill.finetune.run import finetune as train

    if preset is not None and config is not None:
        raise UsageError("name either --preset NAME or --config FILE")
    if config is None and run is None:
        raise UsageError("name the run to start from with --run RUN")
    named = {
        "data.store": store,
        "data.annotations": annotations,
        "teacher.run": teacher,
        "backbone.videos": [str(path) for path in videos] or None,
        "backbone.weights": _by_stream(weights) or None,
        "backbone.frames": frames,
        "train.seed": seed,
        "train.device": device,
    }
    given = {key: value for key, value in named.items() if value is not None}
    if config is not None:
        loaded = settings.load(config, run, overrides, options=given)
    else:
        loaded = settings.load_preset(preset or "finetune", run, overrides, options=given)
    train(loaded, out, overwrite)
    result(str(out))


def _by_stream(options: tuple[str, ...]) -> dict[str, str]:
    from tad_distill.console import UsageError

    found = {}
    for option in options:
        stream, equals, file = option.partition("=")
        if not (stream and equals and file):
            raise UsageError(f"--weights {option}: expected STREAM=FILE")
        found[stream] = file
    return found
