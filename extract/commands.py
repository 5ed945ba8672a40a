"""The command ``extract``."""

from pathlib import Path

import click

from tad_distill import units
from tad_distill.console import FAILED, UsageError, result

PRESETS = sorted(
    path.stem
    for path in (Path(__file__).parent / "presets").glob("*.toml")
    if not path.stem.startswith("pretrain")
)


@click.command()
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--stream",
    "streams",
    multiple=True,
    required=True,
    metavar="BACKBONE:MODALITY",
    help="What to extract, as tsm18:rgb or tsm18:tg; several share one decoding pass.",
)
@click.option("--store", required=True, type=click.Path(path_type=Path), help="The feature store.")
@click.option("--preset", help=f"Settings to start from: {', '.join(PRESETS)}.")
@click.option(
    "--weights",
    multiple=True,
    metavar="STREAM=FILE",
    help="A checkpoint for a stream (its layout is recognised), or random:SEED.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting, as fps=10."
)
@units.options
@click.option(
    "--plan", is_flag=True, help="Print frames, bytes and hours, with --units the longest; no more."
)
@click.option("--retry-failed", is_flag=True, help="Try again what failed in an earlier run.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    help="File for one line of JSON per video: video, path, status, reason, warnings.",
)
def extract(
    videos: tuple[Path, ...],
    streams: tuple[str, ...],
    store: Path,
    preset: str | None,
    weights: tuple[str, ...],
    overrides: tuple[str, ...],
    units_: int | None,
    unit: int | None,
    plan: bool,
    retry_failed: bool,
    report: Path | None,
) -> int:
    """Turn VIDEOS into features: files, folders of them, or a .txt list of them.

    Run the same command again and it goes on where it stopped. The exit code is 1 when a video
    failed; the others are finished nevertheless.
    """
    from tad_distill.extract import config, run, sources, survey
    from tad_distill.extract import plan as planning

    paths, settings = sources.find(videos), config.load(preset, overrides)
    networks = parse_weights(weights)
    if plan:
        encoders = run.build_encoders(list(streams), settings, networks)
        listed = survey.survey(run.by_name(paths), store, settings)
        planning.plan(listed, encoders, store, settings, units_ or 1)
        return 0
    ended = run.extract(
        paths,
        list(streams),
        store,
        settings,
        networks,
        unit=units.own(units_, unit),
        retry_failed=retry_failed,
        report_file=report,
    )
    result(str(store))
    return FAILED if ended.failed else 0


def parse_weights(options: tuple[str, ...]) -> dict[str, Path]:
    """``STREAM=FILE`` options as a mapping.

    Raises:
        UsageError: Another form, or two files for one stream.
    """
    sources: dict[str, Path] = {}
    for option in options:
        stream, equals, source = option.partition("=")
        if not (stream and equals and source):
            raise UsageError(f"--weights {option}: expected STREAM=FILE or STREAM=random:SEED")
        if sources.setdefault(stream, Path(source)) != Path(source):
            raise UsageError(f"--weights: two sources for the stream {stream!r}")
    return sources
