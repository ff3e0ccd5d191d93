from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from jstc.recipe.schema import TrainSettings
from jstc.train.job import Job
from jstc.train.recalibration import MOST_IMAGES, recalibrate, recalibrate_trained
from jstc.train.schedule import Schedule


def test_statistics_are_the_average_over_the_images(network: nn.Module, split: Any) -> None:
    network.bn.running_mean.fill_(float("nan"))  # what a diverged training leaves behind
    assert recalibrate(network, split.ordered(16), images=48) == 48
    hidden = network.conv(split.images)
    assert torch.allclose(network.bn.running_mean, hidden.mean((0, 2, 3)), atol=1e-5)
    variances = [part.var((0, 2, 3)) for part in hidden.split(16)]
    assert torch.allclose(network.bn.running_var, torch.stack(variances).mean(0), atol=1e-4)


def test_a_short_last_batch_counts_by_its_images(network: nn.Module, split: Any) -> None:
    recalibrate(network, split.ordered(40), images=48)
    assert torch.allclose(network.bn.running_mean, network.conv(split.images).mean((0, 2, 3)), atol=1e-5)


def test_a_last_image_alone_is_left_out(split: Any) -> None:
    """Of one value a channel torch has no variance, and says so with an error."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(split.images.shape[1]))
    assert recalibrate(network, split.ordered(47), images=48) == 47
    assert torch.isfinite(network[1].running_var).all()


def test_batches_of_one_image_each_all_count(network: nn.Module, split: Any) -> None:
    assert recalibrate(network, split.ordered(1), images=48) == 48
    assert torch.allclose(network.bn.running_mean, network.conv(split.images).mean((0, 2, 3)), atol=1e-5)


def test_nothing_else_changes(network: nn.Module, split: Any) -> None:
    network.bn.momentum = 0.3
    network.train()
    network.conv.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items() if "running" not in name}
    modes, random = [module.training for module in network.modules()], torch.get_rng_state()
    recalibrate(network, split.ordered(16), images=48)
    after = network.state_dict()
    assert all(torch.equal(after[n], t) for n, t in before.items() if "num_batches" not in n)
    assert [module.training for module in network.modules()] == modes
    assert network.bn.momentum == 0.3
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(("images", "used"), [(1, 16), (17, 32), (1000, 48)])
def test_it_stops_when_it_has_seen_enough(network: nn.Module, split: Any, images: int, used: int) -> None:
    assert recalibrate(network, split.ordered(16), images=images) == used


@pytest.mark.parametrize(
    "norm", [nn.Identity(), nn.BatchNorm2d(2, track_running_stats=False), nn.GroupNorm(1, 2)]
)
def test_networks_without_statistics_are_left_alone(norm: nn.Module, split: Any) -> None:
    network = nn.Sequential(norm, nn.Flatten())
    assert recalibrate(network, split.ordered(16), images=48) == 0


def job(network: nn.Module, split: Any, **changes: Any) -> Job:
    settings = TrainSettings(batch_size=16, channels_last=False)
    return Job(network, split, settings, Schedule(0.1, 10), **{"steps_per_epoch": 3, "seed": 0, **changes})


def test_a_trained_network_is_calibrated_on_an_epoch_of_its_images(network: nn.Module, split: Any) -> None:
    network.bn.running_var.fill_(50.0)
    assert recalibrate_trained(network, job(network, split)) == 48
    assert torch.allclose(network.bn.running_mean, network.conv(split.images).mean((0, 2, 3)), atol=1e-5)
    assert network.bn.running_var.max() < 25


def test_a_shortened_epoch_means_fewer_images(network: nn.Module, split: Any) -> None:
    assert recalibrate_trained(network, job(network, split, steps_per_epoch=2)) == 32


@pytest.mark.parametrize("augment", [True, False])
def test_images_are_shuffled_and_augmented_as_they_were_in_training(
    network: nn.Module, split: Any, augment: bool
) -> None:
    asked: list[Any] = []

    class Watched:
        num_images = 3 * MOST_IMAGES

        def shuffled(self, batch_size: int, epoch: Any) -> Any:
            asked.append(epoch)
            yield from split.shuffled(batch_size, epoch)

    many = job(network, Watched(), steps_per_epoch=MOST_IMAGES, augment=augment)
    assert recalibrate_trained(network, many) == 48  # all that there are
    assert [(epoch.number, epoch.start, epoch.augment) for epoch in asked] == [(0, 0, augment)]
