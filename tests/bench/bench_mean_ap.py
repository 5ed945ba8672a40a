"""How long mAP, recall and intervals take at the sizes of THUMOS'14 and ActivityNet.

Beside them a brute-force evaluator, the one that the tests hold the program against. Writes
results/mean_ap.md.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import brute_force
import numpy as np
import pandas as pd

from tad_distill.evaluate import detections as files
from tad_distill.evaluate.bootstrap import bootstrap
from tad_distill.evaluate.matching import match
from tad_distill.evaluate.mean_ap import mean_ap
from tad_distill.evaluate.paired import compare
from tad_distill.evaluate.recall import average_recall, top_recall

NUM_REPEATS = 7
NUM_DRAWS = 1000
# name, videos, detections a video, labels, annotations a video, thresholds, limits: seconds to
# score, seconds to draw and score NUM_DRAWS times
SIZES = [
    ("THUMOS'14", (213, 200, 20, 15.8), np.linspace(0.3, 0.7, 5), 0.2, 5.0),
    ("ActivityNet-1.3", (4926, 100, 200, 1.55), np.linspace(0.5, 0.95, 10), 2.0, 20.0),
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


def cpu_s(call: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    begin = time.process_time()
    call()
    return time.process_time() - begin


def test_scores_of_a_whole_data_set_take_less_than_reading_it(
    tmp_path: Path,
    machine: str,
    publish: Callable[[str, Sequence[str]], None],
    added_mb: Callable[[Callable[[], object]], str],
) -> None:
    scoring, more = [], []
    for name, size, tiou, limit_s, draws_limit_s in SIZES:
        annotations, detections = made(*size)
        path = tmp_path / "found.json"
        files.write(path, detections)
        read_s = cpu_s(partial(files.read, path))
        ours = partial(mean_ap, annotations, detections, tuple(tiou))
        # The first call: later ones find memory that it has left to the allocator.
        memory = added_mb(ours)
        score_s = median(cpu_s(ours) for _ in range(NUM_REPEATS))
        begin = time.process_time()
        slow = brute_force.mean_ap(annotations, detections, tuple(tiou))
        slow_s = time.process_time() - begin
        apart = max(np.abs(ap - slow[label]).max() for label, ap in ours().ap_per_class.items())
        scoring.append(
            f"| {name} | {len(detections):,} | {size[2]} | {len(tiou)} | {read_s:.2f} | "
            f"{score_s:.3f} | {1e6 * score_s / len(detections):.2f} | {memory} | {slow_s:.1f} | "
            f"{slow_s / score_s:.0f} | {apart:.0e} |"
        )
        assert score_s < limit_s and apart < 1e-12
        matching = match(annotations, detections, tuple(tiou))
        # Another detector: the same with other scores.
        scores = np.random.default_rng(1).permutation(detections["score"])
        other = match(annotations, detections.assign(score=scores), tuple(tiou))
        calls: list[Callable[[], object]] = [
            partial(top_recall, annotations, detections, tuple(tiou)),
            partial(average_recall, annotations, detections),
            partial(bootstrap, matching, (), NUM_DRAWS),
            partial(compare, matching, other, (), NUM_DRAWS),
        ]
        times = [cpu_s(call) for call in calls]
        assert times[2] < draws_limit_s
        anew_s = NUM_DRAWS * score_s
        more.append(
            f"| {name} | {' | '.join(f'{t:.2f}' for t in times)} | {anew_s:.0f} | "
            f"{anew_s / times[2]:.0f} |"
        )
    lines = [
        "# mAP, recall and intervals of a data set",
        "",
        f"Jittered annotations as detections. CPU time of one process; scoring: median of "
        f"{NUM_REPEATS}, all else once; reading: one JSON file. Memory: what scoring adds at its "
        "peak. Brute force: tests/references/brute_force.py, one detection after another.",
        f"{machine}, numpy {np.__version__}, pandas {pd.__version__}.",
        "",
        "| size of | detections | labels | thresholds | read (s) | score (s) | µs a detection | "
        "MB added | brute force (s) | times | largest difference of AP |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *scoring,
        "",
        f"Intervals from {NUM_DRAWS:,} draws of videos. Scoring each draw anew is computed as "
        f"{NUM_DRAWS:,} times the time to score.",
        "",
        "| size of | recall@1x, 5x (s) | AR@AN (s) | interval (s) | comparison of two (s) | "
        "each draw anew (s) | times |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *more,
    ]
    publish("mean_ap", lines)
