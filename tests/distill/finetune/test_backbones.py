"""Every architecture, inside the loop as in an extraction, and trainable there."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tad_distill.data.store import Store
from tad_distill.distill.finetune.config import BackboneConfig
from tad_distill.distill.finetune.frames import FrameCache
from tad_distill.distill.finetune.network import Backbones
from tad_distill.extract.config import ExtractConfig
from tad_distill.extract.run import extract

NUM_FRAMES = 59


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "v.mp4"
    random = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (32, 32))
    for image in random.integers(0, 256, (NUM_FRAMES, 8, 8, 3), dtype=np.uint8):
        writer.write(cv2.resize(image, (32, 32)))
    writer.release()
    return path


@pytest.mark.parametrize(
    ("stream", "halo", "stage"),
    [
        ("tsm18:rgb", None, "layer1"),
        ("tsm18:tg", 0, None),
        ("i3d:rgb", 16, "mixed_5c"),
        ("slowfast50_4x16:rgb", 8, "layer4"),
    ],
)
def test_features_of_a_part_are_those_of_the_extraction_and_can_be_trained(
    stream: str, halo: int | None, stage: str | None, video: Path, tmp_path: Path
) -> None:
    config = ExtractConfig(
        short_side_px=32, crop_px=32, window_frames=24, halo_frames=halo, dtype="float32"
    )
    extract([video], [stream], tmp_path / "store", config, {stream: Path("random:0")})
    stored = Store.open(tmp_path / "store").stream(stream)
    expected, num_steps = stored.read("v"), stored.entry("v").num_steps
    middle = num_steps // 2
    made = {}
    for again in (False, True):
        settings = BackboneConfig(from_stage=stage, checkpointing=again)
        backbones = Backbones.open([stored], settings, "cpu").train()
        frames = FrameCache(tmp_path / "frames", backbones.extraction)
        frames.fill({"v": video}, stored)
        assert frames.num_frames("v") == NUM_FRAMES
        parts = [("v", 0, middle), ("v", middle - 1, middle + 1), ("v", num_steps - 2, num_steps)]
        found = [part[stream] for part in backbones.features(frames, parts)]
        for feats, (_, first, last) in zip(found, parts, strict=True):
            np.testing.assert_allclose(
                feats.detach().numpy(), expected[first:last], atol=1e-4, rtol=1e-3
            )
        torch.cat(found).square().mean().backward()
        trained = {name: p for name, p in backbones.named_parameters() if p.requires_grad}
        gradients = {name: p.grad for name, p in trained.items() if p.grad is not None}
        assert trained and gradients.keys() == trained.keys()
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        made[again] = gradients
    assert all(torch.equal(made[False][name], made[True][name]) for name in made[False])
