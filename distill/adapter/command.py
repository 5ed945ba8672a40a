"""The command ``adapt``."""

from pathlib import Path

import click

PATH = click.Path(path_type=Path)
PRESETS = sorted(path.stem for path in (Path(__file__).parent / "presets").glob("*.toml"))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--preset", help=f"Settings to start from: {', '.join(PRESETS)}. [default: adapter]")
@click.option("--config", type=PATH, help="A TOML file of your own, or the config.json of a run.")
@click.option("--store", type=PATH, help="Feature store; gets the new stream.")
@click.option("--maps", help="What the last stage reads, as tsm18:rgb@layer3.")
@click.option("--teacher-stream", help="What it learns to predict, as tsm18:tg.")
@click.option("--annotations", type=PATH, help="Subsets, and labels for the probes; no lesson.")
@click.option("--weights", type=PATH, help="The base's weights, if they have moved.")
@click.option("--out", type=PATH, required=True, help="Folder of the run; a killed run goes on.")
@click.option("--seed", type=int, help="Of the windows and the linear map.")
@click.option("--device", help="auto, cpu, cuda or cuda:1.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="As in train.steps=9.")
@click.option("--overwrite", is_flag=True, help="Train anew, whatever stands in --out.")
def adapt(
    preset: str | None,
    config: Path | None,
    store: Path | None,
    maps: str | None,
    teacher_stream: str | None,
    annotations: Path | None,
    weights: Path | None,
    out: Path,
    seed: int | None,
    device: str | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Teach a copy of the last backbone stage what a motion teacher sees.

    No labels are needed. The copy's features become the stream BACKBONE:MODALITY+motion of the
    store, for every video that has maps; a student reads it in its motion branch. Prints how much
    of the teacher's features the copy explains on held-out videos, and the stream.
    """
    import json

    from tad_distill.console import UsageError, result
    from tad_distill.distill.adapter import config as settings
    from tad_distill.distill.adapter.run import adapt as run

    if preset is not None and config is not None:
        raise UsageError("name either --preset NAME or --config FILE")
    named = {
        "data.store": store,
        "data.annotations": annotations,
        "adapter.maps": maps,
        "adapter.teacher": teacher_stream,
        "adapter.weights": weights,
        "train.seed": seed,
        "train.device": device,
    }
    # Options win over --set, which wins over the file. JSON text is TOML for words and numbers.
    given = [
        f"{key}={value if isinstance(value, int) else json.dumps(str(value), ensure_ascii=False)}"
        for key, value in named.items()
        if value is not None
    ]
    everything = (*overrides, *given)
    if config is not None:
        loaded = settings.load(config, everything)
    else:
        loaded = settings.load_preset(preset or "adapter", everything)
    report = run(loaded, out, overwrite)
    for what, value in report["validation"].items():
        shown = "nothing to measure it on" if value is None else f"{value:.3f}"
        result(f"{what.replace('_', ' ')} on held-out videos: {shown}")
    for stream in report["streams"]:
        result(stream)
