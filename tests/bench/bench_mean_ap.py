"""How long mAP takes at the sizes of THUMOS'14 and ActivityNet; writes results/mean_ap.md."""

import platform
import resource
import time
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


def machine() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    return names[0] if names else platform.processor()


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


def test_map_of_a_whole_data_set_takes_less_than_reading_it(tmp_path: Path) -> None:
    rows = []
    for name, *size, tiou, limit_s in SIZES:
        annotations, detections = made(*size)  # type: ignore[arg-type]
        path = tmp_path / "found.json"
        files.write(path, detections)
        begin = time.process_time()
        files.read(path)
        read_s = time.process_time() - begin
        times = []
        for _ in range(NUM_REPEATS):
            begin = time.process_time()
            mean_ap(annotations, detections, tuple(tiou))
            times.append(time.process_time() - begin)
        score_s = median(times)
        rows.append(
            f"| {name} | {len(detections):,} | {size[2]} | {len(tiou)} | {read_s:.2f} | "
            f"{score_s:.3f} | {1e6 * score_s / len(detections):.2f} |"
        )
        assert score_s < limit_s
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lines = [
        "# mAP of a data set",
        "",
        f"Jittered annotations as detections. Scoring: median of {NUM_REPEATS}, CPU time of one "
        f"process; reading: one JSON file. Peak memory of the process {peak:.0f} MB.",
        f"{machine()}, Python {platform.python_version()}, numpy {np.__version__}, "
        f"pandas {pd.__version__}.",
        "",
        "| size of | detections | labels | thresholds | read (s) | score (s) | µs a detection |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *rows,
    ]
    text = "\n".join(lines) + "\n"
    print("\n" + text)
    (Path(__file__).parent / "results" / "mean_ap.md").write_text(text)
