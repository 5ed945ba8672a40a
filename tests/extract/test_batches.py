"""Runs of several videos go through the network together; each video is what it would be alone."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from slurm import wait_for
from torch import Tensor

from tad_distill import console
from tad_distill.console import Interrupted
from tad_distill.data.store import Store
from tad_distill.extract.backbones import Backbone
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.decoder import DecoderProcess, VideoBroken
from tad_distill.extract.decoding import Broken
from tad_distill.extract.encoder import Encoder
from tad_distill.extract.loop import MOST_OPEN
from tad_distill.extract.run import extract
from tad_distill.extract.trunk import MOST_WAITING, Trunk

RANDOM, CPU = Path("random:0"), torch.device("cpu")
CLIPS = ExtractConfig(
    short_side_px=36,
    crop_px=32,
    dtype="float32",
    regime="snippet",
    clip_frames=8,
    clip_stride_frames=8,
    batch_frames=64,
)
LENGTHS = (20, 17, 40, 3, 16, 24)


@pytest.fixture
def many(tmp_path: Path, write_video: Callable[..., Path]) -> list[Path]:
    """Videos of LENGTHS frames of noise: 2, 2, 5, 1, 2 and 3 clips of 8."""
    random = np.random.default_rng(0)
    return [
        write_video(
            tmp_path / f"{name}.mp4",
            list(random.integers(0, 256, (length, 40, 48, 3), dtype=np.uint8)),
        )
        for name, length in zip("abcdef", LENGTHS, strict=True)
    ]


@pytest.fixture
def calls(light: type[Backbone], monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Runs and frames of every call of the network ``light``."""
    made: list[tuple[int, int]] = []
    enter = light.enter

    def counted(self: Backbone, frames: Tensor) -> Tensor:
        made.append((frames.shape[0], frames.shape[1]))
        return enter(self, frames)

    monkeypatch.setattr(light, "enter", counted)
    return made


def features(store: Path, stream: str) -> dict[str, NDArray[np.floating]]:
    opened = Store.open(store).stream(stream)
    return {video: opened.read(video) for video in opened.videos}


def test_clips_of_several_videos_fill_a_batch(
    many: list[Path], tmp_path: Path, calls: list[tuple[int, int]]
) -> None:
    report = extract(many, ["light:rgb"], tmp_path / "s", CLIPS, {"light:rgb": RANDOM})
    assert calls == [(8, 8), (7, 8)]
    assert report.done == list("abcdef")


