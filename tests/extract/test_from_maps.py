"""Features from cached maps are those from the frames, for every architecture with stages."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tad_distill.console import UsageError
from tad_distill.data.store import Store, Stream
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.encoder import Encoder
from tad_distill.extract.from_maps import FromMaps
from tad_distill.extract.trunk import Trunk

CPU, RANDOM = torch.device("cpu"), Path("random:0")


def config(**settings: object) -> ExtractConfig:
    given = {"short_side_px": 32, "crop_px": 32, "dtype": "float32", "window_frames": 64}
    return ExtractConfig(**given | settings)  # type: ignore[arg-type]


def both(
    backbone: str, extraction: ExtractConfig, num_frames: int, folder: Path
) -> tuple[list[Encoder], Stream, dict[str, NDArray[np.floating]]]:
    """Encoders of the pooled streams, the maps in a store, and the features from the frames."""
    stage = Encoder(f"{backbone}:rgb", RANDOM, extraction, CPU).backbone.stages[-2]
    names = [f"{backbone}:rgb", f"{backbone}:rgb.rich", f"{backbone}:rgb@{stage}"]
    encoders = [Encoder(name, RANDOM, extraction, CPU) for name in names]
    encoding = Trunk(encoders).begin()
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, 32, 32, 3), dtype=np.uint8)
    encoding.push(frames)
    made = encoding.finish()
    stream = Store.create(folder).create_stream(encoders[2].spec)
    writer = stream.writer("all")
    writer.commit("v", made[names[2]], fps=10, duration_s=num_frames / 10, source_hash="s")
    return encoders[:2], stream, made


@pytest.mark.parametrize(
    ("backbone", "num_frames", "settings"),
    [
        ("tsm_mini", 1, {}),
        ("tsm_mini", 75, {"pool_frames": 2, "window_frames": 16}),
        ("tsm_mini", 75, {"pool_frames": 4, "window_frames": 16, "halo_frames": 0}),
        ("tsm18", 40, {"window_frames": 16}),
        ("i3d", 75, {"window_frames": 32}),
        ("i3d", 30, {"pool_frames": 16, "window_frames": 16}),
        ("slowfast50_8x8", 22, {}),
        ("slowfast50_4x16", 32, {"pool_frames": 8}),
    ],
)
def test_features_from_maps_are_those_from_the_frames(
    backbone: str, num_frames: int, settings: dict[str, object], tmp_path: Path
) -> None:
    encoders, maps, made = both(backbone, config(**settings), num_frames, tmp_path / "s")
    given = FromMaps(encoders, maps.spec).features(maps, "v")
    for encoder, feats in zip(encoders, given, strict=True):
        expected = made[encoder.spec.stream]
        assert feats.shape == expected.shape
        np.testing.assert_allclose(feats, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_a_map_of_more_frames_than_a_step_may_give_one_step_more(tmp_path: Path) -> None:
    encoders, maps, made = both("slowfast50_4x16", config(), 12, tmp_path / "s")
    (feats, _) = FromMaps(encoders, maps.spec).features(maps, "v")
    expected = made["slowfast50_4x16:rgb"]
    assert (len(feats), len(expected)) == (4, 3)
    np.testing.assert_allclose(feats[:3], expected, rtol=1e-4, atol=1e-4)


def test_maps_of_clips_are_refused(tmp_path: Path) -> None:
    snippets = config(regime="snippet", clip_frames=8)
    encoder = Encoder("tsm_mini:rgb", RANDOM, snippets, CPU)
    maps = Encoder("tsm_mini:rgb@layer2", RANDOM, snippets, CPU).spec
    with pytest.raises(UsageError, match="averaged over each clip.*regime=window"):
        FromMaps([encoder], maps)
