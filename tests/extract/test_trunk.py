"""Streams that share a trunk run it once and are what they would be alone."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tad_distill.console import UsageError, UserError
from tad_distill.data.store import Store
from tad_distill.extract import weights
from tad_distill.extract.backbones import build
from tad_distill.extract.backbones.tsm_mini import TsmMini
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.run import extract

RANDOM = Path("random:0")
CONFIG = ExtractConfig(
    short_side_px=36, crop_px=32, window_frames=16, pool_frames=2, dtype="float32"
)
TRUNK = ["tsm_mini:rgb", "tsm_mini:rgb@layer2", "tsm_mini:rgb+motion", "tsm_mini:rgb.rich"]


@pytest.fixture
def videos(tmp_path: Path, write_video: Callable[..., Path]) -> list[Path]:
    random = np.random.default_rng(0)
    frames = {"long": random.integers(0, 256, (41, 48, 64, 3), dtype=np.uint8)}
    frames["single"] = frames["long"][:1]
    return [write_video(tmp_path / f"{name}.mp4", list(array)) for name, array in frames.items()]


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    """The base's weights, and the same with another last stage."""
    base, _ = weights.prepare("tsm_mini", "rgb", 3, RANDOM)
    other, _ = weights.prepare("tsm_mini", "rgb", 3, Path("random:7"))
    copied = base.state_dict() | {
        key: value for key, value in other.state_dict().items() if key.startswith("layer3.")
    }
    content = {"layout": "tad-distill", "backbone": "tsm_mini", "modality": "rgb"}
    path = tmp_path / "adapter.pt"
    torch.save({**content, "state_dict": copied, "copy": {"name": "motion"}}, path)
    return dict.fromkeys(TRUNK, RANDOM) | {"tsm_mini:rgb+motion": path}


def features(store: Path, stream: str) -> dict[str, NDArray[np.floating]]:
    opened = Store.open(store).stream(stream)
    return {video: opened.read(video) for video in opened.videos}


def test_the_shared_trunk_runs_once_and_changes_nothing(
    videos: list[Path], sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: Counter[str] = Counter()
    advance = TsmMini.advance

    def counted(self: TsmMini, maps: Tensor, stage: str) -> Tensor:
        ran[stage] += 1
        return advance(self, maps, stage)

    for stream in TRUNK:
        extract(videos, [stream], tmp_path / "alone", CONFIG, {stream: sources[stream]})
    monkeypatch.setattr(TsmMini, "advance", counted)
    extract(videos, TRUNK, tmp_path / "together", CONFIG, sources)
    # The specs of maps need a run of their own for the shape: layer1 and layer2, once.
    # The copy's last stage is another one; the rich stream's is the base's.
    assert ran["layer1"] == ran["layer2"] == ran["layer3"] // 2 + 1
    for stream in TRUNK:
        alone, together = (features(tmp_path / name, stream) for name in ("alone", "together"))
        assert alone.keys() == together.keys() == {"long", "single"}
        for video in alone:
            np.testing.assert_array_equal(alone[video], together[video])
    rgb, motion = (features(tmp_path / "together", stream) for stream in TRUNK[::2])
    assert np.abs(rgb["long"] - motion["long"]).max() > 0.01


def test_other_weights_share_nothing(videos: list[Path], tmp_path: Path) -> None:
    sources = {"tsm_mini:rgb": RANDOM, "tsm_mini:rgb.rich": Path("random:1")}
    extract(videos[:1], list(sources), tmp_path / "s", CONFIG, sources)
    mean, rich = (features(tmp_path / "s", stream)["long"] for stream in sources)
    assert not np.allclose(mean, rich[:, : mean.shape[1]])


def test_maps_keep_every_frame_and_go_on_to_the_features(
    videos: list[Path], sources: dict[str, Path], tmp_path: Path
) -> None:
    extract(videos, TRUNK[:2], tmp_path / "s", CONFIG, {name: RANDOM for name in TRUNK[:2]})
    store = Store.open(tmp_path / "s")
    spec = store.stream("tsm_mini:rgb@layer2").spec
    assert (spec.stride_frames, spec.offset_frames, spec.shape) == (1, 0.5, (64, 4, 4))
    maps = features(tmp_path / "s", "tsm_mini:rgb@layer2")["long"]
    assert len(maps) == 41
    backbone, _ = weights.prepare("tsm_mini", "rgb", 3, RANDOM)
    with torch.inference_mode():
        last = backbone.advance(torch.from_numpy(maps).unsqueeze(0), "layer3")
    steps = torch.stack([part.mean(0) for part in backbone.pool(last)[0].split(2)])
    given = features(tmp_path / "s", "tsm_mini:rgb")["long"]
    torch.testing.assert_close(torch.from_numpy(given), steps, rtol=1e-5, atol=1e-5)


def test_the_first_part_of_a_rich_feature_is_the_mean(videos: list[Path], tmp_path: Path) -> None:
    names = ["tsm_mini:rgb", "tsm_mini:rgb.rich"]
    extract(videos, names, tmp_path / "s", CONFIG, dict.fromkeys(names, RANDOM))
    mean, rich = (features(tmp_path / "s", name) for name in names)
    for video in ("long", "single"):
        assert rich[video].shape == (len(mean[video]), 5 * 128)
        np.testing.assert_array_equal(rich[video][:, :128], mean[video])
    store = Store.open(tmp_path / "s")
    specs = [store.stream(name).spec for name in names]
    assert specs[0].hash != specs[1].hash
    assert specs[0].stride_frames == specs[1].stride_frames == 2
    assert "pooling" in specs[1].details and "pooling" not in specs[0].details


def test_a_copy_is_neither_taken_for_the_base_nor_the_base_for_a_copy(
    videos: list[Path], sources: dict[str, Path], tmp_path: Path
) -> None:
    adapter = sources["tsm_mini:rgb+motion"]
    plain = tmp_path / "plain.pt"
    state = build("tsm_mini").state_dict()
    content = {"layout": "tad-distill", "backbone": "tsm_mini", "modality": "rgb"}
    torch.save({**content, "state_dict": state}, plain)
    cases = [
        ("tsm_mini:rgb", adapter, r"holds the copy \+motion of a last stage, wanted is no copy"),
        ("tsm_mini:rgb+labels", adapter, r"holds the copy \+motion .*wanted is the copy \+labels"),
        ("tsm_mini:rgb+motion", plain, r"holds no copy, wanted is the copy \+motion"),
        ("tsm_mini:rgb+motion", RANDOM, "train it with adapt"),
    ]
    for stream, source, message in cases:
        with pytest.raises(UserError, match=message):
            extract(videos, [stream], tmp_path / "s", CONFIG, {stream: source})
    with pytest.raises(UsageError, match="rich pooling looks beyond a clip"):
        snippets = ExtractConfig(regime="snippet")
        extract(videos, ["tsm18:rgb.rich"], tmp_path / "s", snippets, {"tsm18:rgb.rich": RANDOM})
    assert not (tmp_path / "s").exists()
