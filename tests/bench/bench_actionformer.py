"""How long a training step and a detection of the ActionFormer head take on one core.

With a clone of happyharrycn/actionformer_release at 61ea7eb in the environment variable
ACTIONFORMER, the official network runs beside ours, from the same weights on the same videos; its
compiled NMS is not needed for that. Without, what was recorded of it stands in its row. Beside both
stands the time of the products of matrices alone, below which no way of calling them gets. Writes
results/actionformer.md.
"""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tad_distill.data import annotations
from tad_distill.distill import official
from tad_distill.distill.heads import Targets
from tad_distill.distill.heads.actionformer import ActionFormer, Config
from tad_distill.distill.layers import Residual

DIM, NUM_LABELS, LONGEST, DIVISOR = 2048, 20, 2304, 576
SMALL = Config(embd_dim=64, arch=(2, 2, 3), window=(9,))
PAIR = (2304, 1800)
# Of the official code, CPU milliseconds: a step on PAIR, a detection in 2304 steps without NMS.
RECORDED = (8640.0, 1440.0)
NUM_PAIRS, NUM_VIDEOS = 8, 8
# Its configs/thumos_i3d.yaml over the defaults of its libs/core/config.py, but for the NMS.
OFFICIAL = json.loads("""{
    "backbone_type": "convTransformer", "fpn_type": "identity", "backbone_arch": [2, 2, 5],
    "scale_factor": 2, "input_dim": 2048, "max_buffer_len_factor": 6.0, "n_head": 4,
    "n_mha_win_size": 19, "embd_kernel_size": 3, "embd_dim": 512, "embd_with_ln": true,
    "fpn_dim": 512, "fpn_with_ln": true, "fpn_start_level": 0, "head_dim": 512,
    "regression_range": [[0, 4], [4, 8], [8, 16], [16, 32], [32, 64], [64, 10000]],
    "head_num_layers": 3, "head_kernel_size": 3, "head_with_ln": true, "use_abs_pe": false,
    "use_rel_pe": false, "num_classes": 20, "train_cfg": {
        "center_sample": "radius", "center_sample_radius": 1.5, "loss_weight": 1.0,
        "cls_prior_prob": 0.01, "init_loss_norm": 100, "clip_grad_l2norm": 1.0,
        "head_empty_cls": [], "dropout": 0.0, "droppath": 0.1, "label_smoothing": 0.0
    }, "test_cfg": {
        "pre_nms_thresh": 0.001, "pre_nms_topk": 2000, "iou_threshold": 0.1, "min_score": 0.001,
        "max_seg_num": 200, "nms_method": "none", "duration_thresh": 0.05,
        "multiclass_nms": true, "nms_sigma": 0.5, "voting_thresh": 0.7
    }
}""")
Video = tuple[Tensor, Targets]
Products = Counter[tuple[int, int, int, int]]


def videos(lengths: Sequence[int], dim: int = DIM) -> list[Video]:
    """``(T, D)`` features and 15 segments for each length."""
    generator = torch.Generator().manual_seed(sum(lengths))
    made = []
    for length in lengths:
        starts = torch.rand(15, generator=generator) * 0.9 * length
        segments = torch.stack([starts, starts + 2 + 0.05 * length], -1)
        labels = torch.randint(0, NUM_LABELS, (15,), generator=generator)
        made.append((torch.randn(length, dim, generator=generator), Targets(segments, labels)))
    return made


def batch(made: Sequence[Video]) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(feats) for feats, _ in made])
    padded = nn.utils.rnn.pad_sequence([feats for feats, _ in made], batch_first=True)
    return padded, torch.arange(padded.shape[1]) < lengths.unsqueeze(1)


def our_loss(
    head: ActionFormer, made: Sequence[Video], dtype: torch.dtype = torch.float32
) -> Tensor:
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        terms = head.loss(head(*batch(made)), [targets for _, targets in made])
    return torch.stack(list(terms.values())).sum()


def official_loss(model: Any, made: Sequence[Video]) -> Tensor:
    loss: Tensor = model([as_official(video) for video in made])["final_loss"]
    return loss


def as_official(video: Video) -> dict[str, Any]:
    feats, targets = video
    said = {"video_id": "v", "fps": 30.0, "feat_stride": 4, "feat_num_frames": 16}
    return said | {
        "feats": feats.T,
        "segments": targets.segments,
        "labels": targets.labels,
        "duration": len(feats) * 4 / 30,
    }


