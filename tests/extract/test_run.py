"""The whole extraction: times, resuming, failures, sharing one decoding pass."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from torch import Tensor

from tad_distill import console
from tad_distill.console import Interrupted, UsageError, UserError
from tad_distill.data.durable import WriteError
from tad_distill.data.store import Store
from tad_distill.data.writer import Writer
from tad_distill.extract import prefetch, weights
from tad_distill.extract.backbones import Backbone
from tad_distill.extract.commands import extract as command
from tad_distill.extract.config import ExtractConfig, load
from tad_distill.extract.run import extract

RANDOM = Path("random:0")
SMALL = ExtractConfig(short_side_px=36, crop_px=32, window_frames=32, dtype="float32")


class Light(Backbone):
    """A feature is the frame's mean brightness, 0 to 1: it tells which frames were seen."""

    normalisation = "symmetric"
    stages = ("all",)
    dim, stride_frames, halo_frames = 1, 1, 0

    def maps(self, frames: Tensor, stage: str) -> Tensor:
        return frames.mean((2, 3, 4), keepdim=True) / 2 + 0.5

    def adapt_channels(self, channels: int) -> None:
        pass


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    real = weights.build
    monkeypatch.setattr(weights, "build", lambda name: Light() if name == "light" else real(name))


@pytest.fixture
def videos(tmp_path: Path, write_video: Callable[..., Path]) -> list[Path]:
    """Videos of 50, 40 and 1 frames, 10 a second, that brighten by 5 levels a frame."""
    return [
        write_video(tmp_path / f"{name}.mp4", ramp(num_frames))
        for name, num_frames in (("long", 50), ("middle", 40), ("single", 1))
    ]


def ramp(num_frames: int) -> list[NDArray[np.uint8]]:
    return [np.full((48, 64, 3), 5 * i, np.uint8) for i in range(num_frames)]


def features(store: Path, stream: str) -> dict[str, NDArray[np.floating]]:
    opened = Store.open(store).stream(stream)
    return {video: opened.read(video) for video in opened.videos}


@pytest.mark.parametrize(
    "config",
    [
        ExtractConfig(),
        ExtractConfig(pool_frames=4),
        ExtractConfig(fps=5, window_frames=8, pool_frames=2),
        ExtractConfig(fps=20, pool_frames=8),
        ExtractConfig(regime="snippet", clip_frames=8, clip_stride_frames=2),
    ],
    ids=["frames", "pooled", "slower", "faster", "snippets"],
)
@pytest.mark.usefixtures("light")
def test_a_feature_lies_where_its_timeline_says(
    config: ExtractConfig, videos: list[Path], tmp_path: Path
) -> None:
    extract(videos[:1], ["light:rgb"], tmp_path / "s", config, {"light:rgb": RANDOM})
    stream = Store.open(tmp_path / "s").stream("light:rgb")
    feats = stream.read("long")[:, 0].astype(float)
    timeline = stream.timeline("long")
    # Brightness rises by 5 of 255 levels per tenth of a second; the frame of level 0 is shown
    # from 0 s on, so a frame's level belongs to the time half a frame after its start.
    half_frame_s = 0.5 / (config.fps or 10)
    times = np.array([timeline.to_seconds(float(step)) for step in range(len(feats))])
    inner = slice(1, -2)
    expected = (times - half_frame_s) * 10 * 5 / 255
    np.testing.assert_allclose(feats[inner], expected[inner], atol=4.5 / 255)
    entry = stream.entry("long")
    assert entry.fps == 10
    assert entry.duration_s == pytest.approx(5)
    assert timeline.fps == (config.fps or 10)


