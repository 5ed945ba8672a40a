"""How long NMS takes for one video; writes results/nms.md."""

import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np

from tad_distill.evaluate.nms import NmsConfig, suppress

NUM_REPEATS = 7
NUM_CANDIDATES, NUM_LABELS, NUM_STEPS = 12_000, 20, 2304
ALL = NUM_CANDIDATES
CASES = [
    ("soft, per label", NmsConfig()),
    ("soft, per label, 2,000 kept", NmsConfig(num_detections=2000)),
    ("soft, per label, all kept", NmsConfig(num_detections=ALL)),
    ("soft, all labels together, voting", NmsConfig(multiclass=False)),
    ("hard, per label", NmsConfig(method="hard")),
    ("hard, per label, all kept", NmsConfig(method="hard", num_detections=ALL)),
]


def test_nms_of_a_thumos_video_takes_milliseconds(
    machine: str, publish: Callable[[str, Sequence[str]], None]
) -> None:
    random = np.random.default_rng(0)
    centers = random.uniform(0, NUM_STEPS, NUM_CANDIDATES)
    lengths = random.exponential(20, NUM_CANDIDATES) + 0.1
    segments = np.stack([centers - lengths / 2, centers + lengths / 2], 1).astype(np.float32)
    scores = random.beta(1, 8, NUM_CANDIDATES).astype(np.float32)
    labels = random.integers(0, NUM_LABELS, NUM_CANDIDATES)
    rows = []
    for name, config in CASES:
        times = []
        for _ in range(NUM_REPEATS):
            start = time.process_time()
            found = suppress(segments, scores, labels, config)
            times.append(time.process_time() - start)
        rows.append((name, len(found[1]), 1000 * median(times)))
    lines = [
        "# NMS of one video",
        "",
        f"{NUM_CANDIDATES:,} random candidates of {NUM_LABELS} labels in {NUM_STEPS:,} steps; the "
        f"best 200 kept unless said otherwise. Median of {NUM_REPEATS}, CPU time of one process.",
        f"{machine}, numpy {np.__version__}.",
        "",
        "| method | kept | ms |",
        "|---|---:|---:|",
        *(f"| {name} | {kept:,} | {ms:.1f} |" for name, kept, ms in rows),
    ]
    publish("nms", lines)
    assert rows[0][2] < 100
