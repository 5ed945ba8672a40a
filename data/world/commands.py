"""The command that renders the built-in benchmark."""

from pathlib import Path

import click

from tad_distill.console import result


@click.command()
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--size",
    type=click.Choice(["tiny", "demo", "full"]),
    default="demo",
    show_default=True,
    help="tiny: seconds, for a try; demo: half a minute on two cores; full: for real experiments.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Another seed, another world.",
)
@click.option(
    "--workers", type=click.IntRange(1), help="Processes; as many as processors if unset."
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one setting, as in scenes.rho=0.6 or clips.num_training=8000. Repeatable.",
)
def world(out: Path, size: str, seed: int, workers: int | None, overrides: tuple[str, ...]) -> None:
    """Render the built-in benchmark into OUT: videos, annotations, clips for pretraining.

    Prints the path of the annotations. A finished OUT is left as it is, a half-finished one is
    completed.
    """
    from tad_distill import config
    from tad_distill.data.world.config import SIZES, WorldConfig
    from tad_distill.data.world.workers import processors
    from tad_distill.data.world.write import World, write_world

    settings = config.load(WorldConfig, SIZES[size], overrides)
    result(str(write_world(World(settings, seed, out), workers or processors())))
