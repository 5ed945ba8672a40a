"""Files of a run that survive a kill at any moment, and everything a resumed run has to remember.

A file appears under its name only when it is complete and on disk: written under a temporary name,
fsync, rename. Nothing is unpickled but tensors and plain values.
"""

import io
import json
import pickle
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from tad_distill.console import UserError
from tad_distill.data import durable


def save(state: Mapping[str, Any], path: Path) -> None:
    """Write tensors and plain values; a reader sees the old file or the new one, never a part.

    Raises:
        UserError: The disk is full, or any other error of writing.
    """
    buffer = io.BytesIO()  # on a full disk torch's own writer ends in an error without a reason
    torch.save(dict(state), buffer)
    durable.write_bytes(path, buffer.getvalue())


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what :func:`save` wrote.

    Raises:
        UserError: The file is missing, damaged, or holds more than tensors and plain values.
    """
    try:
        return cast(dict[str, Any], torch.load(path, map_location=device, weights_only=True))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; has the run finished?") from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: not a checkpoint of this program, or damaged ({reason}); "
            "delete the file, or train again with --overwrite"
        ) from error


def write_json(value: object, path: Path) -> None:
    """Write JSON with the same promise as :func:`save`."""
    durable.write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


class History:
    """A run's numbers over its steps, one JSON object per line.

    Lines go on disk when they are made, the state of the run more rarely; so a killed run's file
    may be ahead of its state, and :meth:`rewind` cuts it back.
    """

    def __init__(self, path: Path) -> None:
        """Name the file; it is made by the first line."""
        self.path = path

    def rewind(self, step: int) -> None:
        """Forget lines of steps after ``step``, and a line that a kill cut short."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in lines if _complete(line) and json.loads(line)["step"] <= step]
        durable.write_bytes(self.path, "".join(f"{line}\n" for line in kept).encode())

    def append(self, row: Mapping[str, object]) -> None:
        """Add a line; ``row`` has a ``step``."""
        assert "step" in row
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """All lines."""
        return [json.loads(line) for line in self.path.read_text().splitlines()]


def random_state() -> dict[str, Any]:
    """The state of every random generator, as tensors and plain values."""
    numpy = np.random.get_state(legacy=False)
    return {
        "python": random.getstate(),
        "numpy": {**numpy["state"], "key": numpy["state"]["key"].tolist()},
        "numpy_gauss": [numpy["has_gauss"], numpy["gauss"]],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put every random generator back where :func:`random_state` found it.

    The CUDA generators are restored if the machine has as many of them as the one that saved.
    """
    random.setstate(state["python"])
    key = np.array(state["numpy"]["key"], dtype=np.uint32)
    has_gauss, gauss = state["numpy_gauss"]
    np.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": {"key": key, "pos": state["numpy"]["pos"]},
            "has_gauss": has_gauss,
            "gauss": gauss,
        }
    )
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([generator.cpu() for generator in state["cuda"]])


def seed_everything(seed: int) -> None:
    """Start every random generator from one number."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def differing(old: Mapping[str, Any], new: Mapping[str, Any], at: str = "") -> list[str]:
    """The dotted keys, with both values, in which two nested tables differ.

    >>> differing({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4})
    ['a.c (2 -> 3)', 'd (not set -> 4)']
    """
    found: list[str] = []
    for key in _in_order(old, new):
        name = f"{at}.{key}" if at else key
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differing(before, after, name)
        elif before != after:
            shown = ["not set" if value is None else value for value in (before, after)]
            found.append(f"{name} ({shown[0]} -> {shown[1]})")
    return found


def _in_order(old: Iterable[str], new: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*old, *new]))


def _complete(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except json.JSONDecodeError:
        return False
