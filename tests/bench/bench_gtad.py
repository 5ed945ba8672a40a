"""What the projection before the sampling saves a training step of G-TAD, on one core.

The official order makes the aligned features of every anchor first and projects them then; both
give the same numbers. Writes results/gtad.md.
"""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tad_distill.distill.align1d import Sums, plan
from tad_distill.distill.anchor_map import AnchorMap
from tad_distill.distill.heads import Targets
from tad_distill.distill.heads.gtad import GTAD, Config

# The official settings: name, head, steps, width of the features.
CASES = (
    ("THUMOS'14", Config(), 256, 2048),
    ("ActivityNet", Config(bins=(32, 4), map_kernel=1, max_duration=100), 100, 400),
)


class AlignFirst(nn.Module):
    """An :class:`AnchorMap` in the official order, for videos without padding."""

    def __init__(self, inner: AnchorMap) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, feats: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        align = self.inner.align
        durations, steps = align.max_duration, mask.shape[1]
        weight = align.weight.movedim(0, 1).flatten(1)  # (out, bins * in)
        videos = []
        for own, around in zip(feats, context, strict=True):
            aligned = torch.cat(
                [
                    bins_of_anchors(steps, durations, bins).of(source).unflatten(0, (-1, bins))
                    for source, bins in zip((own, around), align.bins, strict=True)
                ],
                1,
            )
            videos.append(F.linear(aligned.flatten(1), weight, align.bias).relu_())
        reduced = F.relu(self.inner.reduce(torch.stack(videos)))
        cells = reduced.unflatten(1, (durations, steps)).movedim(-1, 1)
        for conv in self.inner.convs:
            cells = F.relu(conv(cells))
        said: Tensor = self.inner.out(cells.movedim(1, -1))
        return said


@lru_cache
def bins_of_anchors(num_steps: int, max_duration: int, bins: int) -> Sums:
    """Each bin of each anchor as a weighted sum of steps: Align1D as a sparse matrix."""
    sums = plan(num_steps, max_duration, bins, (0, max_duration), torch.device("cpu")).anchors
    count = torch.cat([sums.offset, torch.tensor([len(sums.index)])]).diff()
    anchor = torch.arange(len(count)).repeat_interleave(count)
    cell = anchor * bins + sums.index % bins
    order = cell.argsort(stable=True)
    rows = cell.bincount(minlength=len(count) * bins)
    offset = (rows.cumsum(0) - rows).int()
    return Sums((sums.index // bins)[order], sums.weight[order], offset)


def training_step(head: GTAD, num_steps: int, dim: int) -> Callable[[], None]:
    """Forward, loss, backward and optimiser on one video with two segments."""
    generator = torch.Generator().manual_seed(0)
    feats = torch.randn(1, num_steps, dim, generator=generator)
    mask = torch.ones(1, num_steps, dtype=torch.bool)
    segments = torch.tensor([[0.1, 0.2], [0.4, 0.7]]) * num_steps
    targets = [Targets(segments, torch.zeros(2, dtype=torch.int64))]
    optimizer = torch.optim.AdamW(head.parameters(), lr=4e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        torch.stack(list(head.loss(head(feats, mask), targets).values())).sum().backward()
        optimizer.step()

    return step


def cpu_s(call: Callable[[], object], num_repeats: int) -> float:
    """Median CPU time of a call."""
    times = []
    for _ in range(num_repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return median(times)


def made(config: Config, dim: int, official_order: bool) -> GTAD:
    torch.manual_seed(0)
    head = config.build(dim, 1).train()
    if official_order:
        head.map = AlignFirst(head.map)  # type: ignore[assignment]
    return head


def first_step_mb(
    added_mb: Callable[[Callable[[], object]], str], case: int, official_order: bool
) -> str:
    """What the first step adds: gradients, the optimiser's state and the plan are in it."""
    _, config, num_steps, dim = CASES[case]
    return added_mb(training_step(made(config, dim, official_order), num_steps, dim))


def in_new_process(call: Callable[[], str]) -> str:
    """The answer of a forked process: memory freed before would hide what a call needs."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=lambda: sender.send(call()))
    process.start()
    answer: str = receiver.recv()
    process.join()
    return answer


def difference(case: int) -> float:
    """Largest difference of the two orders in a logit."""
    _, config, num_steps, dim = CASES[case]
    feats, mask = torch.randn(1, num_steps, dim), torch.ones(1, num_steps, dtype=torch.bool)
    with torch.no_grad():
        one, other = (made(config, dim, order)(feats, mask).logits for order in (False, True))
    return (one - other).abs().max().item()


def test_projecting_first_saves_time_and_memory(
    machine: str,
    publish: Callable[[str, Sequence[str]], None],
    added_mb: Callable[[Callable[[], object]], str],
) -> None:
    torch.set_num_threads(1)
    memory = {
        (case, order): in_new_process(partial(first_step_mb, added_mb, case, order))
        for case in range(len(CASES))
        for order in (False, True)
    }
    rows = []
    for case, (name, config, num_steps, dim) in enumerate(CASES):
        assert difference(case) < 1e-5
        own_s, official_s = (
            cpu_s(training_step(made(config, dim, order), num_steps, dim), num_repeats)
            for order, num_repeats in ((False, 6), (True, 2))
        )
        rows.append(
            f"| {name} | {num_steps} x {config.max_duration} | {own_s:.2f} | {official_s:.2f} | "
            f"{official_s / own_s:.1f} | {memory[case, False]} | {memory[case, True]} |"
        )
    lines = [
        "# A training step of G-TAD on one core",
        "",
        "One video, official widths. Ours: the layer behind the alignment, then weighted sums of "
        "its output. Official order: all bins of all anchors, then the layer, by torch; outputs "
        "are equal to 1e-5. A step is forward, loss, backward and AdamW: median CPU time, and the "
        "memory that the first one adds.",
        f"{machine}, torch {torch.__version__}.",
        "",
        "| settings | steps x durations | s per step | official order | ratio | MB | "
        "official order |",
        "|---|---|---:|---:|---:|---:|---:|",
        *rows,
    ]
    publish("gtad", lines)
