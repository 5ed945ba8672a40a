"""Whatever kills a writer: what it reported as stored is there, what is visible is whole."""

import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tad_distill.console import UserError
from tad_distill.data import catalog, durable
from tad_distill.data.durable import WriteError
from tad_distill.data.store import Store, Stream, StreamSpec, verify

Feats = NDArray[np.floating]
Spec = Callable[..., StreamSpec]

# The children inherit what is imported and start at once; they use no threads.
fork = multiprocessing.get_context("fork")


def fill(path: Path, spec: StreamSpec, feats_by_video: dict[str, Feats], unit: str = "0") -> None:
    """Write and seal a unit, skipping what is there; say each video when it is committed."""
    writer = Store.create(path).create_stream(spec).writer(unit)
    for video, feats in feats_by_video.items():
        if writer.state(video, "s") != "done":
            writer.commit(video, feats, fps=25.0, duration_s=1.0, source_hash="s")
        say(video)
    writer.seal()
    say("sealed")


def say(word: str) -> None:
    os.write(1, f"{word}\n".encode())


def run_child(
    work: Callable[[], None], said: Path, kill_after_words: int | None = None, wait_s: float = 0.0
) -> int:
    """Run ``work`` in a process of its own, with stdout in a file, and perhaps kill it.

    Returns:
        The exit code; negative: the signal.
    """

    def child() -> None:
        descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        work()

    process = fork.Process(target=child)
    process.start()
    if kill_after_words is not None:
        while process.is_alive() and len(words(said)) < kill_after_words:
            time.sleep(0.0005)
        time.sleep(wait_s)
        process.kill()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def words(said: Path) -> list[str]:
    return said.read_text().split("\n")[:-1] if said.exists() else []


def check_survivors(
    path: Path, spec: StreamSpec, feats_by_video: dict[str, Feats], acked: set[str]
) -> Stream:
    """All that was acknowledged is there, and all that is there is right."""
    stream = Store.create(path).create_stream(spec)
    assert acked <= set(stream.videos)
    for video in stream.videos:
        assert np.array_equal(stream.read(video), feats_by_video[video])
    assert verify(Store.open(path)) == []
    return stream


def check_finished(path: Path, feats_by_video: dict[str, Feats]) -> None:
    """One shard and nothing else is left."""
    stream = Store.open(path).stream("i3d:rgb")
    assert stream.videos == sorted(feats_by_video)
    for video, feats in feats_by_video.items():
        assert np.array_equal(stream.read(video), feats)
    files = {str(p.relative_to(stream.folder)) for p in stream.folder.rglob("*") if p.is_file()}
    (shard,) = catalog.list_shards(stream.folder)
    assert files == {"spec.json", "index.h5", f"shards/{shard.name}"}
    assert verify(Store.open(path)) == []


@pytest.mark.slow
def test_kill_at_random_moments_loses_nothing_that_was_acknowledged(
    tmp_path: Path, spec_of: Spec, feats_by_video: dict[str, Feats]
) -> None:
    spec, said = spec_of(), tmp_path / "said"
    moments, num_mid = random.Random(0), 0
    for number in range(20):
        path = tmp_path / f"s{number}"
        said.unlink(missing_ok=True)
        work = partial(fill, path, spec, feats_by_video)
        # Counted in finished videos, so that fast and slow disks are hit alike; the wait, up to
        # about the time that a video takes, spreads the kills over the steps of writing one.
        after = moments.randrange(len(feats_by_video))
        code = run_child(work, said, after, wait_s=moments.uniform(0, 0.015))
        acked = set(words(said)) - {"sealed"}
        num_mid += code == -signal.SIGKILL and len(acked) < len(feats_by_video)
        check_survivors(path, spec, feats_by_video, acked)
        fill(path, spec, feats_by_video)
        check_finished(path, feats_by_video)
        shutil.rmtree(path)
    assert num_mid >= 5, "the kills did not hit a running writer often enough to show anything"


@pytest.fixture
def quick_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder where syncing costs nothing, for it is memory, if there is one."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


STEPS = ("fsync", "replace", "pwrite", "link", "unlink", "mkdir", "rmdir")


