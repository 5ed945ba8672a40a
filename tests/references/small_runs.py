"""Settings of small runs, and what a run holds."""

import json
from pathlib import Path
from typing import Any

import torch

from tad_distill.distill import checkpoint

CPU = torch.device("cpu")

HEAD = {
    "kind": "actionformer",
    "embd_dim": 16,
    "num_heads": 2,
    "arch": [1, 1, 2],
    "window": [7],
    "loss_normalizer": 30.0,
}

SINGLE = {"streams": ["made:rgb"], "dim": 16, "num_layers": 1, "noise": 0.3, "dropout": 0.1}

DECOMPOSED = {
    "kind": "decomposed",
    "appearance": "made:rgb",
    "motion": "made:rgb",
    "dim": 16,
    "num_layers": 1,
    "noise": 0.3,
}

TRANSFERS = [{"kind": "response"}, {"kind": "feature"}]


def weights(run: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = checkpoint.load(run / "model.pt")["weights"]
    return loaded


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def losses(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "steps_per_s"} for row in rows]
