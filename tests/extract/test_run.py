"""The whole extraction: times, resuming, sharing one decoding pass, the command."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from tad_distill.console import UserError
from tad_distill.data.store import Store
from tad_distill.extract.commands import extract as command
from tad_distill.extract.config import ExtractConfig, load
from tad_distill.extract.decoder import DecoderProcess
from tad_distill.extract.run import extract

RANDOM = Path("random:0")
SMALL = ExtractConfig(short_side_px=36, crop_px=32, window_frames=32, dtype="float32")


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
    decode = DecoderProcess.decode

    def counted(self: DecoderProcess, path: Path, *rest: Any) -> Any:
        opened.append(path)
        return decode(self, path, *rest)

    monkeypatch.setattr(DecoderProcess, "decode", counted)
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
    write_video(videos[0], [np.zeros((48, 64, 3), np.uint8)] * 20)
    assert extract(videos[:1], ["light:rgb"], store, ExtractConfig(), source).done == ["long"]
    assert len(features(store, "light:rgb")["long"]) == 20


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
def test_units_fill_one_store(videos: list[Path], tmp_path: Path) -> None:
    store = tmp_path / "s"
    options = ("--stream", "light:rgb", "--weights", "light:rgb=random:0", "--store", store)
    held = []
    for number in (0, 1):
        unit = ("--units", 2, "--unit", number)
        assert run(videos[0].parent, *options, *unit)[0] == 0
        held.append(features(store, "light:rgb").keys())
    # By duration: 5 s against 4 s and 0.1 s.
    assert held == [{"long"}, {"long", "middle", "single"}]


@pytest.mark.usefixtures("light")
def test_a_plan_counts_what_is_left_and_extracts_nothing(
    videos: list[Path], tmp_path: Path
) -> None:
    store = tmp_path / "s"
    options = ("--stream", "light:rgb", "--weights", "light:rgb=random:0", "--store", store)
    code, text = run(videos[0].parent, *options, "--plan", "--units", 2)
    assert code == 0
    assert text.splitlines()[2].split() == ["light:rgb", "3", "91", "0.0"]
    assert "3 of 3 videos, 91 frames: 0.00 hours" in text
    assert "in 2 units: the longest 0.00 hours, 50 frames" in text
    assert not Store.open(store).stream("light:rgb").videos
    assert run(videos[0].parent, *options, "--units", 2, "--unit", 0)[0] == 0
    code, text = run(videos[0].parent, *options, "--plan")
    assert text.splitlines()[2].split() == ["light:rgb", "2", "41", "0.0"]
    assert run(videos[0].parent, *options, "--units", 2, "--unit", 1)[0] == 0
    assert "nothing is left to extract" in run(videos[0].parent, *options, "--plan")[1]
