"""A process that decodes, so that a file that crashes or hangs FFmpeg takes nothing else with it.

``python -m tad_distill.extract.decoding`` reads requests from stdin and answers on stdout until
stdin ends. A message is two lengths (big-endian, 4 bytes each), that many bytes of JSON and that
many bytes of data. It imports no torch and starts in a fifth of a second.
"""

import json
import os
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2

from tad_distill.extract.geometry import Fit, Framing
from tad_distill.extract.video import Decoder, VideoError, claims

HEADER = struct.Struct(">II")
# Signals that ask for a stop: the parent answers for all of us, by closing our stdin or killing us.
LEFT_TO_THE_PARENT = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")


@dataclass(frozen=True)
class Broken:
    """A video that cannot be read: why, in one line, and where in the code."""

    reason: str
    traceback: str


def message(table: dict[str, Any], data: bytes | memoryview = b"") -> list[bytes | memoryview]:
    """The pieces of a message."""
    text = json.dumps(table).encode()
    return [HEADER.pack(len(text), len(data)), text, data]


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until there are no more."""

    def reply(table: dict[str, Any], data: bytes | memoryview = b"") -> None:
        for piece in message(table, data):
            replies.write(piece)

    while len(header := requests.read(HEADER.size)) == HEADER.size:
        request = json.loads(requests.read(HEADER.unpack(header)[0]))
        path = Path(request["path"])
        try:
            if request["ask"] == "claims":
                reply({"claims": asdict(claims(path))})
            else:
                decode(path, request, reply)
        except (VideoError, OSError, cv2.error, MemoryError) as error:
            text = str(error).removeprefix(f"{path}: ").strip() or type(error).__name__
            broken = Broken(" ".join(text.split()), traceback.format_exc())
            reply({"broken": asdict(broken)})
        except Exception:  # ours to answer for: the parent raises it
            reply({"bug": traceback.format_exc()})


def decode(path: Path, request: dict[str, Any], reply: Callable[..., None]) -> None:
    """Send the frames of a video, then what decoding found."""
    seconds, start = 0.0, time.perf_counter()
    framing = dict(request["framing"])
    framing["exact_px"] = tuple(framing["exact_px"])
    decoder = Decoder(path, fps=request["fps"], fit=Fit(Framing(**framing)))
    for chunk in decoder:
        seconds += time.perf_counter() - start
        reply({"chunk": chunk.shape}, chunk.data.cast("B"))
        start = time.perf_counter()
    seconds += time.perf_counter() - start
    reply({"decoded": asdict(decoder.decoded), "seconds": seconds})


def main() -> None:
    """Serve on stdin and stdout."""
    for name in LEFT_TO_THE_PARENT:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    cv2.setNumThreads(1)  # there is one of us per core
    # What a library prints must not come between the messages.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        serve(sys.stdin.buffer, out)
    except BrokenPipeError:  # the parent has gone
        sys.exit(1)


if __name__ == "__main__":
    main()
