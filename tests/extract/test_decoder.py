"""Decoding in a process of its own: the same frames, and nothing that a bad file could break."""

import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tad_distill.extract import decoder as module
from tad_distill.extract import decoding
from tad_distill.extract.decoder import DecoderProcess, VideoBroken
from tad_distill.extract.geometry import Fit, Framing
from tad_distill.extract.video import Decoded, Decoder, claims

WHOLE = Framing(resize="none", crop_px=0)


@pytest.fixture
def process() -> Iterator[DecoderProcess]:
    made = DecoderProcess(timeout_s=20)
    yield made
    made.close()


def frames(process: DecoderProcess, path: Path) -> tuple[np.ndarray, Decoded]:
    items = list(process.decode(path, 10, WHOLE))
    (found,) = [item[0] for item in items if isinstance(item, tuple)]
    return np.concatenate([item for item in items if not isinstance(item, tuple)]), found


def instead(monkeypatch: pytest.MonkeyPatch, code: str) -> list[subprocess.Popen[bytes]]:
    """Let the process run other code once, and then what it always runs."""
    start, started = module._start, list[subprocess.Popen[bytes]]()

    def once() -> subprocess.Popen[bytes]:
        if started:
            return start()
        program = [sys.executable, "-c", code]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(program, stdin=pipe, stdout=pipe, bufsize=0))
        return started[0]

    monkeypatch.setattr(module, "_start", once)
    return started


def test_the_frames_are_those_of_the_same_process(
    process: DecoderProcess, videos: list[Path]
) -> None:
    framing = replace(WHOLE, crop_px=16)
    for path in videos:  # one process for all
        *chunks, (found, seconds) = process.decode(path, 7, framing)
        decoder = Decoder(path, fps=7, fit=Fit(framing))
        expected = list(decoder)
        assert len(chunks) == len(expected)
        for chunk, wanted in zip(chunks, expected, strict=True):
            np.testing.assert_array_equal(np.asarray(chunk), wanted)
        assert found == decoder.decoded and seconds > 0
        assert process.claims(path) == claims(path)


def test_a_file_that_is_no_video_is_said_and_the_next_one_decoded(
    process: DecoderProcess, videos: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    for ask in (process.claims, lambda path: list(process.decode(path, None, WHOLE))):
        with pytest.raises(VideoBroken, match="^cannot be opened as a video") as error:
            ask(tmp_path / "bad.mp4")
        assert "Traceback" in error.value.broken.traceback
    assert len(frames(process, videos[1])[0]) == 40


def test_a_crash_is_said_and_the_next_video_gets_another_process(
    process: DecoderProcess, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = "os.kill(os.getpid(), signal.SIGSEGV)"
    instead(monkeypatch, f"import os, signal, sys; sys.stdin.buffer.read(8); {crash}")
    with pytest.raises(VideoBroken, match=r"crashed on this file \(SIGSEGV\)"):
        frames(process, videos[0])
    assert len(frames(process, videos[0])[0]) == 50


def test_a_decoder_that_hangs_is_killed(
    process: DecoderProcess, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    process.timeout_s = 0.2
    started = instead(monkeypatch, "import time; time.sleep(60)")
    with pytest.raises(VideoBroken, match=r"silent for 0.2 s and was stopped"):
        frames(process, videos[0])
    assert started[0].poll() == -9
    process.timeout_s = 20
    assert len(frames(process, videos[0])[0]) == 50


def test_stopping_frees_whoever_waits(
    process: DecoderProcess, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    instead(monkeypatch, "import time; time.sleep(60)")
    threading.Timer(0.3, process.stop).start()
    start = time.monotonic()
    with pytest.raises(VideoBroken):
        frames(process, videos[0])
    assert time.monotonic() - start < 10
    with pytest.raises(VideoBroken, match="stopped"):
        frames(process, videos[0])


def test_a_decoder_without_a_parent_ends(videos: list[Path]) -> None:
    child = module._start()
    assert child.stdin is not None and child.stdout is not None
    child.stdin.close()
    assert child.wait(20) == 0
    child.stdout.close()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (cv2.error("out of\nmemory"), "out of memory"),
        (MemoryError(), "MemoryError"),
        (PermissionError(13, "Permission denied"), "[Errno 13] Permission denied"),
    ],
)
def test_what_a_file_can_do_is_a_reason_in_one_line(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = served(error, monkeypatch)
    assert reply["broken"]["reason"] == reason
    assert type(error).__name__ in reply["broken"]["traceback"]


def test_a_mistake_of_ours_is_no_fault_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "KeyError: 'ours'" in served(KeyError("ours"), monkeypatch)["bug"]


def served(error: Exception, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    """The reply to a request in which an error is raised."""

    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr(decoding, "claims", fail)
    request = b"".join(decoding.message({"ask": "claims", "path": "v.mp4"}))
    replies = io.BytesIO()
    decoding.serve(io.BytesIO(request), replies)
    num_text, num_data = decoding.HEADER.unpack(replies.getvalue()[: decoding.HEADER.size])
    assert num_data == 0
    reply: dict[str, dict[str, str]] = json.loads(replies.getvalue()[decoding.HEADER.size :])
    assert num_text == len(replies.getvalue()) - decoding.HEADER.size
    return reply
