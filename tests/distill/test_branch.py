"""What enters a branch, and its projection."""

import pytest
import torch
from torch import Tensor

from tad_distill.distill import ragged
from tad_distill.distill.branch import BranchInput, Projection

LENGTHS = torch.tensor([[1000], [400]])


def entering() -> tuple[dict[str, Tensor], Tensor]:
    mask = torch.arange(1000) < LENGTHS
    values = torch.randn(2, 1000, 5, generator=torch.Generator().manual_seed(0))
    return {"net:rgb": values * mask.unsqueeze(-1)}, mask


def test_streams_are_joined_in_the_order_given_and_others_ignored() -> None:
    feats = {name: torch.full((1, 2, 3), float(i)) for i, name in enumerate("abc")}
    entrance = BranchInput({"c": 3, "a": 3}, noise=0.0, dropout=0.0)
    mask = torch.tensor([[True, False]])
    assert entrance(feats, mask).tolist() == [[[2.0] * 3 + [0.0] * 3, [0.0] * 6]]


def test_a_channel_that_never_varies_is_only_centred() -> None:
    entrance = BranchInput({"net:rgb": 5}, noise=0.0, dropout=0.0)
    entrance.set_statistics("net:rgb", torch.full((5,), 2.0), torch.tensor([0.0, 1, 1, 1, 1]))
    feats, mask = entering()
    standardised = entrance.standardised(feats, mask)
    torch.testing.assert_close(standardised[mask][:, 0], feats["net:rgb"][mask][:, 0] - 2)


def test_noise_acts_in_training_alone_and_spares_padding() -> None:
    torch.manual_seed(0)
    entrance = BranchInput({"net:rgb": 5}, noise=0.3, dropout=0.0)
    feats, mask = entering()
    noise = (entrance(feats, mask) - feats["net:rgb"])[mask]
    assert noise.std().item() == pytest.approx(0.3, rel=0.05)
    assert noise.mean().item() == pytest.approx(0.0, abs=0.02)
    assert entrance(feats, mask)[~mask].eq(0).all()
    assert torch.equal(entrance.eval()(feats, mask), feats["net:rgb"])


def test_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    entrance = BranchInput({"net:rgb": 5}, noise=0.0, dropout=0.25)
    feats, mask = entering()
    dropped = entrance(feats, mask)[mask].eq(0).float().mean()
    assert dropped.item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(entrance.eval()(feats, mask), feats["net:rgb"])


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@torch.no_grad()
def test_the_projection_is_a_stack_of_convolutions_with_norm_and_relu_between(
    kernel_size: int,
) -> None:
    torch.manual_seed(0)
    phi = Projection(dim_in=5, dim=4, num_layers=2, kernel_size=kernel_size)
    reach = kernel_size // 2

    def conv(feats: Tensor, layer: int) -> Tensor:
        """The layer as torch's convolution with the kernel that its answers to impulses show."""
        module, dim = phi.convs[layer], feats.shape[-1]
        impulses = torch.zeros(dim, 2 * reach + 1, dim)
        impulses[:, reach] = torch.eye(dim)
        bias = module(torch.zeros(1, kernel_size, dim))[0, 0]
        kernel = (module(impulses) - bias).flip(1).permute(2, 0, 1)
        return torch.nn.functional.conv1d(feats.mT, kernel, bias, padding=reach).mT

    for num_steps in (1, 2, 6):
        x = torch.randn(1, num_steps, 5)
        hidden = torch.nn.functional.layer_norm(conv(x, 0), (4,)).relu()
        made = phi(x, torch.ones(1, num_steps, dtype=torch.bool))
        torch.testing.assert_close(made, conv(hidden, 1))


def test_videos_of_other_lengths_are_projected_apart_to_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    phi = Projection(dim_in=5, dim=4, num_layers=2, kernel_size=3)
    mask = torch.arange(90) < torch.tensor([[90], [0], [30]])
    feats = torch.randn(3, 90, 5) * mask.unsqueeze(-1)
    together = phi(feats, mask)
    monkeypatch.setattr("tad_distill.distill.ragged.FIXED_STEPS", 0)
    monkeypatch.setattr("tad_distill.distill.ragged.CALL_STEPS", 0)
    assert len(ragged.groups(mask, 4)) == 3
    torch.testing.assert_close(phi(feats, mask), together, atol=1e-6, rtol=1e-6)
