"""Read TOML into frozen dataclasses, strictly: an unknown key or a wrong type is an error.

A dataclass sits beside the code it configures and holds the defaults; a preset lists what
differs; ``key.sub=value`` overrides. A dataclass defined in a package's ``__init__.py`` is a
*family*: its table names a member by ``kind``, the name of a module in that package, and fills
that module's ``Config``. So the folder is the registry.
"""

import difflib
import importlib
import json
import pkgutil
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from tad_distill.console import UsageError

T = TypeVar("T")


class ConfigError(UsageError):
    """A setting the user has to correct; the message says which, what was found and allowed."""


def read(path: Path) -> dict[str, Any]:
    """Read a settings file, TOML or the JSON that a run saved.

    Raises:
        ConfigError: The file is missing or not in its format.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the settings ({error.strerror})") from error
    try:
        return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: not valid {path.suffix[1:].upper()}: {error}") from error


def preset(folder: Path, name: str) -> Path:
    """The file of a shipped preset.

    Raises:
        ConfigError: No such preset; the message lists those there are.
    """
    path = folder / f"{name}.toml"
    if not path.is_file():
        names = sorted(p.stem for p in folder.glob("*.toml"))
        raise ConfigError(f"preset {name!r}: no such preset{_hint(name, names)}")
    return path


def load(schema: type[T], table: Mapping[str, Any], overrides: Iterable[str] = ()) -> T:
    """Apply ``key.sub=value`` overrides to a table and build ``schema`` from it.

    Raises:
        ConfigError: With the dotted path of the setting, what was found and what is allowed.
    """
    copied = cast(dict[str, Any], json.loads(json.dumps(table, default=str)))
    for override in overrides:
        assign(copied, override)
    return build(schema, copied)


def build(schema: type[T], table: Mapping[str, Any], at: str = "") -> T:
    """Build the dataclass ``schema`` from the table found at the dotted key ``at``."""
    table = dict(table)
    if hasattr(sys.modules[schema.__module__], "__path__"):
        schema = _member(schema, table.pop("kind", None), at)
    hints = get_type_hints(schema)
    known = {f.name: f for f in fields(schema)}  # type: ignore[arg-type]
    for key in table.keys() - known.keys():
        raise ConfigError(f"{_join(at, key)}: no such setting{_hint(key, known)}")
    for name, field in known.items():
        required = field.default is MISSING and field.default_factory is MISSING
        if required and name not in table:
            raise ConfigError(f"{_join(at, name)}: required, but not set")
    try:
        return schema(**{k: _value(hints[k], v, _join(at, k)) for k, v in table.items()})
    except ConfigError:
        raise
    except ValueError as error:  # a __post_init__ found an impossible combination
        raise ConfigError(f"{at}: {error}" if at else str(error)) from error


def dump(config: object) -> dict[str, Any]:
    """The table from which :func:`build` makes an equal ``config``; writable as JSON.

    ``None`` stands for "not set" and is left out, as TOML has no word for it.
    """
    if not is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"expected a configuration, got {config!r}")
    table: dict[str, Any] = {}
    if any(hasattr(sys.modules[base.__module__], "__path__") for base in type(config).__mro__[1:]):
        table["kind"] = type(config).__module__.rpartition(".")[2]
    for field in fields(config):
        value = getattr(config, field.name)
        if value is not None:
            table[field.name] = _plain(value)
    return table


def members(package_name: str) -> list[str]:
    """The options of a family: the names of the modules in its folder."""
    package = importlib.import_module(package_name)
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def assign(table: dict[str, Any], override: str) -> None:
    """Apply one ``key.sub=value`` to a table; a value that is no TOML is taken as a word."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override}: expected key=value, as in train.lr=2e-4")
    *parents, leaf = key.split(".")
    for depth, parent in enumerate(parents):
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{'.'.join(parents[: depth + 1])}: not a table, in {override}")
    try:
        table[leaf] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        table[leaf] = text


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return dump(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _value(kind: Any, value: Any, at: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        if not isinstance(value, dict):
            raise ConfigError(f"{at}: expected a table, got {value!r}")
        return build(kind, value, at)
    if origin in (Union, UnionType):
        (inner,) = (arg for arg in args if arg is not type(None))
        return _value(inner, value, at)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{at}: expected one of {', '.join(map(repr, args))}, got {value!r}")
        return value
    if origin is tuple:
        return _tuple(args, value, at)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{at}: expected a table, got {value!r}")
        return {key: _value(args[1], item, _join(at, key)) for key, item in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if type(value) is not kind:
        raise ConfigError(f"{at}: expected {kind.__name__}, got {value!r}")
    return value


def _tuple(args: tuple[Any, ...], value: Any, at: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{at}: expected a list, got {value!r}")
    if len(args) == 2 and args[1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(args) != len(value):
        raise ConfigError(f"{at}: expected a list of {len(args)}, got {len(value)} items")
    return tuple(
        _value(kind, item, f"{at}[{i}]")
        for i, (kind, item) in enumerate(zip(args, value, strict=True))
    )


def _member(family: type[T], kind: str | None, at: str) -> type[T]:
    package = sys.modules[family.__module__]
    names = members(package.__name__)
    if kind not in names:
        raise ConfigError(f"{_join(at, 'kind')}: expected one of {', '.join(names)}, got {kind!r}")
    member: type[T] = importlib.import_module(f"{package.__name__}.{kind}").Config
    return member


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key


def _hint(key: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(key, names, n=1)
    return f"; did you mean {close[0]}?" if close else f" (there are {', '.join(names)})"
