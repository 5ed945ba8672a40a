"""A stream can be used by any process and thread, however the process came to be."""

import multiprocessing
import pickle
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from operator import methodcaller
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tad_distill.data.store import Store, Stream, StreamSpec

Feats = NDArray[np.floating]
Filled = Callable[[Path, Mapping[str, Feats]], Stream]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_what_the_parent_reads(
    tmp_path: Path, filled: Filled, feats_by_video: dict[str, Feats], method: str
) -> None:
    stream = filled(tmp_path / "s", feats_by_video)
    stream.read(stream.videos[0])  # the parent has a handle open
    calls = [methodcaller("read", video) for video in stream.videos * 2]
    pool = multiprocessing.get_context(method).Pool(2)
    results = [pool.apply_async(call, (stream,)) for call in calls]
    pool.close()
    for video, result in zip(stream.videos * 2, results, strict=True):
        assert np.array_equal(result.get(60), feats_by_video[video])
    pool.join()


def test_forked_workers_share_an_inherited_stream(
    tmp_path: Path, filled: Filled, feats_by_video: dict[str, Feats]
) -> None:
    """As a DataLoader does: the dataset is not pickled, its open handles are inherited."""
    stream = filled(tmp_path / "s", feats_by_video)
    stream.read(stream.videos[0])
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()

    def work() -> None:
        for _ in range(20):
            crcs = {video: zlib.crc32(stream.read(video).tobytes()) for video in feats_by_video}
        answers.put(crcs)

    workers = [fork.Process(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for _ in range(20):
        for video, feats in feats_by_video.items():
            assert np.array_equal(stream.read(video), feats)
    expected = {video: zlib.crc32(feats.tobytes()) for video, feats in feats_by_video.items()}
    assert [answers.get() for _ in workers] == [expected] * 3
    for worker in workers:
        worker.join(30)


def test_threads_read_while_the_stream_is_refreshed(
    tmp_path: Path,
    filled: Filled,
    feats_by_video: dict[str, Feats],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tad_distill.data.stream.MAX_OPEN_SHARDS", 2)
    names = sorted(feats_by_video)
    stream = filled(tmp_path / "s", {name: feats_by_video[name] for name in names[:20]})
    for name in names[20:]:
        writer = stream.writer(f"unit-{names.index(name)}")
        writer.commit(name, feats_by_video[name], fps=25.0, duration_s=9.5, source_hash="s")
    stream.refresh()

    def work(number: int) -> None:
        for i in range(60):
            if number == 0:
                stream.refresh()
            name = names[(i * 7 + number) % len(names)]
            assert np.array_equal(stream.read(name), feats_by_video[name])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_a_pickled_stream_carries_no_index(
    tmp_path: Path, filled: Filled, feats_by_video: dict[str, Feats]
) -> None:
    stream = filled(tmp_path / "s", feats_by_video)
    stream.read(stream.videos[0])
    data = pickle.dumps(stream)
    assert len(data) < 1500
    assert np.array_equal(pickle.loads(data).read(".hidden"), feats_by_video[".hidden"])


def test_a_reader_keeps_reading_while_parts_are_packed(
    tmp_path: Path, spec_of: Callable[..., StreamSpec], feats_by_video: dict[str, Feats]
) -> None:
    stream = Store.create(tmp_path / "s").create_stream(spec_of())
    writer = stream.writer("0")
    for video, feats in feats_by_video.items():
        writer.commit(video, feats, fps=25.0, duration_s=None, source_hash="s")
    reader = Store.open(tmp_path / "s").stream("i3d:rgb")
    names = reader.videos
    assert np.array_equal(reader.read(names[0]), feats_by_video[names[0]])
    writer.seal()
    for name in names:
        assert np.array_equal(reader.read(name), feats_by_video[name])
        assert np.array_equal(reader.read(name, 0, 1), feats_by_video[name][:1])
