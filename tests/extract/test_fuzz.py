"""Damaged videos by the hundred: each gives features or one line, and harms no other."""

import json
import random
import shutil
from pathlib import Path

import pytest

from tad_distill.data.store import Store
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.run import extract

NUM_VARIANTS = 200
CONFIG = ExtractConfig(short_side_px=36, crop_px=32, decode_timeout_s=30, num_decoders=2)


def cut(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(1, len(data))]


def flip(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice([1, 10, 100, 1000])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def flip_header(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(20):
        data[rng.randrange(min(len(data), 2000))] ^= 1 << rng.randrange(8)
    return data


def blank_pages(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice([1, 3])):
        start = rng.randrange(len(data))
        page = data[start : start + 4096]
        data[start : start + 4096] = bytes(len(page))
    return data


def splice(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(len(data))] + data[rng.randrange(len(data)) :]


@pytest.mark.slow
@pytest.mark.usefixtures("light")
def test_damaged_videos_give_features_or_one_line_and_harm_no_other(
    shared: Path, tmp_path: Path
) -> None:
    videos = shared / "real/videos"
    found = [*videos.glob("ucf101_120p/*.mp4"), *videos.glob("fight_128p/*.mp4")]
    found += videos.glob("misc/*.*")
    sources = sorted(p for p in found if p.stat().st_size < 60_000)[:12]
    assert len(sources) == 12
    rng = random.Random(0)
    ways = (cut, flip, flip_header, blank_pages, splice)
    files = []
    for number in range(NUM_VARIANTS):
        source, way = sources[number % len(sources)], ways[number // len(sources) % len(ways)]
        files.append(tmp_path / f"{number:03d}_{way.__name__}{source.suffix}")
        files[-1].write_bytes(way(bytearray(source.read_bytes()), rng))
    for name in ("first", "last"):
        files.append(tmp_path / f"{name}{sources[0].suffix}")
        shutil.copy(sources[0], files[-1])
    files.insert(0, files.pop(-2))
    account_of(files, tmp_path)
    stream = Store.open(tmp_path / "s").stream("light:rgb")
    assert (stream.read("first") == stream.read("last")).all()


@pytest.mark.usefixtures("light")
def test_every_odd_file_gives_features_or_one_line(shared: Path, tmp_path: Path) -> None:
    files = [path for path in sorted((shared / "real/odd").iterdir()) if path.is_file()]
    done, reasons = account_of(files, tmp_path)
    assert len(files) == 19 and len(done) >= 14
    assert any("empty" in reason for reason in reasons)


def account_of(files: list[Path], tmp_path: Path) -> tuple[list[str], list[str]]:
    """Extract, and hold report, report file and store against each other."""
    lines = tmp_path / "report.jsonl"
    by_name = {path.stem: path for path in files}
    report = extract(
        list(by_name.values()),
        ["light:rgb"],
        tmp_path / "s",
        CONFIG,
        {"light:rgb": Path("random:0")},
        report_file=lines,
    )
    reasons = [failure.reason for failure in report.failed]
    assert {*report.done, *(f.video for f in report.failed)} == by_name.keys()
    assert all(reason and "\n" not in reason and len(reason) < 200 for reason in reasons)
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {row["video"] for row in written if row["status"] == "done"} == set(report.done)
    assert {row["video"]: row["reason"] for row in written if "reason" in row} == {
        failure.video: failure.reason for failure in report.failed
    }
    assert set(Store.open(tmp_path / "s").stream("light:rgb").videos) == set(report.done)
    return report.done, reasons
