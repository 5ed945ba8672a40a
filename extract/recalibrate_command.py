"""The command ``weights recalibrate``."""

from pathlib import Path

import click

from tad_distill.console import FAILED, result


@click.command()
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--stream",
    required=True,
    metavar="BACKBONE:MODALITY",
    help="The network and what it will be shown, as tsm18:tg.",
)
@click.option("--weights", required=True, help="Its checkpoint, or random:SEED.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="The checkpoint to write."
)
@click.option("--preset", help="Settings of the extraction to come, as video96.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting, as fps=10."
)
@click.option(
    "--clips",
    default=128,
    show_default=True,
    type=click.IntRange(min=2),
    help="Clips in the sample; they are in memory together, some 120 MB at 96 pixels.",
)
def recalibrate(
    videos: tuple[Path, ...],
    stream: str,
    weights: str,
    out: Path,
    preset: str | None,
    overrides: tuple[str, ...],
    clips: int,
) -> int:
    """Give a network the batch statistics of VIDEOS: files, folders of them, or a .txt list.

    Weights trained on colour and shown temporal gradients normalise by the wrong statistics. The
    weights stay as they are; use the file in `extract --weights` in place of the old one. Take the
    training videos alone.
    """
    from tad_distill.extract import config, run, sources
    from tad_distill.extract import recalibrate as work
    from tad_distill.extract.device import choose_device
    from tad_distill.extract.encoder import Encoder

    files, settings = run.by_name(sources.find(videos)), config.load(preset, overrides)
    encoder = Encoder(stream, Path(weights), settings, choose_device(settings))
    work.check(encoder, settings)
    failed = work.recalibrate(files, encoder, out, clips)
    result(str(out))
    return FAILED if failed else 0
