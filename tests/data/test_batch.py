"""Padding changes no sample and marks what is not real."""

import pytest
import torch

from tad_distill.data.batch import Sample, collate
from tad_distill.data.timeline import Timeline


def sample(num_steps: int, num_segments: int = 1, labelled: bool = True) -> Sample:
    return Sample(
        video=f"v{num_steps}",
        feats={
            "a": torch.full((num_steps, 3), 1.5, dtype=torch.float16),
            "b": torch.arange(num_steps * 2, dtype=torch.float32).reshape(num_steps, 2),
        },
        segments=torch.rand(num_segments, 2),
        labels=torch.zeros(num_segments, dtype=torch.int64),
        labelled=labelled,
        timeline=Timeline(fps=10, stride_frames=num_steps, offset_frames=0),
    )


def test_batch_holds_each_sample_unchanged_and_zero_beyond_it() -> None:
    samples = [sample(5), sample(2, num_segments=0, labelled=False), sample(1)]
    batch = collate(samples)
    assert batch.mask.tolist() == [[True] * n + [False] * (5 - n) for n in (5, 2, 1)]
    for i, one in enumerate(samples):
        for stream, feats in one.feats.items():
            assert batch.feats[stream].dtype == torch.float32
            assert torch.equal(batch.feats[stream][i, : len(feats)], feats.float())
            assert not batch.feats[stream][i, len(feats) :].any()
        assert torch.equal(batch.segments[i], one.segments)
        assert batch.timelines[i] == one.timeline
    assert batch.segments[1].shape == (0, 2)
    assert batch.labelled.tolist() == [True, False, True]
    assert batch.videos == ["v5", "v2", "v1"]


@pytest.mark.parametrize(
    ("num_steps", "min_len", "multiple", "expected"),
    [(5, 1, 1, 5), (5, 1, 4, 8), (8, 1, 4, 8), (5, 12, 1, 12), (5, 9, 8, 16), (1, 1, 1, 1)],
)
def test_batch_length_is_the_smallest_allowed_one(
    num_steps: int, min_len: int, multiple: int, expected: int
) -> None:
    batch = collate([sample(num_steps)], min_len=min_len, multiple=multiple)
    assert batch.mask.shape == (1, expected)
    assert batch.mask.sum() == num_steps
    assert batch.feats["b"].shape == (1, expected, 2)


def test_moving_a_batch_keeps_what_is_not_a_tensor() -> None:
    batch = collate([sample(3), sample(4)])
    moved = batch.to("cpu")
    assert moved.videos == batch.videos and moved.timelines == batch.timelines
    assert torch.equal(moved.feats["a"], batch.feats["a"])
    meta = batch.to("meta")
    assert meta.mask.is_meta and meta.segments[0].is_meta and meta.feats["b"].is_meta