def die_at(number: int, work: Callable[[], None]) -> None:
    """Run ``work`` but die just before its ``number``-th step; a write is then half done."""
    taken = 0

    def wrapped(original: Callable[..., Any], name: str, *args: Any, **kwargs: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == number:
            if name == "pwrite":
                original(args[0], args[1][: len(args[1]) // 2], args[2])
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    for name in STEPS:
        setattr(os, name, partial(wrapped, getattr(os, name), name))
    work()
    say(f"steps {taken}")


@pytest.mark.slow
def test_kill_before_every_single_step_loses_nothing_that_was_acknowledged(
    quick_disk: Path, spec_of: Spec
) -> None:
    spec, said = spec_of(), quick_disk / "said"
    feats = {f"v{i}": np.full((3 + i, 32), i, "<f2") for i in range(2)}
    assert run_child(partial(die_at, 0, partial(fill, quick_disk / "calm", spec, feats)), said) == 0
    num_steps = int(words(said)[-1].split()[1])
    assert num_steps > 25
    for number in range(1, num_steps + 1):
        path = quick_disk / f"s{number}"
        code = run_child(partial(die_at, number, partial(fill, path, spec, feats)), said)
        assert code == -signal.SIGKILL
        check_survivors(path, spec, feats, set(words(said)) - {"sealed"})
        fill(path, spec, feats)
        check_finished(path, feats)


def limited(num_bytes: int, work: Callable[[], None]) -> None:
    """Run ``work`` with a limit on file sizes; say how it fails."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))
    try:
        work()
    except WriteError as error:
        # What is said goes to a file too, but few bytes of it.
        say(f"error: {error}")
        os._exit(1)


@pytest.mark.parametrize("limit", [1_000, 7_000, 20_000])
def test_a_limit_on_file_sizes_loses_nothing_that_was_acknowledged(
    tmp_path: Path, spec_of: Spec, feats_by_video: dict[str, Feats], limit: int
) -> None:
    spec, said, path = spec_of(), tmp_path / "said", tmp_path / "s"
    feats_by_video = dict(sorted(feats_by_video.items(), key=lambda item: len(item[1])))
    if limit == 1_000:  # the folder's own files would not fit
        Store.create(path).create_stream(spec)
    code = run_child(partial(limited, limit, partial(fill, path, spec, feats_by_video)), said)
    assert code == 1
    *acked, last = words(said)
    assert last.startswith(f"error: cannot write {path}") and "ulimit -f" in last
    # No part fits; the short videos fit; only the shard does not.
    expected = {1_000: [0], 7_000: range(1, 24), 20_000: [24]}[limit]
    assert len(acked) in expected
    check_survivors(path, spec, feats_by_video, set(acked))
    assert not list(path.rglob("*.tmp"))
    fill(path, spec, feats_by_video)
    check_finished(path, feats_by_video)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs to be root, to mount a small file system")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("num_steps", [200, 1000])
def test_a_full_disk_is_one_line_and_loses_nothing(
    small_disk: Path, spec_of: Spec, num_steps: int
) -> None:
    rng = np.random.default_rng(0)
    num_videos = 30 if num_steps == 200 else 6
    feats = {f"v{i}": rng.standard_normal((num_steps, 32)).astype("<f2") for i in range(num_videos)}
    spec, path = spec_of(), small_disk / "s"
    writer = Store.create(path).create_stream(spec).writer("0")
    acked: set[str] = set()
    with pytest.raises(WriteError, match=r"disk full writing .*\(need [\d,]+ bytes, free [\d,]+\)"):
        for video, array in feats.items():
            writer.commit(video, array, fps=25.0, duration_s=1.0, source_hash="s")
            acked.add(video)
        writer.seal()
    assert acked
    check_survivors(path, spec, feats, acked)
    assert not list(path.rglob("*.tmp"))
    remount = ["mount", "-o", "remount,size=4m", str(small_disk)]
    subprocess.run(remount, check=True)
    fill(path, spec, feats)
    check_finished(path, feats)


def test_a_shard_that_cannot_fit_is_refused_before_it_is_begun(
    tmp_path: Path, spec_of: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Store.create(tmp_path / "s").create_stream(spec_of())
    writer = stream.writer("0")
    writer.commit("a", np.ones((5, 32)), fps=25.0, duration_s=None, source_hash="s")
    monkeypatch.setattr(durable, "free_bytes", lambda folder: 1000)
    with pytest.raises(WriteError, match=r"disk full .* free 1,000\)"):
        writer.seal()
    monkeypatch.undo()
    assert writer.seal() is not None


@pytest.mark.parametrize("same_unit", [True, False])
def test_four_writers_of_the_same_videos_cannot_spoil_them(
    tmp_path: Path, spec_of: Spec, feats_by_video: dict[str, Feats], same_unit: bool
) -> None:
    path, spec = tmp_path / "s", spec_of()
    units = ["0" if same_unit else str(i) for i in range(4)]
    workers = [fork.Process(target=fill, args=(path, spec, feats_by_video, unit)) for unit in units]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    for unit in set(units):  # whoever comes last leaves nothing behind
        fill(path, spec, feats_by_video, unit)
    stream = check_survivors(path, spec, feats_by_video, set(feats_by_video))
    assert catalog.list_parts(stream.folder) == [] and not list(path.rglob("*.tmp"))


def test_writers_of_many_units_and_a_reader_work_at_once(tmp_path: Path, spec_of: Spec) -> None:
    spec, path = spec_of(), tmp_path / "s"
    feats = {f"v{i:02d}": np.full((3, 32), i, "<f2") for i in range(24)}
    units = {str(i): {k: feats[k] for k in list(feats)[i::4]} for i in range(4)}
    workers = [fork.Process(target=fill, args=(path, spec, part, u)) for u, part in units.items()]
    stream = Store.create(path).create_stream(spec)
    for worker in workers:
        worker.start()
    seen = 0
    while any(worker.is_alive() for worker in workers):
        stream.refresh()
        videos = stream.videos
        assert len(videos) >= seen, "what was seen once stays"
        seen = len(videos)
        for video in videos:
            assert np.array_equal(stream.read(video), feats[video])
    assert [worker.exitcode for worker in workers] == [0] * 4
    stream.refresh()
    assert stream.videos == sorted(feats)


def test_two_specs_at_once_one_wins_and_the_other_is_told(tmp_path: Path, spec_of: Spec) -> None:
    store = Store.create(tmp_path / "s")
    results = fork.SimpleQueue()

    def create(size: int) -> None:
        try:
            store.create_stream(spec_of(details={"size": size}))
            results.put(size)
        except UserError as error:
            results.put(str(error))

    workers = [fork.Process(target=create, args=(size,)) for size in range(4)]
    for worker in workers:
        worker.start()
    told = [results.get() for _ in workers]
    for worker in workers:
        worker.join(30)
    winners = [answer for answer in told if isinstance(answer, int)]
    assert len(winners) == 1
    assert all("details.size" in answer for answer in told if isinstance(answer, str))


def test_only_temporary_files_of_dead_writers_are_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "v.h5"
    mine = durable.temporary(target)
    mine.write_text("being written now")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = durable._host()
    theirs = {
        "dead": tmp_path / f".v.{host}.{dead.pid}.0.0.tmp",
        "elsewhere": tmp_path / f".v.other-host.{dead.pid}.0.0.tmp",
        "elsewhere, old": tmp_path / f".v.other-host.{dead.pid}.0.1.tmp",
        "alive": tmp_path / f".v.{host}.1.0.0.tmp",
        "mine of an earlier life": tmp_path / f".v.{host}.{os.getpid()}.0.99.tmp",
        "nobody's": tmp_path / ".strange.tmp",
    }
    for path in theirs.values():
        path.write_text("x")
    os.utime(theirs["elsewhere, old"], (0, 0))
    os.utime(theirs["mine of an earlier life"], (time.time() - 3600,) * 2)
    monkeypatch.setattr(durable, "_started_at", time.time() - 1800)
    assert durable.sweep(tmp_path) == 3
    left = {name for name, path in theirs.items() if path.exists()}
    assert left == {"elsewhere", "alive", "nobody's"} and mine.exists()
