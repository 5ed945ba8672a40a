"""What is known of how detections were made: the run's settings, its losses, the provenance."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tad_distill import console
from tad_distill.console import UserError
from tad_distill.data.files import parse_json, read_text


@dataclass(frozen=True)
class RunNotes:
    """What a run folder holds for a reader; empty where it is not at hand.

    Attributes:
        path: The folder, ``None`` where none is known.
        settings: The resolved configuration.
        history: The losses, a row per look.
    """

    path: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    history: tuple[dict[str, Any], ...] = ()


def read(folder: Path | None, header: Mapping[str, Any]) -> RunNotes:
    """Read a run folder.

    Args:
        folder: The one that was named; an error if it is no run. By default the one that the
            detections name, if it is still there.
        header: What stands beside the detections.

    Raises:
        UserError: ``folder`` has no ``config.json``.
    """
    provenance = header.get("provenance")
    named = provenance.get("run") if isinstance(provenance, Mapping) else None
    path = folder or (Path(named) if isinstance(named, str) else None)
    if path is None or not (path / "config.json").is_file():
        if folder:
            raise UserError(f"{folder}: no config.json in it; --run is the folder of `train --out`")
        if path:
            console.log("no_run", run=path, reason="not at hand: no losses, no settings")
        return RunNotes()
    settings = parse_json(path / "config.json", read_text(path / "config.json"))
    if not isinstance(settings, dict):
        raise UserError(f"{path / 'config.json'}: expected settings by section")
    return RunNotes(path, settings, _history(path / "history.jsonl"))


def _history(path: Path) -> tuple[dict[str, Any], ...]:
    """The rows of a history; a line that a kill cut short is left out and logged."""
    rows, broken = [], 0
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
            broken += not isinstance(row, dict) or "step" not in row
            rows += [row] if isinstance(row, dict) and "step" in row else []
        except json.JSONDecodeError:
            broken += 1
    if broken:
        console.log("broken_lines", file=path, num_lines=broken, counted_as="left out")
    return tuple(rows)


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted keys with their values as text.

    >>> flat({"a": {"b": 1, "c": [1, 2]}, "d": []})
    [('a.b', '1'), ('a.c', '[1, 2]'), ('d', '[]')]
    """
    if isinstance(value, Mapping) and value:
        parts = [
            flat(inner, f"{prefix}.{key}" if prefix else str(key)) for key, inner in value.items()
        ]
        return [row for part in parts for row in part]
    if isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        parts = [flat(inner, f"{prefix}.{i}") for i, inner in enumerate(value)]
        return [row for part in parts for row in part]
    return [(prefix, value if isinstance(value, str) else json.dumps(value))]
