"""Rounding in float32 is measured, so that a limit catches what it does not explain, and nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from jstc.errors import StageError
from jstc.soundness import ROUNDINGS, Undecided, rounding
from jstc.soundness.rounding import plain_scores

FLOOR = 1e-4


def network(*, variance: float = 1.0, depth: int = 4) -> nn.Sequential:
    """Convolutions and norms; with a small `variance` each norm makes what it gets much larger."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1)]
    for _ in range(depth):
        norm = nn.BatchNorm2d(16, eps=1e-9)
        norm.running_var.fill_(variance)
        layers += [norm, nn.Tanh(), nn.Conv2d(16, 16, 3, padding=1)]
    last = nn.Linear(16, 10)
    last.weight.data.mul_(20)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_of_a_network_with_parameters_of_five_dimensions(images: Tensor) -> None:
    class Volume(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.positions = nn.Conv3d(3, 8, (1, 3, 3)), nn.Parameter(torch.randn(1, 8, 1, 6, 6))

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = (self.conv(x[:, :, None]) + self.positions).relu().mean((2, 3, 4))
            return scores

    assert 0 < rounding(Volume().eval(), images).error < 1e-5


def test_of_an_ordinary_network_it_is_the_last_digits(images: Tensor) -> None:
    found = rounding(network(), images)
    assert 0 < found.error < 16 * 2**-23 * max(1.0, found.largest)
    assert not found.ill_conditioned
    assert found.limit(FLOOR) == FLOOR


def test_an_ill_conditioned_network_is_known_and_its_norm_named(images: Tensor) -> None:
    ill = network(variance=1e-7)
    ill[4].running_var[3] = 1e-8
    found = rounding(ill, images)
    assert found.ill_conditioned and found.error > 1e-4
    assert found.norm == "4"
    assert found.variance == pytest.approx(1e-8, rel=1e-5)
    assert found.gain == pytest.approx((1.1e-8) ** -0.5, rel=1e-2)
    assert found.limit(FLOOR) == ROUNDINGS * found.error
    # What another sound order of the same sums gives is within the limit.
    turned = copy.deepcopy(ill)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        turned[0].weight[:], turned[0].bias[:] = ill[0].weight[order], ill[0].bias[order]
        turned[1].running_mean[:], turned[1].running_var[:] = (
            ill[1].running_mean[order],
            ill[1].running_var[order],
        )
        turned[3].weight[:] = ill[3].weight[:, order]
    apart = (plain_scores(turned, images) - plain_scores(ill, images)).abs().max().item()
    assert FLOOR < apart <= found.limit(FLOOR)


def test_the_limit_follows_large_scores(images: Tensor) -> None:
    loud = network()
    with torch.no_grad():
        loud[-1].weight.mul_(1e5)
    found = rounding(loud, images)
    assert found.limit(FLOOR) == ROUNDINGS * max(found.error, 2**-23 * found.largest) > FLOOR
    assert found.limit(FLOOR) < 1e-5 * found.largest
    assert not found.ill_conditioned


FAULTS = {
    "a bias is lost": lambda net: net[-1].bias.zero_(),
    "a bias has changed a little": lambda net: net[-1].bias[2].add_(3e-4),
    "a constant of a norm is another": lambda net: setattr(net[1], "eps", 1e-2),
    "a weight has changed in its third digit": lambda net: net[3].weight.mul_(1.002),
    "statistics are those of another time": lambda net: net[4].running_mean.add_(0.01),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_real_fault_is_more_than_rounding(images: Tensor, fault: str) -> None:
    sound = network()
    other = copy.deepcopy(sound)
    with torch.no_grad():
        FAULTS[fault](other)
    apart = (plain_scores(other, images) - plain_scores(sound, images)).abs().max().item()
    assert apart > rounding(sound, images).limit(FLOOR)


def test_randomness_is_no_rounding(images: Tensor) -> None:
    class Noisy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3)) + 1e-5 * torch.randn(len(images), 3)

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = torch.zeros(())

        def forward(self, images: Tensor) -> Tensor:
            self.calls.add_(0.001)
            return images.mean((2, 3)) + self.calls

    for one in (Noisy(), Counting()):
        with pytest.raises(
            StageError, match="answers the same images differently when asked again, by up to"
        ):
            rounding(one, images)


def test_a_kernel_that_is_wrong_in_one_layout_is_no_rounding(images: Tensor) -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, images: Tensor) -> Tensor:
            wrong = images.dtype == torch.float32 and not images.is_contiguous()
            return self.body(images) + (0.5 if wrong else 0.0)

    assert rounding(Wrong(), images).limit(FLOOR) == FLOOR


def test_a_forward_that_insists_on_float32_is_compared_with_another_layout(images: Tensor) -> None:
    class Insisting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()
            self.fixed = torch.ones(3, 3, 1, 1) / 3

        def forward(self, images: Tensor) -> Tensor:
            return self.body(nn.functional.conv2d(images, self.fixed))

    found = rounding(Insisting(), images)
    assert found.error < 1e-5 and found.limit(FLOOR) == FLOOR


def test_scores_that_are_no_numbers_are_explained_by_nothing(images: Tensor) -> None:
    broken = network()
    broken[-1].bias.data.fill_(float("nan"))
    found = rounding(broken, images)
    assert found.limit(FLOOR) == FLOOR and not found.ill_conditioned


def test_the_network_is_left_as_it_was(images: Tensor) -> None:
    trained = network().train().to(memory_format=torch.channels_last)
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    rounding(trained, images)
    assert trained.training and trained[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())


def test_images_whose_best_scores_are_as_near_as_rounding_are_counted() -> None:
    scores = torch.tensor([[1.0, 2.0, 2.05], [0.0, 5.0, 1.0], [3.0, 3.0, 0.0], [float("nan")] * 3])
    asked = Undecided(nn.Identity(), within=0.1)
    assert torch.equal(asked(scores)[:3], scores[:3]) and asked.count == 2
    asked(scores[:1])
    assert asked.count == 3
    single = Undecided(nn.Identity(), within=0.1)
    single(torch.ones(4, 1))
    assert single.count == 0
