"""Decode the next videos in other processes while the network works on this one.

The videos come out in the order they went in, and each waits in a short queue, so memory is
bounded whatever their length. A thread stands between each process and its queue.
"""

import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.decoder import DecoderProcess, VideoBroken
from tad_distill.extract.decoding import Broken
from tad_distill.extract.video import Decoded, content_hash

# Per video in flight; a chunk is 64 frames.
QUEUED_CHUNKS = 8


class Feed:
    """One video as it comes out of its thread.

    Attributes:
        name: The video.
        path: Its file.
        source_hash: Of the file's bytes; empty where they cannot be read.
        decoded: What was found; None until all chunks have been taken.
        decode_s: Seconds spent on hashing and decoding.
    """

    def __init__(self, name: str, path: Path, stop: threading.Event) -> None:
        """Start with nothing decoded."""
        self.name, self.path = name, path
        self.source_hash = ""
        self.decoded: Decoded | None = None
        self.decode_s = 0.0
        self._stop = stop
        self._hashed = threading.Event()
        self._queue: queue.Queue[NDArray[np.uint8] | Broken | BaseException | None] = queue.Queue(
            QUEUED_CHUNKS
        )

    def wait_for_hash(self) -> str:
        """The file's hash, as soon as it is known; empty where the file cannot be read."""
        self._hashed.wait()
        return self.source_hash

    def chunks(self) -> Iterator[NDArray[np.uint8]]:
        """The ``(N, H, W, 3)`` frames.

        Raises:
            VideoBroken: The video cannot be read, or not to its end.
        """
        while (item := self._queue.get()) is not None:
            if isinstance(item, Broken):
                raise VideoBroken(item)
            if isinstance(item, BaseException):
                raise item
            yield item

    def run(
        self,
        decoder: DecoderProcess,
        config: ExtractConfig,
        wanted: Callable[[str, str], bool],
    ) -> None:
        """Decode; the body of the thread.

        Args:
            decoder: Does it.
            config: Rate and size of the frames.
            wanted: Called with name and hash: whether the video is to be decoded at all.
        """
        last: Broken | BaseException | None = None
        try:
            start = time.perf_counter()
            self.source_hash = content_hash(self.path)
            self.decode_s = time.perf_counter() - start
            self._hashed.set()
            if wanted(self.name, self.source_hash):
                self._decode(decoder, config)
        except VideoBroken as error:
            last = error.broken
        except OSError as error:
            last = Broken(f"cannot be read ({error.strerror})", traceback.format_exc())
        except BaseException as error:  # ours to answer for: raised again where it is awaited
            last = error
        self._hashed.set()
        self._put(last)

    def _decode(self, decoder: DecoderProcess, config: ExtractConfig) -> None:
        for item in decoder.decode(self.path, config.fps, config.framing()):
            if isinstance(item, tuple):
                self.decoded, seconds = item
                self.decode_s += seconds
            elif not self._put(item):
                decoder.close()  # it has frames left that nobody will take
                return

    def _put(self, item: NDArray[np.uint8] | Broken | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False


@contextmanager
def feeds(
    videos: Iterable[tuple[str, Path]],
    config: ExtractConfig,
    wanted: Callable[[str, str], bool],
    num_decoders: int,
    allocate: Callable[[int], NDArray[np.uint8]] | None = None,
) -> Iterator[Iterator[Feed]]:
    """The videos in their order, decoded ahead by ``num_decoders`` processes.

    Args:
        videos: Names and files.
        config: Rate and size of the frames.
        wanted: Called with name and hash, in any thread: whether to decode a video.
        num_decoders: Videos decoded at the same time.
        allocate: Where the frames go, so many bytes at a time.
    """
    stop = threading.Event()
    decoders = [DecoderProcess(config.decode_timeout_s, allocate) for _ in range(num_decoders)]
    idle: queue.SimpleQueue[DecoderProcess] = queue.SimpleQueue()
    for decoder in decoders:
        idle.put(decoder)
    executor = ThreadPoolExecutor(num_decoders, thread_name_prefix="decode")

    def run(feed: Feed) -> None:
        decoder = idle.get()
        try:
            feed.run(decoder, config, wanted)
        finally:
            idle.put(decoder)

    def ahead() -> Iterator[Feed]:
        started: deque[Feed] = deque()
        for name, path in videos:
            feed = Feed(name, path, stop)
            executor.submit(run, feed)
            started.append(feed)
            if len(started) > num_decoders:
                yield started.popleft()
        yield from started

    try:
        yield ahead()
    finally:
        stop.set()
        for decoder in decoders:
            decoder.stop()
        executor.shutdown(wait=True, cancel_futures=True)
        for decoder in decoders:
            decoder.close()
