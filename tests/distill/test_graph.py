"""Graph blocks against their definition as loops."""

import pytest
import torch
from torch import Tensor

from tad_distill.distill import graph
from tad_distill.distill.graph import GraphBlock, GraphEncoder, gather, nearest


def block() -> GraphBlock:
    torch.manual_seed(0)
    return GraphBlock(6, width=8, groups=2, num_neighbours=3)


def padded(*lengths: int, dim: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    feats = torch.randn(*mask.shape, dim, generator=generator) * mask.unsqueeze(-1)
    return feats, mask


def test_neighbours_are_the_nearest_real_steps() -> None:
    feats, mask = padded(9, 5)
    found = nearest(feats, mask, 3)
    for video, length in enumerate((9, 5)):
        for step in range(length):
            distances = (feats[video, :length] - feats[video, step]).square().sum(-1)
            assert found[video, step].tolist() == distances.argsort()[:3].tolist()
            assert found[video, step, 0] == step
    assert (found[1] < 5).all()


def test_a_video_of_fewer_steps_than_neighbours_repeats_the_nearest() -> None:
    feats, mask = padded(2, 1)
    found = nearest(feats, mask, 3)
    assert found[0].tolist() == [[0, 1, 0], [1, 0, 1]]
    assert found[1].tolist() == [[0, 0, 0], [0, 0, 0]]
    feats, mask = padded(4, 2)
    assert nearest(feats, mask, 3)[1, 0].tolist() == [0, 1, 0]


def test_long_videos_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    feats, mask = padded(50, 23)
    whole = nearest(feats, mask, 4)
    monkeypatch.setattr(graph, "BLOCK", 7)
    assert torch.equal(nearest(feats, mask, 4), whole)


def test_a_block_equals_its_definition() -> None:
    """Per edge: both ends concatenated, three layers, the strongest edge of each step."""
    made = block()
    feats, mask = padded(7)
    found, neighbours = made(feats, mask)
    conv, edge = made.time_conv, made.edge_conv
    time = made.time_in(feats).relu().transpose(1, 2)
    time = torch.conv1d(time, conv.weight, conv.bias, padding=1, groups=2).relu()
    total = made.time_out(time.transpose(1, 2)) + feats
    for step in range(7):
        edges = []
        for neighbour in neighbours[0, step].tolist():
            ends = torch.cat([feats[0, neighbour], feats[0, step]])
            inner = made.edge_in(ends).relu().unsqueeze(-1)
            inner = torch.conv1d(inner, edge.weight, edge.bias, groups=2).relu()
            edges.append(made.edge_out(inner.squeeze(-1)))
        expected = (total[0, step] + torch.stack(edges).amax(0)).relu()
        torch.testing.assert_close(found[0, step], expected, atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing() -> None:
    encoder = GraphEncoder(6, 6, groups=2, blocks=(block(), block()), context="all")
    feats, mask = padded(12, 5)
    together = encoder(feats, mask)
    alone = encoder(feats[1:, :5], mask[1:, :5])
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one[1:, :5], other)
    assert not together[0][1, 5:].any() and not together[1][1, 5:].any()


def test_the_context_is_the_mean_of_the_neighbours_that_were_found() -> None:
    feats, mask = padded(8)
    first, second = block(), block()
    last = GraphEncoder(6, 6, groups=1, blocks=(first, second), context="last")
    _, top, found = last(feats, mask)
    torch.testing.assert_close(found, gather(top, nearest(top, mask, 3)).mean(2))

    every = GraphEncoder(6, 6, groups=1, blocks=(first, second), context="all")
    base, top, found = every(feats, mask)
    embedded = every.embedding(feats).relu()
    index = torch.cat([first(embedded, mask)[1], second(base, mask)[1]], -1)
    assert index.shape == (1, 8, 6)
    torch.testing.assert_close(found, gather(top, index).mean(2))

    assert (
        len(GraphEncoder(6, 6, groups=1, blocks=(first, second), context="none")(*padded(8))) == 2
    )
