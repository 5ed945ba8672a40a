"""The command ``train``."""

from pathlib import Path

import click

PATH = click.Path(path_type=Path)


def _list(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    """Print the presets and leave."""
    if not wanted or context.resilient_parsing:
        return
    from tad_distill.console import result
    from tad_distill.distill import config, recipes

    found = list(recipes.headings(config.PRESETS))
    width = max(len(name) for name, _ in found)
    result("\n".join(f"{name:{width}}  {about}" for name, about in found))
    context.exit()


@click.command()
@click.option("--preset", help="A shipped preset, as student, or RECIPE/ROW: thumos_tadtr/student.")
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list,
    help="Print the presets, a line each, and leave.",
)
@click.option("--config", type=PATH, help="A TOML file of your own, or the config.json of a run.")
@click.option("--store", type=PATH, help="Feature store, as made by extract.")
@click.option("--annotations", type=PATH, help="Annotation file, as data check reads it.")
@click.option("--out", type=PATH, required=True, help="Folder of the run; a killed run goes on.")
@click.option("--teacher", type=PATH, help="Folder of the teacher's finished run.")
@click.option("--backbone", help="Of every stream in the preset's model, as in i3d; else its own.")
@click.option("--seed", type=int, help="Of weights and order; 0 if the preset names none.")
@click.option("--device", help="auto, cpu or cuda; auto takes CUDA if there is one.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="As in train.lr=2e-4.")
@click.option("--overwrite", is_flag=True, help="Begin anew, whatever stands in --out.")
def train(
    preset: str | None,
    config: Path | None,
    store: Path | None,
    annotations: Path | None,
    out: Path,
    teacher: Path | None,
    backbone: str | None,
    seed: int | None,
    device: str | None,
    overrides: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Train a teacher, a baseline or a student; the preset says which.

    RECIPE/ROW is the data, the head and the training of one preset with the model of another:
    thumos_tadtr_paper/student. Prints the run's folder. A run that was killed goes on when the
    same command is given again.
    """
    from tad_distill.console import UsageError, result
    from tad_distill.distill import config as settings
    from tad_distill.distill.train import train as run

    if (preset is None) == (config is None):
        raise UsageError("name either --preset NAME (see --list) or --config FILE")
    if backbone is not None and preset is None:
        raise UsageError("--backbone goes with --preset; a file names its streams itself")
    named = {
        "data.store": store,
        "data.annotations": annotations,
        "teacher.run": teacher,
        "train.seed": seed,
        "train.device": device,
    }
    # Options win over --set, which wins over the file. JSON text is TOML for words and numbers.
    given = [f"{key}={_toml(value)}" for key, value in named.items() if value is not None]
    everything = (*overrides, *given)
    if preset is not None:
        experiment = settings.load_preset(preset, everything, backbone)
    else:
        assert config is not None
        experiment = settings.load(config, everything)
    run(experiment, out, overwrite)
    result(str(out))


def _toml(value: Path | str | int) -> str:
    import json

    return str(value) if isinstance(value, int) else json.dumps(str(value), ensure_ascii=False)