@pytest.mark.parametrize("regime", ["snippet", "window"])
def test_a_video_is_what_it_would_be_alone(regime: Any, many: list[Path], tmp_path: Path) -> None:
    config = ExtractConfig(
        short_side_px=36,
        crop_px=32,
        dtype="float32",
        regime=regime,
        clip_frames=8,
        window_frames=8,
        batch_frames=64,
    )
    streams = ["tsm_mini:rgb", "tsm_mini:tg"]
    sources = dict.fromkeys(streams, RANDOM)
    extract(many, streams, tmp_path / "together", config, sources)
    for path in many:
        extract([path], streams, tmp_path / "alone", config, sources)
    for stream in streams:
        together, alone = (features(tmp_path / name, stream) for name in ("together", "alone"))
        assert together.keys() == alone.keys() == set("abcdef")
        for video, feats in alone.items():
            np.testing.assert_allclose(together[video], feats, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("light")
def test_a_video_that_breaks_off_leaves_its_neighbours_alone(
    many: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = DecoderProcess.decode

    def breaking(self: DecoderProcess, path: Path, *rest: Any) -> Iterator[Any]:
        for item in decode(self, path, *rest):
            if path.stem == "c" and isinstance(item, tuple):
                raise VideoBroken(Broken("it broke off", "where"))
            yield item

    extract(many, ["light:rgb"], tmp_path / "whole", CLIPS, {"light:rgb": RANDOM})
    monkeypatch.setattr(DecoderProcess, "decode", breaking)
    report = extract(many, ["light:rgb"], tmp_path / "s", CLIPS, {"light:rgb": RANDOM})
    assert (report.done, [f.reason for f in report.failed]) == (list("abdef"), ["it broke off"])
    whole, given = (features(tmp_path / name, "light:rgb") for name in ("whole", "s"))
    assert given.keys() == whole.keys() - {"c"}
    for video, feats in given.items():
        np.testing.assert_array_equal(feats, whole[video])


def test_features_that_cannot_be_stored_fail_their_video_alone(
    many: list[Path], tmp_path: Path, light: type[Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    def third_is_bright(self: Backbone, maps: Tensor) -> Tensor:
        means = maps.mean((-2, -1))
        means[4:5] = 1e9  # in the first batch: 2 clips of a, 2 of b, 4 of c
        return means

    monkeypatch.setattr(light, "pool", third_is_bright)
    config = ExtractConfig(**{**vars(CLIPS), "dtype": "float16"})
    report = extract(many[:4], ["light:rgb"], tmp_path / "s", config, {"light:rgb": RANDOM})
    assert report.done == ["a", "b", "d"]
    assert [(f.video, f.reason[:19]) for f in report.failed] == [("c", "a feature is 1e+09,")]


def frames_of(num_frames: int) -> NDArray[np.uint8]:
    return np.full((num_frames, 4, 4, 3), num_frames, np.uint8)


@pytest.mark.usefixtures("light")
def test_what_waits_is_bounded_and_the_longest_waiting_goes_first() -> None:
    config = ExtractConfig(short_side_px=4, crop_px=4, batch_frames=16)
    trunk = Trunk([Encoder("light:rgb", RANDOM, config, CPU)])
    encodings = []
    for num_frames in range(1, 9):  # all of another shape
        encodings.append(trunk.begin())
        encodings[-1].push(frames_of(num_frames))
        encodings[-1].end()
        waiting = [n for n, e in enumerate(encodings, start=1) if not e.is_complete]
        assert sum(waiting) <= MOST_WAITING * 16
        assert waiting == list(range(num_frames - len(waiting) + 1, num_frames + 1))
    trunk.flush()
    for num_frames, encoding in enumerate(encodings, start=1):
        feats = encoding.features()["light:rgb"]
        np.testing.assert_allclose(feats[:, 0], [num_frames / 255] * num_frames, atol=1e-3)


@pytest.mark.usefixtures("light")
def test_a_video_that_waits_holds_up_no_more_than_some_others(
    tmp_path: Path, write_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    num_videos = MOST_OPEN + 3
    still = np.zeros((40, 48, 3), np.uint8)
    paths = [write_video(tmp_path / f"v{i:02}.mp4", [still]) for i in range(num_videos)]
    flushed, flush = [], Trunk.flush

    def told(self: Trunk) -> None:
        flushed.append(self._num_waiting())
        flush(self)

    monkeypatch.setattr(Trunk, "flush", told)
    config = ExtractConfig(batch_frames=1000)
    report = extract(paths, ["light:rgb"], tmp_path / "s", config, {"light:rgb": RANDOM})
    assert flushed[0] == MOST_OPEN and len(report.done) == num_videos


def test_a_signal_is_heard_between_the_stages_of_a_network(
    many: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tad_distill.extract.backbones.tsm_mini import TsmMini

    ran: list[str] = []
    advance = TsmMini.advance

    def signalled(self: TsmMini, maps: Tensor, stage: str) -> Tensor:
        ran.append(stage)
        monkeypatch.setattr(console, "_stop_signal", 15)
        return advance(self, maps, stage)

    monkeypatch.setattr(TsmMini, "advance", signalled)
    with pytest.raises(Interrupted, match="SIGTERM: finished videos are in the store"):
        extract(many[:1], ["tsm_mini:rgb"], tmp_path / "s", CLIPS, {"tsm_mini:rgb": RANDOM})
    assert ran == ["layer1"]


@pytest.mark.parametrize("call", range(2, 15))
def test_what_was_written_before_a_stop_is_in_the_log(
    call: int, many: list[Path], tmp_path: Path, light: type[Backbone], monkeypatch: Any
) -> None:
    numbers, enter, lines = iter(range(100)), light.enter, tmp_path / "lines.jsonl"

    def signalled(self: Backbone, frames: Tensor) -> Tensor:
        if next(numbers) == call:
            monkeypatch.setattr(console, "_stop_signal", 15)
        return enter(self, frames)

    monkeypatch.setattr(light, "enter", signalled)
    one_at_a_time = replace(CLIPS, batch_frames=1)
    arguments = (many, ["light:rgb"], tmp_path / "s", one_at_a_time, {"light:rgb": RANDOM})
    with pytest.raises(Interrupted):
        extract(*arguments, report_file=lines)
    written = list(Store.open(tmp_path / "s").stream("light:rgb").videos)
    assert written
    assert [json.loads(line)["video"] for line in lines.read_text().splitlines()] == written


def test_a_video_is_written_while_a_long_one_is_at_work(
    tmp_path: Path,
    write_video: Callable[..., Path],
    light: type[Backbone],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last run of the first is shorter than any other, and no batch of its like fills."""
    still = np.zeros((40, 48, 3), np.uint8)
    paths = [
        write_video(tmp_path / f"{name}.mp4", [still] * length)
        for name, length in (("short", 20), ("long", 400))
    ]
    enter, written = light.enter, threading.Event()

    def watched(self: Backbone, frames: Tensor) -> Tensor:
        run.append(len(frames))
        if len(run) == 25:  # of 27: nearly all of the long one has been shown
            wait_for(lambda: list((tmp_path / "s").rglob("parts/*/short-*.h5")), 10)
            written.set()
        return enter(self, frames)

    run: list[int] = []
    monkeypatch.setattr(light, "enter", watched)
    config = ExtractConfig(window_frames=16, batch_frames=16)
    report = extract(paths, ["light:rgb"], tmp_path / "s", config, {"light:rgb": RANDOM})
    assert report.done == ["short", "long"] and written.is_set() and len(run) == 27
