"""Write features in threads of their own: a commit waits for the disk more than it computes."""

import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tad_distill.console import check_stop
from tad_distill.data.durable import WriteError
from tad_distill.data.store import Stream
from tad_distill.data.writer import Writer
from tad_distill.extract.decoding import Broken
from tad_distill.extract.encoder import Encoder
from tad_distill.extract.prefetch import Feed

KEPT = "finished videos are in the store"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A stream being filled."""

    encoder: Encoder
    stream: Stream
    writer: Writer


class Committer:
    """Commits videos in the order they come, each stream in a thread of its own."""

    def __init__(self) -> None:
        """Start no thread yet."""
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._failure: WriteError | None = None

    def __enter__(self) -> "Committer":
        """Begin."""
        return self

    def __exit__(self, *error: object) -> None:
        """Wait for commits that have begun, and give up those that have not."""
        for thread in self._threads.values():
            thread.shutdown(wait=True, cancel_futures=True)

    def commit(self, target: Target, feed: Feed, feats: NDArray[np.floating]) -> Future[float]:
        """Commit the features of a video.

        Args:
            target: The stream.
            feed: The video, decoded to its end.
            feats: ``(T, *shape)``.

        Returns:
            The seconds it took; or what ``Writer.commit`` raised, or Interrupted where a signal
            came before it began.
        """
        name = target.stream.name
        if name not in self._threads:
            self._threads[name] = ThreadPoolExecutor(1, thread_name_prefix="commit")
        return self._threads[name].submit(self._commit, target, feed, feats)

    def _commit(self, target: Target, feed: Feed, feats: NDArray[np.floating]) -> float:
        check_stop(KEPT)
        if self._failure is not None:  # a full disk fills no further by trying
            raise self._failure
        start = time.perf_counter()
        assert feed.decoded is not None
        try:
            target.writer.commit(
                feed.name,
                feats,
                fps=feed.decoded.video_fps,
                duration_s=feed.decoded.duration_s,
                source_hash=feed.source_hash,
            )
        except WriteError as error:
            self._failure = error
            raise
        return time.perf_counter() - start


def broken(error: Exception) -> Broken:
    """An error as it is recorded for a video."""
    return Broken(str(error), "".join(traceback.format_exception(error)))
