"""Render pieces in several processes that end with their parent, whatever ends it."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from tad_distill.console import UserError

Piece = TypeVar("Piece")
Done = TypeVar("Done")


def run_all(
    render: Callable[[Piece], Done], pieces: Sequence[Piece], workers: int
) -> Generator[Done, None, None]:
    """Call ``render`` on every piece, in any order; both must be picklable.

    Close the generator to cancel what has not begun; what has begun is finished first.

    Args:
        render: The work.
        pieces: What to call it on.
        workers: Processes; 1 works in this one.

    Yields:
        What ``render`` returned, as it comes.

    Raises:
        UserError: A process was killed.
    """
    if workers <= 1 or len(pieces) <= 1:
        yield from map(render, pieces)
        return
    # "spawn": a forked process would inherit locks that other threads hold.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(pieces)), context, _prepare)
    try:
        for job in as_completed([pool.submit(render, piece) for piece in pieces]):
            yield job.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a rendering process was killed, perhaps for want of memory; run the same command "
            "again with fewer workers, finished videos are kept"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def processors() -> int:
    """How many processors this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _prepare() -> None:
    """Signals are the parent's business; a worker whose parent is gone leaves."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()
