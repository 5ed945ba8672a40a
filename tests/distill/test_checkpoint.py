"""A run's files survive a kill, hold everything, and load nothing that could run code."""

import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tad_distill.console import UserError
from tad_distill.distill.checkpoint import (
    History,
    differing,
    load,
    random_state,
    save,
    seed_everything,
    set_random_state,
    write_json,
)


def draw() -> list[float]:
    return [random.gauss(0, 1), float(np.random.normal()), torch.randn(()).item()]


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {
        "model": {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(7)},
        "step": 12,
        "rate": 0.1,
        "labels": ["a", "b"],
        "empty": {},
        "none": None,
    }
    save(state, tmp_path / "last.pt")
    loaded = load(tmp_path / "last.pt")
    assert torch.equal(loaded["model"]["w"], state["model"]["w"])  # type: ignore[index]
    assert {k: v for k, v in loaded.items() if k != "model"} == {
        k: v for k, v in state.items() if k != "model"
    }
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("seed", [0, 3])
def test_every_generator_goes_on_where_it_was(tmp_path: Path, seed: int) -> None:
    seed_everything(seed)
    draw()  # leaves a spare normal number inside the python and numpy generators
    save({"random": random_state()}, tmp_path / "s.pt")
    expected = [draw(), draw()]
    seed_everything(99)
    set_random_state(load(tmp_path / "s.pt")["random"])
    assert [draw(), draw()] == expected


def test_one_seed_starts_every_generator() -> None:
    seed_everything(5)
    first = draw()
    seed_everything(5)
    assert draw() == first
    seed_everything(6)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


def test_a_failed_save_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save({"step": 1}, path)
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        save({"step": 2, "bad": lambda: None}, path)
    assert load(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_a_damaged_file_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.pt"
    save({"w": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="model.pt: not a checkpoint"):
        load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model.pt: no such file"):
        load(tmp_path / "model.pt")


class Attack:
    """Unpickling it would make a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("attacked",)


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"x": Attack()}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="not a checkpoint"):
        load(tmp_path / "model.pt")
    assert not (tmp_path / "attacked").exists()


def test_history_is_cut_back_to_the_state(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.rewind(0)
    assert history.rows() == []
    for step in (10, 20, 30):
        history.append({"step": step, "loss": 1 / step})
    with history.path.open("a") as file:
        file.write('{"step": 40, "lo')
    history.rewind(20)
    history.append({"step": 30, "loss": 0.5})
    assert [row["step"] for row in history.rows()] == [10, 20, 30]
    assert history.rows()[-1]["loss"] == 0.5


def test_json_is_written_whole(tmp_path: Path) -> None:
    write_json({"a": [1, 2]}, tmp_path / "config.json")
    assert json.loads((tmp_path / "config.json").read_text()) == {"a": [1, 2]}
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_differences_name_every_key_with_both_values() -> None:
    old = {"train": {"lr": 0.1, "epochs": 3}, "streams": ["a"], "gone": 1}
    new = {"train": {"lr": 0.2, "epochs": 3}, "streams": ["a", "b"], "added": {"x": 1}}
    assert differing(old, new) == [
        "train.lr (0.1 -> 0.2)",
        "streams (['a'] -> ['a', 'b'])",
        "gone (1 -> not set)",
        "added (not set -> {'x': 1})",
    ]
    assert differing(old, json.loads(json.dumps(old))) == []


def test_a_file_size_limit_is_one_clear_line_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save({"x": torch.zeros(4)}, path)
    before = path.read_bytes()
    code = (
        "import resource, signal, sys, torch; from pathlib import Path\n"
        "from tad_distill.console import UserError\n"
        "from tad_distill.distill import checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: checkpoint.save({'x': torch.zeros(100_000)}, Path(sys.argv[1]))\n"
        "except UserError as error: print(error)\n"
    )
    line = [sys.executable, "-P", "-c", code, str(path)]
    said = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"cannot write {path}: ") and said.count("\n") == 1
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["last.pt"]
