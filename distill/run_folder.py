"""The folder of a run: what stands in it, and whether it may be gone on with.

::

    config.json     settings, version and what the inputs were; ``--config`` reads it
    history.jsonl   the losses, one line per look
    last.pt         state of the training; what a killed run goes on from
    model.pt        the finished detector; it appears last, so it means that the run has finished
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tad_distill
from tad_distill import config
from tad_distill.config import ConfigError
from tad_distill.data import durable
from tad_distill.distill import checkpoint

# Settings that change where and how fast a run happens, not what it learns; paths may move, the
# identity of what they lead to is compared instead.
FREE = {
    "data": {"store", "annotations", "cache_mb", "test_subset"},
    "teacher": {"run"},
    "needs": {"features", "annotations", "scores"},
    "adapter": {"weights"},
    "backbone": {"run", "videos", "weights", "frames", "checkpointing"},
    "train": {"device", "workers", "log_every", "save_every_s"},
}


class RunFolder:
    """A run's files.

    Attributes:
        path: The folder.
        history: The losses.
    """

    def __init__(self, path: Path, product: str = "model.pt") -> None:
        """Name the folder, and the file in it that appears last."""
        self.path = path
        self.history = checkpoint.History(path / "history.jsonl")
        self._config = path / "config.json"
        self._last = path / "last.pt"
        self._model = path / product

    def claim(self, experiment: object, identity: Mapping[str, Any], overwrite: bool) -> bool:
        """Make the folder this experiment's, or find that it is already.

        Args:
            experiment: The settings, a dataclass.
            identity: What the inputs are.
            overwrite: Delete whatever run stands there.

        Returns:
            Whether the run has finished already.

        Raises:
            ConfigError: Another run stands there; the message names the keys that differ.
        """
        if overwrite:
            # The result goes first and the settings last: a kill in between leaves a folder that
            # is either still a run or none at all.
            for path in (self._model, self._last, self.history.path, self._config):
                path.unlink(missing_ok=True)
        self.path.mkdir(parents=True, exist_ok=True)
        durable.sweep(self.path)  # what a kill in the middle of a save has left
        table = {
            "tad_distill": tad_distill.__version__,
            "experiment": json.loads(json.dumps(config.dump(experiment))),
            "inputs": dict(identity),
        }
        if not self._config.exists():
            for path in (self._model, self._last):
                if path.exists():
                    raise ConfigError(
                        f"{path}: stands there without a config.json; name another folder, or "
                        "begin anew with --overwrite"
                    )
            checkpoint.write_json(table, self._config)
            return False
        old = self._read()
        differing = checkpoint.differing(_compared(old), _compared(table))
        if differing:
            state = "a finished" if self._model.exists() else "an unfinished"
            raise ConfigError(
                f"{self.path}: holds {state} run of other settings: {'; '.join(differing)}; "
                "name another folder, or begin anew with --overwrite"
            )
        return self._model.exists()

    def state(self) -> dict[str, Any] | None:
        """The saved state of the training, if there is one."""
        return checkpoint.load(self._last) if self._last.exists() else None

    def save(self, state: Mapping[str, Any]) -> None:
        """Save the state of the training."""
        checkpoint.save(state, self._last)

    def finish(self, product: Mapping[str, Any]) -> None:
        """Write the finished detector."""
        checkpoint.save(product, self._model)

    def _read(self) -> dict[str, Any]:
        try:
            table: dict[str, Any] = json.loads(self._config.read_text())
            return {"experiment": table["experiment"], "inputs": table["inputs"]}
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self._config}: not the settings of a run; name another folder, or begin anew "
                "with --overwrite"
            ) from error


def _compared(table: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be equal for a run to be gone on with."""
    compared: dict[str, Any] = {}
    for section, value in table["experiment"].items():
        if isinstance(value, Mapping):
            value = {k: v for k, v in value.items() if k not in FREE.get(section, ())}
        compared[section] = value
    return compared | {"inputs": table["inputs"]}
