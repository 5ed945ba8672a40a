"""Scored runs as they stand on disk."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tad_distill.cli import main

TIOU = [0.3, 0.4, 0.5, 0.6, 0.7]

RGB, TG, FLOW = "tsm18:rgb", "tsm18:tg", "i3d:flow"


def settings(
    kind: str = "single",
    streams: tuple[str, ...] = (RGB,),
    transfers: tuple[str, ...] = (),
    fusion: str = "local",
    head: str = "actionformer",
) -> dict[str, Any]:
    names = {"appearance": streams[0], "motion": streams[-1]}
    return {
        "preset": "made",
        "data": {"store": "features", "label_fraction": 1.0, "label_seed": 0},
        "model": {"kind": kind, **({"streams": list(streams)} if kind == "single" else names)},
        "head": {"kind": head, "embd_dim": 64},
        "fusion": {"kind": fusion},
        "transfers": [{"kind": name, "weight": 1.0} for name in transfers],
        "teacher": {"run": "runs/teacher"} if transfers else {},
        "train": {"seed": 0, "lr": 1e-4},
    }


LESSONS = ("response", "feature")

DECOMPOSED = settings("decomposed", (RGB, RGB), LESSONS)


def save(
    folder: Path,
    experiment: dict[str, Any],
    mAP: float | list[float] = 0.5,
    *,
    seed: int = 0,
    teacher: str = TG,
    **scores: Any,
) -> Path:
    """A scored run as it stands on disk."""
    experiment = copy.deepcopy(experiment)
    experiment["train"]["seed"] = seed
    model = experiment["model"]
    read = {
        *model.get("streams", ()),
        *filter(None, (model.get("appearance"), model.get("motion"))),
    }
    read |= {teacher} if experiment["transfers"] else set()
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "experiment": experiment,
        "inputs": {"streams": {name: f"of {name}" for name in read}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    document = {
        "annotations": "world/annotations.json",
        "subset": "test",
        "protocol": "plain",
        "tiou": TIOU,
        "mAP": mAP if isinstance(mAP, list) else [mAP] * 5,
        "num_videos": 50,
        "provenance": {"features": "frozen", "counts": {"videos": 60, "labelled": 24}},
    }
    (folder / "scores.json").write_text(json.dumps(document | scores))
    return folder / "scores.json"


def run(*arguments: object) -> int:
    """The exit code of ``eval`` with these arguments."""
    with pytest.raises(SystemExit) as ended:
        main(["eval", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code