def test_streams_share_one_decoding_pass_and_equal_those_made_alone(
    videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = ["tsm18:rgb", "tsm18:tg", "tsm18:tg_luma", "tsm18:rgb@layer3"]
    sources = dict.fromkeys(streams, RANDOM)
    opened: list[Path] = []
    decoder = prefetch.Decoder

    def counted(path: Path, **rest: Any) -> prefetch.Decoder:
        opened.append(path)
        return decoder(path, **rest)

    monkeypatch.setattr(prefetch, "Decoder", counted)
    report = extract(videos[1:], streams, tmp_path / "together", SMALL, sources)
    assert report.done == ["middle", "single"] and not report.failed
    assert sorted(opened) == sorted(videos[1:])
    for stream in streams:
        extract(videos[1:], [stream], tmp_path / "alone", SMALL, {stream: RANDOM})
        alone, together = (features(tmp_path / s, stream) for s in ("alone", "together"))
        assert alone.keys() == together.keys() == {"middle", "single"}
        for video in alone:
            np.testing.assert_array_equal(alone[video], together[video])
    assert features(tmp_path / "together", "tsm18:rgb@layer3")["single"].shape == (1, 256, 2, 2)
    assert not np.array_equal(
        features(tmp_path / "together", "tsm18:rgb")["middle"],
        features(tmp_path / "together", "tsm18:tg")["middle"],
    )


@pytest.mark.parametrize("regime", ["window", "snippet"])
def test_the_batch_and_the_threads_change_nothing(
    regime: str, videos: list[Path], tmp_path: Path
) -> None:
    common = ["short_side_px=36", "crop_px=32", "dtype=float32", "window_frames=16"]

    def made(name: str, *settings: str) -> dict[str, NDArray[np.floating]]:
        config = load(overrides=[*common, "clip_stride_frames=8", f"regime={regime}", *settings])
        extract(videos, ["tsm18:tg"], tmp_path / name, config, {"tsm18:tg": RANDOM})
        return features(tmp_path / name, "tsm18:tg")

    base = made("base")
    single = made("single", "batch_frames=1", "num_decoders=1")
    large = made("large", "batch_frames=4096", "num_decoders=3")
    for video in base:
        np.testing.assert_allclose(single[video], base[video], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(large[video], base[video], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("light")
def test_a_second_run_skips_what_is_done_and_adds_what_is_new(
    videos: list[Path], tmp_path: Path
) -> None:
    store, source = tmp_path / "s", {"light:rgb": RANDOM}
    first = extract(videos[:2], ["light:rgb"], store, ExtractConfig(), source)
    assert first.done == ["long", "middle"]
    second = extract(videos, ["light:rgb"], store, ExtractConfig(), source)
    assert (second.skipped, second.done) == (["long", "middle"], ["single"])
    both = ["light:rgb", "light:tg"]
    third = extract(videos, both, store, ExtractConfig(), dict.fromkeys(both, RANDOM))
    assert third.done == ["long", "middle", "single"]
    assert features(store, "light:tg").keys() == features(store, "light:rgb").keys()


@pytest.mark.usefixtures("light")
def test_a_changed_file_is_extracted_again(
    videos: list[Path], tmp_path: Path, write_video: Callable[..., Path]
) -> None:
    store, source = tmp_path / "s", {"light:rgb": RANDOM}
    extract(videos[:1], ["light:rgb"], store, ExtractConfig(), source)
    write_video(videos[0], ramp(20))
    assert extract(videos[:1], ["light:rgb"], store, ExtractConfig(), source).done == ["long"]
    assert len(features(store, "light:rgb")["long"]) == 20


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
    def refuse(self: object, image: object) -> None:
        raise cv2.error("out of\nmemory")

    store, source = tmp_path / "s", {"light:rgb": RANDOM}
    with monkeypatch.context() as patch:
        patch.setattr(prefetch.Fit, "__call__", refuse)
        report = extract(videos[:1], ["light:rgb"], store, ExtractConfig(), source)
    assert report.failed[0].reason == "out of memory"
    assert not extract(videos[:1], ["light:rgb"], store, ExtractConfig(), source).done
    retried = extract(videos[:1], ["light:rgb"], store, ExtractConfig(), source, retry_failed=True)
    assert retried.done == ["long"]


@pytest.mark.usefixtures("light")
def test_features_too_large_for_the_store_fail_their_video_alone(
    videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Light, "maps", lambda self, frames, stage: frames.sum((2, 3, 4)) * 1e9)
    monkeypatch.setattr(Light, "pool", lambda self, maps: maps.unsqueeze(-1))
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


@pytest.mark.usefixtures("light")
def test_a_store_refuses_features_made_otherwise(videos: list[Path], tmp_path: Path) -> None:
    store, source = tmp_path / "s", {"light:rgb": RANDOM}
    extract(videos[2:], ["light:rgb"], store, ExtractConfig(), source)
    with pytest.raises(UserError, match="made with other settings: .*crop_px"):
        extract(videos, ["light:rgb"], store, ExtractConfig(crop_px=64), source)
    with pytest.raises(UserError, match=r"weights\.seed"):
        extract(videos, ["light:rgb"], store, ExtractConfig(), {"light:rgb": Path("random:1")})
    # Length of the runs leaves no trace where the halo suffices, and the batch never does.
    same = ExtractConfig(window_frames=8, batch_frames=1, num_decoders=2)
    assert extract(videos[2:], ["light:rgb"], store, same, source).skipped == ["single"]


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


@pytest.mark.usefixtures("light")
def test_memory_that_does_not_suffice_halves_the_batch(
    videos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"light:rgb": RANDOM}
    config = ExtractConfig(window_frames=8, batch_frames=32)
    extract(videos[:1], ["light:rgb"], tmp_path / "enough", config, source)
    maps = Light.maps

    def small(self: Light, frames: Tensor, stage: str) -> Tensor:
        if frames.shape[0] * frames.shape[1] > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return maps(self, frames, stage)

    monkeypatch.setattr(Light, "maps", small)
    extract(videos[:1], ["light:rgb"], tmp_path / "little", config, source)
    enough, little = (features(tmp_path / name, "light:rgb") for name in ("enough", "little"))
    np.testing.assert_array_equal(enough["long"], little["long"])
    with pytest.raises(UserError, match="16 frames of 96x96 do not fit.*window_frames"):
        config = ExtractConfig(window_frames=16)
        extract(videos[:1], ["light:rgb"], tmp_path / "none", config, source)


def run(*args: object) -> tuple[int, str]:
    ended = CliRunner().invoke(command, [str(arg) for arg in args], standalone_mode=False)
    if ended.exception:
        raise ended.exception
    return ended.return_value, ended.stdout


@pytest.mark.usefixtures("light")
def test_the_command_prints_the_store_and_tells_failures_by_its_exit_code(
    videos: list[Path], tmp_path: Path
) -> None:
    store = tmp_path / "s"
    options = ("--stream", "light:rgb", "--weights", "light:rgb=random:3", "--store", store)
    folder = videos[0].parent
    assert run(folder, *options, "--preset", "e2e96", "--set", "fps=5") == (0, f"{store}\n")
    spec = Store.open(store).stream("light:rgb").spec
    assert (spec.fps, spec.weights["seed"]) == (5, 3)
    assert spec.details["window"] == "whole video"
    (folder / "bad.mp4").write_text("not a video")
    assert run(folder, *options, "--preset", "e2e96", "--set", "fps=5")[0] == 1


@pytest.mark.usefixtures("light")
def test_shards_fill_one_store(videos: list[Path], tmp_path: Path) -> None:
    store = tmp_path / "s"
    options = ("--stream", "light:rgb", "--weights", "light:rgb=random:0", "--store", store)
    for number in (1, 2):
        assert run(videos[0].parent, *options, "--shard", f"{number}/2")[0] == 0
    assert features(store, "light:rgb").keys() == {"long", "middle", "single"}
