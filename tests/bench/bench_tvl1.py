"""How long TV-L1 takes beside OpenCV's; writes results/tvl1.md.

OpenCV's DualTVL1 is in opencv-contrib-python alone. To see both in one run, install that to a
folder of its own (``pip install --no-deps --target DIR opencv-contrib-python-headless``) and put
the folder first on PYTHONPATH; otherwise the table gives figures measured once, and says so.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from tad_distill.extract.tvl1 import native
from tad_distill.extract.tvl1.flow import flow
from tad_distill.extract.tvl1.settings import VARIANTS, Settings

SIDES = (96, 224)
NUM_REPEATS, NUM_PAIRS, NUM_ITERATIONS = 3, 6, 100
OPTFLOW: Any = getattr(cv2, "optflow", None)
HAS_OPENCV = OPTFLOW is not None
# CPU milliseconds a pair and nanoseconds per pixel and iteration of OpenCV 5.0.0 on the golden
# pairs, one thread of an AMD EPYC of 2 cores; for where it is not installed.
KNOWN = {96: (236, 342, 52), 224: (974, 1123, 60)}
Calls = dict[str, Callable[[], None]]
WHAT = {"opencv": "OpenCV", "never": "torch", "always": "compiled"}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    num, num_cv = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    yield
    torch.set_num_threads(num)
    cv2.setNumThreads(num_cv)


@pytest.fixture(scope="module")
def frames(shared: Path) -> dict[int, Tensor]:
    """Real pairs by side, ``(NUM_PAIRS, 2, side, side)``."""
    found = {}
    for side in SIDES:
        golden = np.load(shared / f"golden/tvl1/tvl1_{side}x{side}.npz")
        pairs = [np.stack([golden[f"prev_{i}"], golden[f"next_{i}"]]) for i in range(NUM_PAIRS)]
        found[side] = torch.from_numpy(np.stack(pairs))
    return found


def opencv(pair: Tensor, settings: Settings) -> None:
    """What ``flow`` does, by OpenCV; for settings of its CPU version."""
    made = OPTFLOW.DualTVL1OpticalFlow_create(
        nscales=settings.num_scales,
        warps=settings.num_warps,
        outerIterations=settings.num_outer,
        innnerIterations=settings.num_inner,
        medianFiltering=settings.median,
        epsilon=settings.epsilon,
    )
    made.calc(pair[0].numpy(), pair[1].numpy(), None)


def run(how: str, pair: Tensor, settings: Settings) -> None:
    """Compute one pair."""
    if how == "opencv":
        opencv(pair, settings)
    else:
        flow(pair, settings, "always" if how == "always" else "never")


def cpu_s(calls: Calls) -> dict[str, float]:
    """Median CPU seconds of each call, the calls taking turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(NUM_REPEATS):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    return {name: median(values) for name, values in times.items()}


def iteration_ns(how: Sequence[str], pair: Tensor) -> dict[str, float]:
    """Nanoseconds per pixel and iteration: 100 more iterations of one warp at one scale."""
    one = Settings(num_scales=1, num_warps=1, num_outer=1, num_inner=1, median=1, epsilon=0.0)
    calls: Calls = {}
    for name in how:
        for num in (1, 1 + NUM_ITERATIONS):
            settings = replace(one, num_inner=num)
            calls[f"{name} {num}"] = partial(run, name, pair, settings)
    took = cpu_s(calls)
    per_ns = 1e9 / NUM_ITERATIONS / pair[0].numel()
    return {n: (took[f"{n} {1 + NUM_ITERATIONS}"] - took[f"{n} 1"]) * per_ns for n in how}


def test_flow_is_faster_than_opencvs(
    frames: dict[int, Tensor],
    machine: str,
    publish: Callable[[str, Sequence[str]], None],
) -> None:
    how = [name for name in WHAT if HAS_OPENCV or name != "opencv"]
    if not native.is_available():
        how.remove("always")
    rows, factors = [], {}
    for side, pairs in frames.items():
        ns = iteration_ns(how, pairs[1])
        rows.append(("one iteration, ns per pixel", side, ns))
        for variant, settings in VARIANTS.items():
            able = [name for name in how if name != "opencv" or variant == "opencv-cpu"]
            total = dict.fromkeys(able, 0.0)
            for pair in pairs:
                calls: Calls = {name: partial(run, name, pair, settings) for name in able}
                for name, seconds in cpu_s(calls).items():
                    total[name] += 1000 * seconds / NUM_PAIRS
            rows.append((f"{variant}, ms per pair", side, total))
            if variant == "opencv-cpu":
                low, high, _ = KNOWN[side]
                theirs = total.get("opencv", (low + high) / 2)
                factors[side] = {name: theirs / total[name] for name in able if name != "opencv"}
    publish("tvl1", _report(rows, factors, machine))
    for side in SIDES:
        assert factors[side]["never"] > 1
        assert factors[side].get("always", 8) >= 8


def _report(
    rows: list[tuple[str, int, dict[str, float]]],
    factors: dict[int, dict[str, float]],
    machine: str,
) -> list[str]:
    if HAS_OPENCV:
        source = f"All in one run, taking turns; OpenCV {cv2.__version__}."
    else:
        known = "; ".join(f"{s} px: {a} to {b} ms, {ns} ns" for s, (a, b, ns) in KNOWN.items())
        source = (
            "OpenCV's TV-L1 (opencv-contrib) is not installed here. Measured earlier on two cores "
            f"of an AMD EPYC, OpenCV 5.0.0: {known}. The factors compare with the middle of those."
        )
    lines = [
        "# TV-L1 optical flow on a processor",
        "",
        f"CPU time of one thread, {NUM_PAIRS} real pairs a size, each alone, {NUM_REPEATS} times; "
        f"medians, averaged over the pairs. {source} {machine}, torch {torch.__version__}.",
        "",
        "| | pixels | " + " | ".join(WHAT.values()) + " |",
        "|---|---:|" + "---:|" * len(WHAT),
    ]
    for name, side, values in rows:
        cells = [f"{values[key]:.1f}" if key in values else "" for key in WHAT]
        lines.append(f"| {name} | {side}x{side} | " + " | ".join(cells) + " |")
    lines.append("")
    for side, by_name in factors.items():
        told = " and ".join(f"{WHAT[name]} {factor:.1f}" for name, factor in by_name.items())
        lines.append(f"At {side}x{side}, OpenCV's defaults: {told} times as fast as OpenCV.")
    return lines
