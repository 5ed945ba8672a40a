"""How long mAP takes at the sizes of THUMOS'14 and ActivityNet; writes results/mean_ap.md."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from tad_distill.evaluate import detections as files
from tad_distill.evaluate.mean_ap import mean_ap

NUM_REPEATS = 7
# name, videos, detections a video, labels, annotations a video, thresholds, limit in seconds
SIZES = [
    ("THUMOS'14", 213, 200, 20, 15.8, np.linspace(0.3, 0.7, 5), 0.2),
    ("ActivityNet-1.3", 4926, 100, 200, 1.55, np.linspace(0.5, 0.95, 10), 2.0),
]


def made(
    num_videos: int, num_each: int, num_labels: int, num_annotated: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Annotations, and detections that are jittered annotations, 30 % with another label."""
    rng = np.random.default_rng(0)
    count = 1 + rng.poisson(num_annotated - 1, num_videos)
    video = np.repeat(np.arange(num_videos), count)
    start, length = rng.uniform(0, 100, len(video)), rng.uniform(2, 60, len(video))
    label = (video * 7) % num_labels
    owner = np.repeat(np.arange(num_videos), num_each)
    pick = (np.cumsum(count) - count)[owner] + rng.integers(0, 1 << 30, len(owner)) % count[owner]
    jitter = rng.normal(0, 0.2, (len(owner), 2)) * length[pick][:, None]
    random_label = rng.integers(0, num_labels, len(owner))
    named = np.where(rng.random(len(owner)) < 0.7, label[pick], random_label)
    annotations = pd.DataFrame(
        {
            "video": [f"v_{i:07d}" for i in video],
            "label": [f"label {i}" for i in label],
            "start_s": start,
            "end_s": start + length,
        }
    )
    detections = files.table(
        [f"v_{i:07d}" for i in owner],
        [f"label {i}" for i in named],
        rng.permutation(len(owner)) / len(owner),
        start[pick] + jitter[:, 0],
        start[pick] + length[pick] + jitter[:, 1],
    )
    return annotations, detections


def test_map_of_a_whole_data_set_takes_less_than_reading_it(
    tmp_path: Path,
    machine: str,
    publish: Callable[[str, Sequence[str]], None],
    added_mb: Callable[[Callable[[], object]], str],
) -> None:
    rows = []
    for name, *size, tiou, limit_s in SIZES:
        annotations, detections = made(*size)  # type: ignore[arg-type]
        path = tmp_path / "found.json"
        files.write(path, detections)
        begin = time.process_time()
        files.read(path)
        read_s = time.process_time() - begin
        # The first call: later ones find memory that it has left to the allocator.
        memory = added_mb(partial(mean_ap, annotations, detections, tuple(tiou)))
        times = []
        for _ in range(NUM_REPEATS):
            begin = time.process_time()
            mean_ap(annotations, detections, tuple(tiou))
            times.append(time.process_time() - begin)
        score_s = median(times)
        rows.append(
            f"| {name} | {len(detections):,} | {size[2]} | {len(tiou)} | {read_s:.2f} | "
            f"{score_s:.3f} | {1e6 * score_s / len(detections):.2f} | "
            f"{memory} |"
        )
        assert score_s < limit_s
    lines = [
        "# mAP of a data set",
        "",
        f"Jittered annotations as detections. Scoring: median of {NUM_REPEATS}, CPU time of one "
        "process; reading: one JSON file. Memory: what scoring adds at its peak.",
        f"{machine}, numpy {np.__version__}, pandas {pd.__version__}.",
        "",
        "| size of | detections | labels | thresholds | read (s) | score (s) | µs a detection | "
        "MB added |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *rows,
    ]
    publish("mean_ap", lines)
