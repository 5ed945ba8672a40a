"""Extraction when something is wrong: bad videos, signals, full disks, memory, misuse."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tad_distill import console
from tad_distill.console import Interrupted, UsageError, UserError
from tad_distill.data.durable import WriteError
from tad_distill.data.store import Store
from tad_distill.data.writer import Writer
from tad_distill.extract.backbones import Backbone
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.decoder import DecoderProcess, VideoBroken
from tad_distill.extract.decoding import Broken
from tad_distill.extract.run import extract

RANDOM = Path("random:0")
SMALL = ExtractConfig(short_side_px=36, crop_px=32, window_frames=32, dtype="float32")


def features(store: Path, stream: str) -> dict[str, NDArray[np.floating]]:
    opened = Store.open(store).stream(stream)
    return {video: opened.read(video) for video in opened.videos}


@pytest.mark.usefixtures("light")
def test_a_bad_video_is_recorded_and_does_not_stop_the_others(
    videos: list[Path], tmp_path: Path, write_video: Callable[..., Path]
) -> None:
    store, source, lines = tmp_path / "s", {"light:rgb": RANDOM}, tmp_path / "report.jsonl"
    bad = tmp_path / "bad.mp4"
    bad.write_text("not a video")
    files = [videos[0], bad, videos[2]]
    report = extract(files, ["light:rgb"], store, ExtractConfig(), source, report_file=lines)
    assert report.done == ["long", "single"]
    assert [(f.video, f.path) for f in report.failed] == [("bad", bad)]
    recorded = Store.open(store).stream("light:rgb").failed()
    assert [failure.video for failure in recorded] == ["bad"]
    assert "cannot be opened as a video" in recorded[0].reason
    assert "VideoError" in recorded[0].traceback
    told = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [(row["video"], row["status"]) for row in told] == [
        ("long", "done"),
        ("bad", "failed"),
        ("single", "done"),
    ]
    again = extract(files, ["light:rgb"], store, ExtractConfig(), source)
    assert "failed in an earlier run: cannot be opened" in again.failed[0].reason
    shutil.copy(videos[1], bad)  # repaired: another content is tried without being asked
    assert extract(files, ["light:rgb"], store, ExtractConfig(), source).done == ["bad"]
    assert Store.open(store).stream("light:rgb").failed() == []


@pytest.mark.usefixtures("light")
def test_failed_videos_are_tried_again_when_asked(
    videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, *request: object) -> NoReturn:
        raise VideoBroken(Broken("out of memory", "where"))

    store, source = tmp_path / "s", {"light:rgb": RANDOM}
    with monkeypatch.context() as patch:
        patch.setattr(DecoderProcess, "decode", refuse)
        report = extract(videos[:1], ["light:rgb"], store, ExtractConfig(), source)
    assert report.failed[0].reason == "out of memory"
    assert not extract(videos[:1], ["light:rgb"], store, ExtractConfig(), source).done
    retried = extract(videos[:1], ["light:rgb"], store, ExtractConfig(), source, retry_failed=True)
    assert retried.done == ["long"]


def test_features_too_large_for_the_store_fail_their_video_alone(
    light: type[Backbone], videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(light, "pool", lambda self, maps: maps.sum((-2, -1)) * 1e9)
    report = extract(
        videos[:1], ["light:rgb"], tmp_path / "s", ExtractConfig(), {"light:rgb": RANDOM}
    )
    assert "more than float16 holds; set dtype=float32" in report.failed[0].reason


@pytest.mark.usefixtures("light")
def test_a_signal_drops_the_video_in_flight_and_keeps_the_others(
    videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, source = tmp_path / "s", {"light:rgb": RANDOM}
    commit = Writer.commit

    def commit_then_signal(self: Writer, *args: object, **rest: object) -> None:
        commit(self, *args, **rest)  # type: ignore[arg-type]
        monkeypatch.setattr(console, "_stop_signal", 10)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "commit", commit_then_signal)
        with pytest.raises(Interrupted, match="SIGUSR1: finished videos are in the store"):
            extract(videos, ["light:rgb"], store, ExtractConfig(), source)
    monkeypatch.setattr(console, "_stop_signal", None)
    assert features(store, "light:rgb").keys() == {"long"}
    resumed = extract(videos, ["light:rgb"], store, ExtractConfig(), source)
    assert (resumed.skipped, resumed.done) == (["long"], ["middle", "single"])


@pytest.mark.usefixtures("light")
def test_a_full_disk_ends_the_run_and_keeps_what_is_finished(
    videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, source = tmp_path / "s", {"light:rgb": RANDOM}
    commit = Writer.commit

    def commit_until_full(self: Writer, video: str, *args: object, **rest: object) -> None:
        if video == "middle":
            raise WriteError(console.describe_os_error(OSError(errno.ENOSPC, "No space left")))
        commit(self, video, *args, **rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "commit", commit_until_full)
        with pytest.raises(WriteError, match="No space left; free space and run the same"):
            extract(videos, ["light:rgb"], store, ExtractConfig(), source)
    resumed = extract(videos, ["light:rgb"], store, ExtractConfig(), source)
    assert (resumed.skipped, resumed.done) == (["long"], ["middle", "single"])


def test_misuse_is_found_before_anything_is_written(videos: list[Path], tmp_path: Path) -> None:
    store = tmp_path / "s"
    cases = [
        (["tsm18"], {}, "expected BACKBONE:MODALITY"),
        (["tsm18:rgb"], {}, "no weights; give --weights tsm18:rgb=FILE"),
        ([], {}, "no streams"),
        (["tsm18:rgb"], {"tsm18:tg": RANDOM}, "no stream of this run"),
        (["tsm19:rgb"], {"tsm19:rgb": RANDOM}, "no such backbone"),
        (["tsm18:flo"], {"tsm18:flo": RANDOM}, "no such modality"),
        (["tsm18:rgb@layer9"], {"tsm18:rgb@layer9": RANDOM}, "has the stages layer1"),
    ]
    for streams, sources, message in cases:
        known = {stream: RANDOM for stream in streams} if message.startswith("expected") else {}
        with pytest.raises(UsageError, match=message):
            extract(videos, streams, store, SMALL, sources | known)
    with pytest.raises(UsageError, match="precision: bfloat16 needs a GPU"):
        config = ExtractConfig(precision="bfloat16", device="cpu")
        extract(videos, ["tsm18:rgb"], store, config, {"tsm18:rgb": RANDOM})
    with pytest.raises(UsageError, match="device: expected auto, cpu"):
        config = ExtractConfig(device="gpu9")
        extract(videos, ["tsm18:rgb"], store, config, {"tsm18:rgb": RANDOM})
    assert not store.exists()


def test_memory_that_does_not_suffice_halves_the_batch(
    light: type[Backbone], videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"light:rgb": RANDOM}
    config = ExtractConfig(window_frames=8, batch_frames=32)
    extract(videos[:1], ["light:rgb"], tmp_path / "enough", config, source)

    def small(self: Backbone, frames: Tensor) -> Tensor:
        if frames.shape[0] * frames.shape[1] > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return frames

    monkeypatch.setattr(light, "enter", small)
    extract(videos[:1], ["light:rgb"], tmp_path / "little", config, source)
    enough, little = (features(tmp_path / name, "light:rgb") for name in ("enough", "little"))
    np.testing.assert_array_equal(enough["long"], little["long"])
    with pytest.raises(UserError, match="16 frames of 96x96 do not fit.*window_frames"):
        config = ExtractConfig(window_frames=16)
        extract(videos[:1], ["light:rgb"], tmp_path / "none", config, source)
