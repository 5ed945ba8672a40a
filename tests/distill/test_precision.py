"""Training in half precision gives the mAP of float32, with each head."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tad_distill import config
from tad_distill.data import annotations
from tad_distill.data.store import Store
from tad_distill.distill.config import Experiment
from tad_distill.distill.heads import HeadConfig
from tad_distill.distill.predict import Run, predict
from tad_distill.distill.train import train
from tad_distill.evaluate.mean_ap import mean_ap

HEADS = config.members("tad_distill.distill.heads")
# Steps until a head finds most of what the streams plainly show, and what is not as in SMALL.
RECIPES: dict[str, tuple[int, tuple[str, ...]]] = {
    "actionformer": (120, ()),
    "gtad": (100, ("head.max_duration=14", "head.positive_iou=0.7")),
    "tadtr": (200, ()),
}


def map_of(kind: str, small: HeadConfig, world: Path, out: Path, precision: str) -> float:
    """On the test videos of the signal world, in percent."""
    steps, overrides = RECIPES[kind]
    table = {
        "data": {"store": str(world / "store"), "annotations": str(world / "annotations.json")},
        "model": {"streams": ["made:rgb"], "dim": 16, "num_layers": 1},
        "head": config.dump(small),
        "nms": {"num_detections": 50},
        "train": {"steps": steps, "lr": 4e-3, "batch_size": 8, "ema": 0.9, "device": "cpu"},
    }
    train(config.load(Experiment, table, [*overrides, f"train.precision={precision}"]), out)
    test = annotations.read(world / "annotations.json").subset("test")
    found = predict(Run.load(out, "cpu"), Store.open(world / "store"), sorted(test.videos))
    return 100 * mean_ap(test.table(), found, (0.3, 0.5)).average_mAP


@pytest.mark.slow
@pytest.mark.parametrize("kind", HEADS)
def test_bfloat16_keeps_the_map(
    kind: str, small_head: Callable[[str], HeadConfig], signal_world: Path, tmp_path: Path
) -> None:
    full, half = (
        map_of(kind, small_head(kind), signal_world, tmp_path / precision, precision)
        for precision in ("float32", "bfloat16")
    )
    print(f"\n{kind}: float32 {full:.1f}, bfloat16 {half:.1f}")
    assert full > 80
    assert half == pytest.approx(full, abs=5.0)
