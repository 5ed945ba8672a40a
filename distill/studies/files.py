"""Studies as files: the shipped ones stand beside this module."""

import json
from collections.abc import Iterable
from pathlib import Path

from tad_distill import config
from tad_distill.config import ConfigError
from tad_distill.distill.studies.schema import Study

FOLDER = Path(__file__).parent


def shipped() -> list[str]:
    """The names of the shipped studies."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str, overrides: Iterable[str] = ()) -> Study:
    """Read a study: a shipped one by its name, or a TOML file.

    Raises:
        ConfigError: No such study, or a key is wrong; with the dotted key.
    """
    path = Path(name)
    if path.suffix != ".toml":
        if name not in shipped():
            raise ConfigError(f"study {name!r}: no such study (there are {', '.join(shipped())})")
        path = FOLDER / f"{name}.toml"
    return config.load(Study, config.read(path), map(_word_as_text, overrides))


def _word_as_text(override: str) -> str:
    """``words.fraction=0.1`` means the text, as it is put into other settings."""
    key, _, text = override.partition("=")
    plain = key.startswith("words.") and not text.startswith(("'", '"'))
    return f"{key}={json.dumps(text)}" if plain else override
