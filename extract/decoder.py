"""The parent's side of :mod:`tad_distill.extract.decoding`: a decoder that may die."""

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tad_distill.extract.decoding import HEADER, Broken, message
from tad_distill.extract.geometry import Framing
from tad_distill.extract.video import Decoded, VideoFacts

# Linux: room for a megabyte in the pipe, so that frames cross in fewer turns.
SET_PIPE_SIZE, PIPE_BYTES = 1031, 2**20


class VideoBroken(Exception):
    """Carries a :class:`Broken` to whoever takes the frames."""

    def __init__(self, broken: Broken) -> None:
        """Keep it."""
        super().__init__(broken.reason)
        self.broken = broken


class DecoderProcess:
    """Decodes one video at a time in a process of its own, started when it is first needed.

    Used by one thread at a time; :meth:`stop` alone may be called from another.

    Attributes:
        timeout_s: How long it may be silent before it is taken for hanging, and killed.
    """

    def __init__(
        self, timeout_s: float, allocate: Callable[[int], NDArray[np.uint8]] | None = None
    ) -> None:
        """Start nothing yet.

        Args:
            timeout_s: How long it may be silent.
            allocate: Where the frames go, so many bytes at a time.
        """
        self.timeout_s = timeout_s
        self._allocate = allocate or _allocate
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def claims(self, path: Path) -> VideoFacts:
        """What a file claims, see ``video.claims``.

        Raises:
            VideoBroken: It is not a video, or crashes the decoder.
        """
        self._ask({"ask": "claims", "path": str(path)})
        table, _ = self._answer()
        return VideoFacts(**table["claims"])

    def decode(
        self, path: Path, fps: float | None, framing: Framing
    ) -> Iterator[NDArray[np.uint8] | tuple[Decoded, float]]:
        """The ``(N, H, W, 3)`` frames of a file; at last what decoding found, and its seconds.

        Raises:
            VideoBroken: The file cannot be decoded, crashes the decoder or makes it hang.
        """
        self._ask({"ask": "decode", "path": str(path), "fps": fps, "framing": asdict(framing)})
        while True:
            table, data = self._answer()
            if "decoded" in table:
                yield Decoded(**table["decoded"]), table["seconds"]
                return
            yield data.reshape(table["chunk"])

    def stop(self) -> None:
        """Kill the process for good; whoever waits for an answer gets :class:`VideoBroken`."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """End the process, whatever it is doing; the next request starts another."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _ask(self, table: dict[str, Any]) -> None:
        with self._lock:
            if self._stopped:
                raise VideoBroken(Broken("decoding was stopped", ""))
            if self._process is None:
                self._process = _start()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"".join(message(table)))
        except BrokenPipeError:
            raise self._died() from None

    def _answer(self) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        num_text, num_data = HEADER.unpack(self._read(_allocate(HEADER.size)).tobytes())
        table = json.loads(self._read(_allocate(num_text)).tobytes())
        if "broken" in table:
            raise VideoBroken(Broken(**table["broken"]))
        if "bug" in table:
            raise RuntimeError(f"the decoder failed:\n{table['bug']}")
        return table, self._read(self._allocate(num_data))

    def _read(self, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Fill an array of bytes, waiting no longer than ``timeout_s`` for any of them."""
        assert self._process is not None and self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        view, filled = data.data, 0
        while filled < len(data):
            ready, _, _ = select.select([pipe], [], [], self.timeout_s)
            if not ready:
                self.close()
                reason = f"the decoder was silent for {self.timeout_s:g} s and was stopped"
                raise VideoBroken(Broken(reason, ""))
            count = os.readv(pipe, [view[filled:]])
            if not count:
                raise self._died()
            filled += count
        return data

    def _died(self) -> VideoBroken:
        assert self._process is not None
        code = self._process.wait()  # its pipe has ended, so it is ending
        self.close()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return VideoBroken(Broken(f"the decoder crashed on this file ({how})", ""))


def _start() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tad_distill.extract.decoding"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        process_group=0,  # Ctrl-C is for the parent, which answers for both
    )
    assert process.stdout is not None
    # Linux alone can widen a pipe, and not beyond its limit: the usual size works as well.
    with contextlib.suppress(OSError):
        fcntl.fcntl(process.stdout.fileno(), SET_PIPE_SIZE, PIPE_BYTES)
    return process


def _allocate(num_bytes: int) -> NDArray[np.uint8]:
    return np.empty(num_bytes, np.uint8)
