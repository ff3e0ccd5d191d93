"""Values that stop an emission, and those of sound networks, which never do."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from jstc import models
from jstc.errors import StageError
from jstc.soundness import require_sane, unreached

SHAPE = (3, 2, 2)


class Net(nn.Module):
    """A stem, a convolution on a map of one value, a mask of infinities, and a list of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.fc = nn.Linear(8, 4)
        self.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))
        self.register_buffer("shift", torch.zeros(4))
        self.register_buffer("order", torch.arange(4))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.deep(self.norm(self.stem(images)).relu()).mean((2, 3))) + self.shift


@pytest.fixture
def initial() -> Net:
    torch.manual_seed(0)
    return Net()


def refusal(initial: Net, change: Callable[[Net], object]) -> StageError:
    network = copy.deepcopy(initial)
    with torch.no_grad():
        change(network)
    reach = unreached(copy.deepcopy(initial), SHAPE)
    with pytest.raises(StageError) as caught:
        require_sane(network, initial=initial, unreached=reach, what="the slim network")
    assert caught.value.exit_code == 1
    return caught.value


GARBAGE = {
    "no number": (lambda net: net.fc.weight[1, 2].fill_(float("nan")), "fc.weight: 1 of 32 values are"),
    "infinite": (lambda net: net.fc.bias.fill_(float("inf")), "fc.bias: 4 of 4 values are infinite or no"),
    "absurd": (lambda net: net.stem.weight[0, 0, 0, 1].fill_(1e33), "stem.weight: 1 of 216 values are above"),
    "just absurd": (lambda net: net.fc.weight[0, 0].fill_(2e7), "the largest is 2e+07"),
    "a variance": (lambda net: net.norm.running_var[0].fill_(1e15), "norm.running_var: 1 of 8 values"),
    "a mean": (lambda net: net.norm.running_mean[0].fill_(-1e9), "norm.running_mean: 1 of 8 values"),
    "no variance": (lambda net: net.norm.running_var.fill_(float("nan")), "norm.running_var: 8 of 8"),
    "a buffer": (lambda net: net.shift.fill_(float("inf")), "shift: 4 of 4 values are infinite"),
}  # fmt: skip


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_is_named_with_its_tensor_and_values(initial: Net, kind: str) -> None:
    change, told = GARBAGE[kind]
    error = refusal(initial, change)
    assert len(error.details) == 1
    assert told in error.details[0]
    assert "jstc doctor" in error.advice and "train.precision=float32" in error.advice
    assert error.problem == "the slim network holds values that no sound training leaves"


def test_a_weight_that_only_padding_meets_may_not_have_grown(initial: Net) -> None:
    def grown(net: Net) -> None:
        net.deep.weight[3, 2, 0, 0] = 1.5  # no size that would be odd elsewhere

    [told] = refusal(initial, grown).details
    assert told.startswith("deep.weight: 8 of the 9 positions of its kernel see only padding")
    assert "hold up to 1.5; 0.11" in told
    network = copy.deepcopy(initial)
    with torch.no_grad():
        network.deep.weight *= 0.3  # decayed
        network.deep.weight[3, 2, 1, 1] = 1.5  # where images are seen
    reach = unreached(copy.deepcopy(initial), SHAPE)
    require_sane(network, initial=initial, unreached=reach)


def test_of_many_tensors_the_first_are_named_and_the_others_counted(initial: Net) -> None:
    def spoilt(net: Net) -> None:
        for parameter in net.parameters():
            parameter.fill_(float("nan"))

    error = refusal(initial, spoilt)
    assert error.details[-1] == "and 2 more"
    assert len(error.details) == 6


def test_large_values_that_training_gives_are_sound(initial: Net) -> None:
    network = copy.deepcopy(initial)
    with torch.no_grad():
        network.norm.running_var[:] = torch.tensor([1e-40, 0, 1e-7, 1, 4e3, 1e6, 1e9, 1e12])
        network.norm.running_mean[:4] = torch.tensor([-6e4, 3e5, 1e6, 0])
        network.norm.weight[:3] = torch.tensor([0, -80, 300])
        network.fc.weight[0, 0] = 5e4
        network.stem.weight[1] = 0
    require_sane(network, initial=initial)


def test_what_is_large_is_said_by_the_networks_own_scale(initial: Net) -> None:
    network = copy.deepcopy(initial)
    for parameter in network.parameters():
        parameter.data.mul_(1e6)
    network.fc.weight.data[0, 0] = 2e7
    require_sane(network, initial=initial)
    for parameter in network.parameters():
        parameter.data.zero_()
    require_sane(network, initial=initial)


def test_constants_are_their_authors_own_masks_of_infinities_too(initial: Net) -> None:
    require_sane(initial, initial=copy.deepcopy(initial))
    scaled = copy.deepcopy(initial)
    scaled.norm.weight.data.fill_(1e9)
    with pytest.raises(StageError):
        require_sane(scaled, initial=scaled)
    scaled.norm.weight.requires_grad_(False)  # a constant of its author's
    require_sane(scaled, initial=scaled)
    other = copy.deepcopy(initial)
    other.mask.zero_()
    with pytest.raises(StageError) as caught:
        require_sane(initial, initial=other)
    assert [line.split(":")[0] for line in caught.value.details] == ["mask"]


@pytest.mark.parametrize(
    "name", ["resnet20", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "mnasnet0_5"]
)
def test_networks_as_they_are_initialised_are_sound(name: str) -> None:
    spec = models.spec(name, num_classes=10, in_channels=3, height=32, width=32)
    network = models.build(spec, seed=0)
    require_sane(network, initial=network, unreached=unreached(network, (3, 32, 32)))
