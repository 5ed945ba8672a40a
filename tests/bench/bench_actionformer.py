"""How long a training step and a detection of the ActionFormer head take on one core.

Writes results/actionformer.md.
"""

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

from tad_distill.distill.heads import Targets
from tad_distill.distill.heads.actionformer import ActionFormer, Config

SMALL = Config(embd_dim=64, arch=(2, 2, 3), window=(9,))


def cpu_ms(call: Callable[[], object], num_repeats: int) -> float:
    """Median CPU time of a call, after one to warm up."""
    call()
    times = []
    for _ in range(num_repeats):
        start = time.process_time()
        call()
        times.append(1000 * (time.process_time() - start))
    return median(times)


def measure(
    head: ActionFormer, batch_size: int, num_steps: int, dim: int, num_repeats: int
) -> tuple[float, float]:
    """Milliseconds of a training step and of the detection of one video."""
    generator = torch.Generator().manual_seed(0)
    feats = torch.randn(batch_size, num_steps, dim, generator=generator)
    mask = torch.ones(batch_size, num_steps, dtype=torch.bool)
    starts = torch.rand(batch_size, 8, generator=generator) * 0.8 * num_steps
    segments = torch.stack([starts, starts + 0.1 * num_steps], -1)
    targets = [Targets(item, torch.arange(8) % head.num_labels) for item in segments]
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-4, fused=True)

    def train() -> None:
        optimizer.zero_grad()
        torch.stack(list(head.loss(head(feats, mask), targets).values())).sum().backward()
        optimizer.step()

    @torch.inference_mode()
    def detect() -> None:
        head.decode(head(feats[:1], mask[:1]))

    return cpu_ms(train, num_repeats), cpu_ms(detect, num_repeats)


def test_steps_of_the_head(machine: str, publish: Callable[[str, Sequence[str]], None]) -> None:
    torch.set_num_threads(1)
    rows = []
    for name, head, sizes, num_repeats in (
        ("small", SMALL.build(512, 8), (8, 80, 512), 30),
        ("THUMOS'14, I3D", Config().build(2048, 20), (2, 2304, 2048), 2),
    ):
        head.train()
        step_ms, detect_ms = measure(head, *sizes, num_repeats)
        rows.append(f"| {name} | {' x '.join(map(str, sizes))} | {step_ms:.0f} | {detect_ms:.0f} |")
    lines = [
        "# The ActionFormer head on one core",
        "",
        "A step is forward, loss, backward and AdamW; a detection is forward and decoding of one "
        "video. Median CPU time. Small: width 64, 4 levels, window 9, 8 labels; THUMOS'14: the "
        "official recipe, width 512, 6 levels, window 19, 20 labels.",
        f"{machine}, torch {torch.__version__}.",
        "",
        "| head | videos x steps x width of the features | ms per step | ms per detection |",
        "|---|---|---:|---:|",
        *rows,
    ]
    publish("actionformer", lines)
