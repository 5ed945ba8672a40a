"""How fast videos become features beside decoding alone; writes results/extract.md.

Both read the same files with the same decoders; the second shows every frame to two networks, for
colour and for temporal gradient, and commits the features. On a GPU, with all cores but one
decoding, it should keep nine tenths of the speed. On a processor the network decides, and the table
says by how much: there one decoder and one thread of torch work beside each other.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tad_distill.extract.config import ExtractConfig, load
from tad_distill.extract.device import choose_device, device_name
from tad_distill.extract.loop import default_decoders
from tad_distill.extract.prefetch import feeds
from tad_distill.extract.report import Report
from tad_distill.extract.run import extract

ON_GPU = torch.cuda.is_available()
# Of a video by its rate, and how often it is read under another name.
NUM_FRAMES, NUM_COPIES = 720, 64 if ON_GPU else 1
SIDES = {96: (110, 96), 224: (256, 224)}
STREAMS = ("rgb", "tg")
KINDS = ("wait_s", "modality_s", "network_s", "write_s")
GOAL = 0.9


@dataclass(frozen=True)
class Measured:
    """One workload.

    Attributes:
        decode_fps: Frames given out a second, decoding alone.
        decode_cpu_ms: Of the decoders, by their own clocks, for a frame.
        whole_fps: Frames shown to both networks a second.
        cpu_ms: Of this process, for a frame.
        seconds: By kind of work, for 1000 frames.
    """

    decode_fps: float
    decode_cpu_ms: float
    whole_fps: float
    cpu_ms: float
    seconds: dict[str, float]

    @property
    def ratio(self) -> float:
        """Speed of the whole beside that of decoding alone."""
        return self.whole_fps / self.decode_fps


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    num = torch.get_num_threads()
    if not ON_GPU:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(num)


@pytest.fixture(scope="module")
def videos(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real videos where they are at hand, else made ones; each under several names."""
    folder = tmp_path_factory.mktemp("videos")
    try:
        originals = sorted(
            (request.getfixturevalue("shared") / "real/videos/untrimmed").glob("*.mp4")
        )
        originals = originals if ON_GPU else originals[:1]
    except pytest.skip.Exception:
        originals = [made(folder / "made.mp4")]
    named = []
    for copy in range(NUM_COPIES):
        for path in originals:
            link = folder / f"{path.stem}_{copy}{path.suffix}"
            link.symlink_to(path)
            named.append(link)
    return named


def made(path: Path) -> Path:
    """A texture that moves, 320 x 240, 30 frames a second."""
    random = np.random.default_rng(0)
    texture = cv2.resize(random.integers(0, 256, (60, 400, 3), dtype=np.uint8), (3200, 240))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, (320, 240))
    for number in range(NUM_FRAMES):
        writer.write(texture[:, 3 * number % 2800 :][:, :320])
    writer.release()
    return path


def config(side: int) -> ExtractConfig:
    short, crop = SIDES[side]
    base = replace(load("video96"), short_side_px=short, crop_px=crop)
    return replace(base, num_decoders=default_decoders(base) if ON_GPU else 1)


def decode(videos: list[Path], settings: ExtractConfig) -> tuple[float, float, int]:
    """Wall seconds, the decoders' own seconds, and frames."""
    start, decode_s, num_frames = time.perf_counter(), 0.0, 0
    named = [(path.stem, path) for path in videos]
    with feeds(named, settings, lambda *_: True, settings.num_decoders) as ahead:
        for feed in ahead:
            num_frames += sum(map(len, feed.chunks()))
            decode_s += feed.decode_s
    return time.perf_counter() - start, decode_s, num_frames


def measure(videos: list[Path], backbone: str, side: int, folder: Path) -> Measured:
    settings = config(side)
    streams = [f"{backbone}:{modality}" for modality in STREAMS]
    sources = dict.fromkeys(streams, Path("random:0"))
    extract(videos[:1], streams, folder / "warm", settings, sources)
    decode(videos[:1], settings)
    alone_s, decode_s, num_frames = decode(videos, settings)
    start, cpu = time.perf_counter(), time.process_time()
    report: Report = extract(videos, streams, folder / "store", settings, sources)
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    assert report.num_frames == num_frames and not report.failed
    return Measured(
        decode_fps=num_frames / alone_s,
        decode_cpu_ms=1000 * decode_s / num_frames,
        whole_fps=num_frames / wall_s,
        cpu_ms=1000 * cpu_s / num_frames,
        seconds={kind: 1000 * report.seconds[kind] / num_frames for kind in KINDS},
    )


def test_extraction_beside_decoding(
    videos: list[Path],
    tmp_path: Path,
    machine: str,
    publish: Callable[[str, Sequence[str]], None],
) -> None:
    found = {}
    for backbone in ("tsm18", "tsm50") if ON_GPU else ("tsm18",):
        for side in SIDES:
            folder = tmp_path / f"{backbone}_{side}"
            found[backbone, side] = measure(videos, backbone, side, folder)
    publish("extract", lines(found, machine, len(videos)))
    assert all(measured.whole_fps > 0 for measured in found.values())
    if ON_GPU:
        assert found["tsm18", 96].ratio >= GOAL


def lines(found: dict[tuple[str, int], Measured], machine: str, num_videos: int) -> list[str]:
    settings = config(96)
    where = device_name(choose_device(settings))
    report = [
        "# Extraction",
        "",
        f"Streams {' and '.join(STREAMS)} of {num_videos} video(s) at 10 frames a second (preset "
        f"video96; 224: short side 256), random weights, float32, on {where}, "
        f"{settings.num_decoders} decoder(s), torch threads: {torch.get_num_threads()}. {machine}, "
        f"torch {torch.__version__}, OpenCV {cv2.__version__}.",
        "",
        "| network, pixels | decoding alone, frames/s | whole, frames/s | ratio "
        "| decoder, ms a frame | this process, CPU ms a frame |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for (backbone, side), it in found.items():
        report.append(
            f"| {backbone}, {side} | {it.decode_fps:.0f} | {it.whole_fps:.1f} | {it.ratio:.3f} "
            f"| {it.decode_cpu_ms:.2f} | {it.cpu_ms:.2f} |"
        )
    report += [
        "",
        "Where the time of 1000 frames goes, in seconds; writing is beside the rest.",
        "",
    ]
    report += [f"| network, pixels | {' | '.join(kind.removesuffix('_s') for kind in KINDS)} |"]
    report += ["|---|" + "---:|" * len(KINDS)]
    for (backbone, side), it in found.items():
        cells = " | ".join(f"{it.seconds[kind]:.2f}" for kind in KINDS)
        report.append(f"| {backbone}, {side} | {cells} |")
    return report
