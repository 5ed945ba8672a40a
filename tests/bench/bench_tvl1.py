"""How long TV-L1 takes beside OpenCV's, and on a GPU; writes results/tvl1.md and tvl1_gpu.md.

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

from tad_distill.extract.tvl1 import gpu, native
from tad_distill.extract.tvl1.flow import flow
from tad_distill.extract.tvl1.settings import VARIANTS, Settings

SIDES = (96, 224)
NUM_REPEATS, NUM_PAIRS, NUM_ITERATIONS = 3, 6, 100
OPTFLOW: Any = getattr(cv2, "optflow", None)
HAS_OPENCV = OPTFLOW is not None
# CPU milliseconds a pair and nanoseconds per pixel and iteration of OpenCV 5.0.0 on the golden
# pairs, one thread of an AMD EPYC of 2 cores; for where it is not installed.
KNOWN = {96: (236, 342, 52), 224: (974, 1123, 60)}
NUM_GPU_PAIRS = {96: 510, 224: 126}
Calls = dict[str, Callable[[], object]]
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


def on_gpu(pairs: Tensor, side: int) -> Tensor:
    """A sequence on the GPU in which each real pair is seen to and fro."""
    times = NUM_GPU_PAIRS[side] // (2 * NUM_PAIRS) + 1
    return pairs.repeat_interleave(times, 0).flatten(0, 1)[: NUM_GPU_PAIRS[side] + 1].cuda()


def pairs_per_s(calls: Calls, num_pairs: int) -> dict[str, float]:
    """By each call's median wall time, after one more; the calls take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(1 + NUM_REPEATS):
        for name, call in calls.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: num_pairs / median(values[1:]) for name, values in times.items()}


def _gpu() -> str:
    import triton

    properties = torch.cuda.get_device_properties(0)
    return (
        f"{properties.name}, {properties.multi_processor_count} multiprocessors, "
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, Triton {triton.__version__}"
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_flow_on_a_gpu_is_faster_with_triton(
    frames: dict[int, Tensor],
    machine: str,
    publish: Callable[[str, Sequence[str]], None],
) -> None:
    if reason := gpu.missing(torch.device("cuda")):
        pytest.skip(reason)
    lines = [
        "# TV-L1 optical flow on a GPU",
        "",
        f"Pairs per second, {NUM_GPU_PAIRS[96]} pairs of 96x96 and {NUM_GPU_PAIRS[224]} of 224x224 "
        f"at once, median of {NUM_REPEATS}. {_gpu()}; {machine}.",
        "",
        "| | pixels | torch | Triton | factor |",
        "|---|---:|---:|---:|---:|",
    ]
    factors = []
    for side, pairs in frames.items():
        video = on_gpu(pairs, side)
        for variant in ("opencv-cuda", "opencv-cpu"):
            rule = VARIANTS[variant]
            for name, settings in (
                ("all iterations", replace(rule, epsilon=0.0)),
                ("stopping rule", rule),
            ):
                found = pairs_per_s(
                    {
                        "never": partial(flow, video, settings, "never"),
                        "always": partial(flow, video, settings, "always"),
                    },
                    len(video) - 1,
                )
                factors.append(found["always"] / found["never"])
                lines.append(
                    f"| {variant}, {name} | {side}x{side} | {found['never']:.0f} "
                    f"| {found['always']:.0f} | {factors[-1]:.1f} |"
                )
    publish("tvl1_gpu", lines)
    assert min(factors) > 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tiles_of_other_sizes_on_a_gpu(
    frames: dict[int, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := gpu.missing(torch.device("cuda")):
        pytest.skip(reason)
    from tad_distill.extract.tvl1.fused import Tile, solve

    settings = replace(VARIANTS["opencv-cuda"], epsilon=0.0)
    print(f"\nTiles, all iterations: {_gpu()}")
    for height, width, halo, num_warps in (
        *((64, 64, halo, 16) for halo in (3, 5, 8)),
        *((64, 64, 5, 32), (32, 64, 5, 16), (32, 64, 5, 8), (32, 64, 3, 8), (32, 32, 3, 4)),
    ):
        tile = Tile(height=height, width=width, halo=halo, num_warps=num_warps)
        monkeypatch.setattr(gpu, "_kernels", lambda tile=tile: partial(solve, tile=tile))
        for side, pairs in frames.items():
            video = on_gpu(pairs, side)
            call = partial(flow, video, settings, "always")
            found = pairs_per_s({"tile": call}, len(video) - 1)["tile"]
            print(f"{side}x{side} {tile}: {found:.0f} pairs/s")
