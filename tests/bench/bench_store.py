"""How fast the feature store reads, against numpy's memmap beside it; writes results/store.md.

Readers take turns on the same requests, warm. The CPU ratio is the steady figure on a shared
machine: memmap's CPU time divided by the reader's, so 1 is as good as memmap.
"""

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from tad_distill.data import catalog, shards
from tad_distill.data.shards import column
from tad_distill.data.store import Store, Stream, StreamSpec, verify

DIM, NUM_REPEATS = 2048, 9
LENGTHS = [3000] * 4 + [200, 300, 400, 500, 600, 700, 800, 1000] * 5

Feats = NDArray[np.floating]
Request = tuple[str, int, int]
Read = Callable[[str, int, int], Feats]


def spec(width: int = DIM) -> StreamSpec:
    return StreamSpec(
        stream="bench:rgb",
        backbone="bench",
        modality="rgb",
        clip_frames=8,
        stride_frames=8,
        offset_frames=4,
        shape=(width,),
    )


class Peers:
    """The same videos in a store and in the forms it is measured against."""

    def __init__(self, folder: Path) -> None:
        """Write them all; keep what writing cost."""
        rng = np.random.default_rng(0)
        block = rng.standard_normal((4096, DIM)).astype("<f2")
        self.feats = {f"v{i:04d}": block[i : i + n] for i, n in enumerate(LENGTHS)}
        self.num_bytes = sum(feats.nbytes for feats in self.feats.values())
        self.stream = Store.create(folder / "store").create_stream(spec())
        writer, self.commit_ms = self.stream.writer("0"), []
        start = time.perf_counter(), time.process_time()
        for video, feats in self.feats.items():
            begun = time.perf_counter()
            writer.commit(video, feats, fps=25.0, duration_s=None, source_hash="s")
            self.commit_ms.append(1000 * (time.perf_counter() - begun))
        between = time.perf_counter(), time.process_time()
        writer.seal()
        end = time.perf_counter(), time.process_time()
        self.commit_s = [b - a for a, b in zip(start, between, strict=True)]
        self.seal_s = [b - a for a, b in zip(between, end, strict=True)]
        self.stream.refresh()
        self._write_others(folder)

    def _write_others(self, folder: Path) -> None:
        self.offsets, total = {}, 0
        (folder / "npy").mkdir()
        with (folder / "raw").open("wb") as raw:
            for video, feats in self.feats.items():
                raw.write(feats.tobytes())
                np.save(folder / "npy" / f"{video}.npy", feats)
                self.offsets[video] = total
                total += len(feats)
        self.npy = folder / "npy"
        self.memmap = np.memmap(folder / "raw", "<f2", "r", shape=(total, DIM))
        (shard,) = catalog.list_shards(self.stream.folder)
        self.h5 = h5py.File(shard, "r")
        self.h5_offsets = {
            name.decode(): int(off)
            for name, off in zip(self.h5["index/id"][:], self.h5["index/off"][:], strict=True)
        }

    def readers(self) -> dict[str, Read]:
        def memmap(video: str, start: int, stop: int) -> Feats:
            at = self.offsets[video]
            return np.array(self.memmap[at + start : at + stop])

        def with_h5py(video: str, start: int, stop: int) -> Feats:
            at = self.h5_offsets[video]
            return self.h5["x"][at + start : at + stop]

        def npy(video: str, start: int, stop: int) -> Feats:
            return np.array(np.load(self.npy / f"{video}.npy", mmap_mode="r")[start:stop])

        return {
            "numpy memmap": memmap,
            "store": self.stream.read,
            "h5py on the shard": with_h5py,
            "npy per video": npy,
        }


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Peers:
    return Peers(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def report(machine: str) -> list[str]:
    return [
        "# Feature store",
        "",
        f"Written by tests/bench/bench_store.py. {machine}, numpy {np.__version__}, "
        f"h5py {h5py.__version__}, HDF5 {h5py.version.hdf5_version}.",
        "",
    ]


def requests(peers: Peers, kind: str) -> list[Request]:
    chance = random.Random(0)
    lengths = {video: len(feats) for video, feats in peers.feats.items()}
    if kind == "whole video":
        return [(video, 0, lengths[video]) for video in chance.sample(sorted(lengths), 30)]
    size = 2304 if kind == "window of 2304" else 64
    videos = [video for video, length in lengths.items() if length >= size]
    picked = chance.choices(videos, k=12 if size == 2304 else 400)
    starts = [chance.randrange(lengths[video] - size + 1) for video in picked]
    return [(video, start, start + size) for video, start in zip(picked, starts, strict=True)]


def timed(read: Read, wanted: list[Request]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for video, start, stop in wanted:
        read(video, start, stop)
    return time.perf_counter() - wall, time.process_time() - cpu


def test_reading(peers: Peers, report: list[str]) -> None:
    report += [
        f"## Reading, warm ({len(LENGTHS)} videos, D {DIM}, float16, "
        f"{peers.num_bytes / 1e6:.0f} MB, {NUM_REPEATS} turns)",
        "",
        "| request | reader | CPU ratio to memmap (median) | MB per CPU second (best) "
        "| MB/s (best) |",
        "|---|---|---|---|---|",
    ]
    ratios = {}
    for kind in ("whole video", "window of 2304", "clip of 64"):
        wanted = requests(peers, kind)
        num_mb = sum(stop - start for _, start, stop in wanted) * DIM * 2 / 1e6
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in peers.readers()}
        for read in peers.readers().values():
            video, start, stop = wanted[0]
            assert np.array_equal(read(video, start, stop), peers.feats[video][start:stop])
            timed(read, wanted)  # warm; the store also checks its checksums now
        for _ in range(NUM_REPEATS):
            for name, read in peers.readers().items():
                times[name].append(timed(read, wanted))
        for name, spent in times.items():
            pairs = zip(times["numpy memmap"], spent, strict=True)
            ratio = median(theirs[1] / max(ours[1], 1e-9) for theirs, ours in pairs)
            wall, cpu = min(t[0] for t in spent), min(t[1] for t in spent)
            ratios[kind, name] = ratio
            report.append(
                f"| {kind} | {name} | {ratio:.2f} | {num_mb / cpu:.0f} | {num_mb / wall:.0f} |"
            )
    report.append("")
    assert min(ratio for (_, name), ratio in ratios.items() if name == "store") > 0.3


def test_first_reading_checks(peers: Peers, report: list[str]) -> None:
    wanted = requests(peers, "whole video")
    num_mb = sum(stop for _, _, stop in wanted) * DIM * 2 / 1e6
    spent = []
    for _ in range(5):
        peers.stream.refresh()  # forget what was checked
        peers.stream.entry("v0000")
        spent.append(timed(peers.stream.read, wanted)[1])
    report += [
        f"The first reading of a whole video in a process also checks its CRC-32: "
        f"{num_mb / min(spent):.0f} MB per CPU second.",
        "",
    ]


def test_writing(peers: Peers, report: list[str]) -> None:
    store = Store.open(peers.stream.folder.parent)
    begun = time.perf_counter(), time.process_time()
    assert verify(store) == []
    spent = [time.perf_counter() - begun[0], time.process_time() - begun[1]]
    mb = peers.num_bytes / 1e6
    size = sum(path.stat().st_size for path in catalog.list_shards(peers.stream.folder))
    report += [
        "## Writing (fsync included)",
        "",
        "| step | MB/s | MB per CPU second |",
        "|---|---|---|",
        f"| commit (median {median(peers.commit_ms):.0f} ms a video) | "
        f"{mb / peers.commit_s[0]:.0f} | {mb / peers.commit_s[1]:.0f} |",
        f"| seal (reads, checks, writes, reads back) | {mb / peers.seal_s[0]:.0f} | "
        f"{mb / peers.seal_s[1]:.0f} |",
        f"| verify | {mb / spent[0]:.0f} | {mb / spent[1]:.0f} |",
        "",
        f"A shard is {100 * (size / peers.num_bytes - 1):.3f} % larger than its features.",
        "",
    ]


OPEN = """
import resource, sys, time
from pathlib import Path
from tad_distill.data.store import Store
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before = resident()
start = time.perf_counter()
stream = Store.open(Path(sys.argv[1])).stream("bench:rgb")
count = len(stream)
opened = time.perf_counter() - start
names = [f"video_{i:012d}" for i in range(0, count, max(1, count // 1000))]
start = time.perf_counter()
for name in names:
    stream.entry(name)
looked = (time.perf_counter() - start) / len(names)
print(opened * 1e3, looked * 1e6, (resident() - before) / 1e6)
"""


def many_videos(path: Path, num_videos: int) -> Stream:
    """A stream of many videos of one step; one shard, since only the index matters here."""
    stream = Store.create(path).create_stream(spec(1))
    feats = np.ones((num_videos, 1), "<f2")
    crc = shards.crc_of_blocks([shards.bytes_of(feats[:1])])
    columns = {
        "id": column("id", [f"video_{i:012d}" for i in range(num_videos)]),
        "off": np.arange(num_videos, dtype="<i8"),
        "len": np.ones(num_videos, "<i4"),
        "crc": np.full(num_videos, crc, "<u4"),
        "fps": np.full(num_videos, 25.0),
        "duration": np.full(num_videos, 9.0),
        "source_hash": column("source_hash", ["0" * 32] * num_videos),
        "version": np.zeros(num_videos, "<i4"),
    }
    (stream.folder / "shards").mkdir()
    shard = stream.folder / "shards" / "bench.h5"
    shards.write(shard, stream.spec, columns, 1.0, [shards.bytes_of(feats)])
    catalog.rebuild(stream.folder, stream.spec.hash, trust_index=False)
    return stream


def test_opening(tmp_path: Path, report: list[str]) -> None:
    report += [
        "## Opening, in a fresh process, from index.h5",
        "",
        "| videos | ms | us per lookup | MB of memory |",
        "|---|---|---|---|",
    ]
    for num_videos in (20_000, 1_000_000):
        path = tmp_path / str(num_videos)
        many_videos(path, num_videos)
        command = [sys.executable, "-P", "-c", OPEN, str(path)]
        runs = [
            [float(word) for word in subprocess.check_output(command, text=True).split()]
            for _ in range(3)
        ]
        opened, looked, memory = (min(run[i] for run in runs) for i in range(3))
        report.append(f"| {num_videos:,} | {opened:.0f} | {looked:.0f} | {memory:.0f} |")
        shutil.rmtree(path)
    report.append("")


def test_report(report: list[str], publish: Callable[[str, Sequence[str]], None]) -> None:
    publish("store", report)
