"""Presets by name: a file, or the data, head and training of one with the model of another.

``thumos_tadtr_paper`` is a file. ``thumos_tadtr_paper/student`` is that file with the model of the
preset ``student``: its branches, fusion and lessons. So every row of a table can be had with every
head and data set, and each file still says all that it is about.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tad_distill import config
from tad_distill.config import ConfigError

# Presets whose names begin so are for these data sets.
DATA_SETS = ("anet", "thumos", "world")
# What a row decides: who reads what, and who teaches it.
ROW_TABLES = ("model", "fusion", "transfers", "objective", "teacher")
ROW_DATA = ("standardise", "unlabelled", "unlisted")
# What the recipe decides although it stands in the model's table.
RECIPE_MODEL = ("class_agnostic",)


def read(folder: Path, name: str) -> dict[str, Any]:
    """The table of a preset.

    Args:
        folder: Of the presets.
        name: ``NAME``, or ``RECIPE/ROW``.

    Raises:
        ConfigError: There is no such preset; the message lists those there are.
    """
    recipe, slash, row = name.partition("/")
    table = config.read(config.preset(folder, recipe))
    if not slash:
        return table
    return _joined(table, config.read(config.preset(folder, row)))


def with_backbone(table: Mapping[str, Any], backbone: str) -> dict[str, Any]:
    """The table with every stream of its model by another backbone.

    >>> with_backbone({"model": {"streams": ["tsm18:rgb", "tsm18:tg"]}}, "i3d")
    {'model': {'streams': ['i3d:rgb', 'i3d:tg']}}
    """
    model = dict(table.get("model", {}))

    def renamed(stream: str) -> str:
        return f"{backbone}:{stream.partition(':')[2]}"

    for key in ("appearance", "motion"):
        if key in model:
            model[key] = renamed(model[key])
    if "streams" in model:
        model["streams"] = [renamed(stream) for stream in model["streams"]]
    return {**table, "model": model}


def headings(folder: Path) -> Iterator[tuple[str, str]]:
    """The presets of a folder and the first sentence that each says about itself.

    What stands in brackets is left out. Those of no data set come first.
    """

    def order(path: Path) -> tuple[str, str]:
        data_set = path.stem.partition("_")[0]
        return data_set if data_set in DATA_SETS else "", path.stem

    for path in sorted(folder.glob("*.toml"), key=order):
        comments = []
        for line in path.read_text().splitlines():
            if not line.startswith("# "):
                break
            comments.append(line.removeprefix("# "))
        sentence = re.split(r"\.(?: |$)", " ".join(comments))[0]
        yield path.stem, re.sub(r" \([^)]*\)", "", sentence)


def _joined(recipe: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    joined = {key: value for key, value in recipe.items() if key not in ROW_TABLES}
    joined |= {key: row[key] for key in ROW_TABLES if key in row}
    data = {key: value for key, value in recipe.get("data", {}).items() if key not in ROW_DATA}
    joined["data"] = data | {k: v for k, v in row.get("data", {}).items() if k in ROW_DATA}
    if "model" not in row:
        raise ConfigError("the preset behind the slash says nothing about a model")
    kept = {key: recipe["model"][key] for key in RECIPE_MODEL if key in recipe.get("model", {})}
    joined["model"] = {**row["model"], **kept}
    return joined