def official_model(folder: Path, max_len: int = LONGEST) -> Any:
    """The official network with the THUMOS'14 settings, drawn from seed 0."""
    for name, contents in (
        ("nms_1d_cpu", {}),
        ("libs.utils", {"batched_nms": None}),  # would compile and import all else of the code
    ):
        module = ModuleType(name)
        vars(module).update(contents)
        sys.modules.setdefault(name, module)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    from libs.modeling import meta_archs  # type: ignore[import-not-found]

    torch.manual_seed(0)
    return meta_archs.PtTransformer(**OFFICIAL, max_seq_len=max_len)


def learner(model: nn.Module, loss: Callable[[], Tensor], fused: bool) -> Callable[[], float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05, fused=fused)

    def step() -> float:
        optimizer.zero_grad()
        found = loss()
        found.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(found.detach())

    return step


def cpu_ms(call: Callable[[], object], num_repeats: int) -> float:
    """Median CPU time of a call, after one to warm up."""
    call()
    return median(once_ms(call) for _ in range(num_repeats))


def once_ms(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return 1000 * (time.process_time() - start)


class Recorder(TorchDispatchMode):
    """Counts the products of matrices: how many, and ``(rows, inner, columns)`` of each."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Products = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        first = {"aten::mm": 0, "aten::addmm": 1, "aten::bmm": 0}.get(func.name())
        if first is not None:
            left, right = args[first], args[first + 1]
            count = left.shape[0] if left.ndim == 3 else 1
            self.products[count, left.shape[-2], left.shape[-1], right.shape[-1]] += 1
        return func(*args, **(kwargs or {}))


def products_of(call: Callable[[], object]) -> Products:
    with Recorder() as recorder:
        call()
    return recorder.products


def products_ms(products: Products) -> float:
    """CPU time of these products alone, each of contiguous matrices."""
    total = 0.0
    for (count, rows, inner, columns), times in products.items():
        left, right = torch.randn(count, rows, inner), torch.randn(count, inner, columns)
        out = torch.empty(count, rows, columns)
        if count == 1:
            left, right, out = left[0], right[0], out[0]
        call = torch.mm if count == 1 else torch.bmm
        total += times * cpu_ms(partial(call, left, right, out=out), 1)
    return total


@torch.inference_mode()
def detect(head: ActionFormer, feats: Tensor) -> None:
    head.decode(head(feats.unsqueeze(0), torch.ones(1, len(feats), dtype=torch.bool)))


@pytest.fixture
def folder() -> Path | None:
    found = os.environ.get("ACTIONFORMER")
    return Path(found) if found else None


@pytest.fixture
def thumos(shared: Path) -> dict[str, list[int]]:
    """Steps of the THUMOS'14 videos of each subset, 4 frames each."""
    found = annotations.read(shared / "real/annotations/thumos14/thumos14.json")
    return {
        subset: [
            int((video.duration_s or 0) * (video.fps or 30) / 4)
            for video in found.subset(subset).videos.values()
        ]
        for subset in ("validation", "test")
    }


def test_losses_are_those_of_the_official_code_step_by_step(folder: Path | None) -> None:
    if folder is None:
        pytest.skip("ACTIONFORMER names no clone of the official code")
    torch.set_num_threads(1)
    model = official_model(folder, 576).train()
    head = Config().build(DIM, NUM_LABELS).train()
    official.load_official(head, model.state_dict(), "official")
    for module in (*model.modules(), *head.modules()):  # what drops residuals at random
        if type(module).__name__ == "AffineDropPath":
            module.drop_prob = 0.0
        if isinstance(module, Residual):
            module.drop_path = 0.0
    made = videos((500, 330))
    ours = learner(head, lambda: our_loss(head, made), fused=False)
    theirs = learner(model, lambda: official_loss(model, made), fused=False)
    for step in range(6):
        found, expected = ours(), theirs()
        print(f"\nstep {step}: {found:.6f} {expected:.6f}")
        assert found == pytest.approx(expected, rel=1e-4)


def test_steps_of_the_head(
    folder: Path | None,
    thumos: dict[str, list[int]],
    machine: str,
    publish: Callable[[str, Sequence[str]], None],
) -> None:
    torch.set_num_threads(1)
    head = Config().build(DIM, NUM_LABELS).train()
    pair, one = videos(PAIR), videos(PAIR[:1])
    half = torch.bfloat16
    step = learner(head, lambda: our_loss(head, pair), fused=True)
    half_ms = cpu_ms(learner(head, lambda: our_loss(head, pair, half), fused=True), 3)
    ours = (cpu_ms(step, 3), cpu_ms(lambda: detect(head.eval(), one[0][0]), 3))
    floor = products_ms(products_of(head.train() and step))
    theirs = RECORDED
    if folder is not None:
        model = official_model(folder).train()
        step_ms = cpu_ms(learner(model, lambda: official_loss(model, pair), fused=False), 3)
        found = torch.inference_mode()(lambda: model.eval()([as_official(one[0])]))
        theirs = (step_ms, cpu_ms(found, 3))
    crops, wholes = real_lengths(thumos)
    beside = "side by side" if folder else "recorded on another day"
    rows: list[tuple[str, float, float]] = [
        (f"step, videos of {PAIR[0]} and {PAIR[1]} steps", ours[0], theirs[0]),
        ("the same, ours in bfloat16", half_ms, theirs[0]),
        ("step, THUMOS'14 lengths", mean_step_ms(head, crops), theirs[0]),
        ("the same, ours in bfloat16", mean_step_ms(head, crops, half), theirs[0]),
        (f"detection, {PAIR[0]} steps", ours[1], theirs[1]),
        (
            "detection, THUMOS'14 lengths",
            mean_detection_ms(head, wholes),
            theirs[1] * sum(official_length(n) for n in wholes) / len(wholes) / LONGEST,
        ),
    ]
    lines = [
        "# The ActionFormer head on one core",
        "",
        "A step is forward, loss, backward, clipping and AdamW; a detection is forward and decoding"
        " of one video, without NMS. The official THUMOS'14 recipe: width 512, 6 levels, window 19,"
        " 20 labels, features of width 2048, batches of 2, float32 but where it says otherwise. CPU"
        " time; official: "
        f"happyharrycn/actionformer_release at 61ea7eb, {beside}.",
        f"{machine}, torch {torch.__version__}.",
        "",
        "| | ours, ms | official, ms | times as fast |",
        "|---|---:|---:|---:|",
        *(f"| {what} | {a:.0f} | {b:.0f} | {b / a:.2f} |" for what, a, b in rows),
        "| small: step, detection | {:.0f}, {:.1f} | | |".format(*small_ms()),
        "",
        "The products of matrices of our first step alone, as torch multiplies contiguous ones: "
        f"{floor:.0f} ms, {100 * floor / ours[0]:.0f} % of it; with them for its time it would be "
        f"{theirs[0] / floor:.2f} times as fast. The official code pads every training video to "
        f"{LONGEST} steps, a test video to that or to the next multiple of {DIVISOR}, and its time "
        f"is taken to be in proportion. THUMOS'14 lengths: the mean over {len(crops)} pairs of "
        f"training crops and {len(wholes)} test videos, evenly chosen by length. Small: width 64, "
        "4 levels, window 9, 8 labels, 8 videos of 80 steps.",
    ]
    publish("actionformer", lines)


def real_lengths(thumos: Mapping[str, list[int]]) -> tuple[list[list[int]], list[int]]:
    """Pairs of training crops, and test videos: few, and on average as long as all."""
    random = np.random.default_rng(0)
    # A crop of 90 to 100 %, or of the longest length.
    crops = [
        LONGEST if length > LONGEST else int(length * random.uniform(0.9, 1.0))
        for length in thumos["validation"]
    ]
    pairs = random.permutation(crops)[: len(crops) // 2 * 2].reshape(-1, 2)
    evenly = ((np.arange(NUM_PAIRS) + 0.5) / NUM_PAIRS * len(pairs)).astype(int)
    wholes = np.quantile(thumos["test"], (np.arange(NUM_VIDEOS) + 0.5) / NUM_VIDEOS)
    return pairs[pairs.sum(1).argsort()[evenly]].tolist(), wholes.astype(int).tolist()


def mean_step_ms(
    head: ActionFormer, pairs: Sequence[list[int]], dtype: torch.dtype = torch.float32
) -> float:
    made = videos(pairs[0])
    step = learner(head.train(), lambda: our_loss(head, made, dtype), fused=True)
    step()
    times = []
    for lengths in pairs:
        made = videos(lengths)
        times.append(once_ms(step))
    return float(np.mean(times))


def mean_detection_ms(head: ActionFormer, lengths: Sequence[int]) -> float:
    made = videos(lengths)
    return float(np.mean([once_ms(partial(detect, head.eval(), feats)) for feats, _ in made]))


def official_length(num_steps: int) -> int:
    """To how many steps the official code pads a test video."""
    return LONGEST if num_steps <= LONGEST else -(-num_steps // DIVISOR) * DIVISOR


def small_ms() -> tuple[float, float]:
    small = SMALL.build(512, 8).train()
    made = [(f[:80], replace(t, labels=t.labels % 8)) for f, t in videos([80] * 8, 512)]
    step_ms = cpu_ms(learner(small, lambda: our_loss(small, made), fused=True), 10)
    return step_ms, cpu_ms(lambda: detect(small.eval(), made[0][0]), 20)
