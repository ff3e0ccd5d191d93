"""Kernel positions that see only padding: known from shapes alone, checked with gradients in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from jstc.soundness import unreached


def sees_nothing(network: nn.Sequential, layer: int, size: int) -> torch.Tensor:
    """Positions of the kernel of `network[layer]` whose gradient is zero for images without a zero."""
    network.double()
    images = torch.rand(2, 2, size, size, dtype=torch.float64) + 0.1
    network(images).square().sum().backward()
    gradient = network[layer].weight.grad
    network.zero_grad()
    network.float()
    return gradient.abs().sum((0, 1)) == 0


CONVOLUTIONS = [
    {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    for kernel in (2, 3, 5)
    for stride in (1, 2, 3)
    for padding in (0, 1, 2)
    for dilation in (1, 2, 4)
]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("around", [0, 1])
def test_they_are_those_without_a_gradient(size: int, around: int) -> None:
    torch.manual_seed(0)
    checked, some = 0, 0
    for settings in CONVOLUTIONS:
        network = nn.Sequential(
            nn.ZeroPad2d((around, 0, 0, 2 * around)), nn.Conv2d(2, 3, bias=False, **settings)
        )
        if size + 2 * settings["padding"] + around <= settings["dilation"] * (settings["kernel_size"] - 1):
            continue
        found = unreached(network, (2, size, size))
        expected = sees_nothing(network, 1, size)
        shown = found.positions.get("1.weight", torch.zeros_like(expected))
        assert torch.equal(shown, expected), (settings, shown, expected)
        assert found.weights == 6 * int(expected.sum())
        checked, some = checked + 1, some + bool(expected.any())
    assert checked > 15 and some > 5


def test_a_kernel_on_a_map_of_one_value_uses_its_middle_alone() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1))
    found = unreached(network, (3, 1, 1))
    middle = torch.ones(3, 3, dtype=torch.bool)
    middle[1, 1] = False
    assert all(torch.equal(positions, middle) for positions in found.positions.values())
    assert (found.weights, found.params) == (8 * (12 + 16), 9 * (12 + 16) + 8)
    assert found.to_dict() == {
        "weights": 224,
        "share": 224 / 260,
        "image_size": [1, 1],
        "layers": ["0", "1"],
    }
    assert unreached(network, (3, 4, 4)).to_dict()["layers"] == []


class Shared(nn.Module):
    """One convolution on a map of one value, and on one of nine."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.up = nn.ConvTranspose2d(2, 2, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.up(self.conv(images).mean() + self.conv(functional.interpolate(images, size=(3, 3))))


def test_a_kernel_that_is_used_twice_counts_where_any_use_sees_something() -> None:
    assert not unreached(Shared(), (2, 1, 1)).positions


def test_values_other_than_zero_around_an_image_are_seen() -> None:
    for padding in (nn.ReflectionPad2d(1), nn.ConstantPad2d(1, 0.5), nn.ReplicationPad2d(1)):
        network = nn.Sequential(padding, nn.Conv2d(1, 1, 3))
        assert not unreached(network, (1, 2, 2)).positions
    circular = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"))
    assert not unreached(circular, (1, 2, 2)).positions


def test_the_network_is_left_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout()).train()
    network[1].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert unreached(network, (3, 1, 1)).positions.keys() == {"0.weight"}
    assert [module.training for module in network] == [True, False, True] and network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert unreached(network.to("meta"), (3, 1, 1)).weights == 8 * 12
