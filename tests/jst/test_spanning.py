"""Channels of a trained network in the order in which they explain what the layers after them miss."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jstc.channels import ChannelMap, analyse
from jstc.core.progress import Silent
from jstc.data import Dataset
from jstc.jst import spanning as spannings
from jstc.jst.spanning import ImageLooks, spanning
from jstc.jst.subnetwork import Target
from jstc.recipe.schema import TrainSettings
from jstc.train import collectives, seeds


class Readers(nn.Module):
    """One group of 6 channels that two layers read; a second of 10 whose positions are read one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.one, self.other = nn.Conv2d(6, 10, 3, padding=1), nn.Conv2d(6, 10, 1)
        self.fc = nn.Linear(10 * 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).relu()
        x = (self.one(x) + self.other(x)).relu()
        return self.fc(F.avg_pool2d(x, 4).flatten(1))


@pytest.fixture
def reading() -> nn.Module:
    with seeds.seeded(0, "readers"):
        return Readers()


def target_of(network: nn.Module) -> Target:
    channels = analyse(network, torch.zeros(1, 2, 8, 8))
    return Target.new(network, channels, TrainSettings())


def found(target: Target, dataset: Dataset, images: int = 60) -> Tensor:
    return spanning(target, ImageLooks(dataset.train, False), images=images, progress=Silent())


def missing(covariance: np.ndarray, cost: np.ndarray, chosen: list[int]) -> float:
    """What errors of the layer's outputs cost when the inputs are fitted by the chosen ones alone."""
    rest = covariance
    if chosen:
        block = covariance[:, chosen]
        rest = covariance - block @ np.linalg.solve(covariance[np.ix_(chosen, chosen)], block.T)
    return float(np.trace(cost @ rest))


def readings(network: Any, dataset: Dataset) -> list[tuple[np.ndarray, np.ndarray]]:
    """Covariance of each reader's inputs [6, 6], and what errors in them cost by the Fisher [6, 6]."""
    images, labels = next(dataset.train.ordered(60, limit=60))
    seen = network.stem(images).relu().detach().requires_grad_()
    outputs = [network.one(seen), network.other(seen)]
    scores = network.fc(F.avg_pool2d((outputs[0] + outputs[1]).relu(), 4).flatten(1))
    gradients = torch.autograd.grad(F.cross_entropy(scores, labels, reduction="sum"), outputs)
    rows = seen.detach().movedim(1, -1).reshape(-1, 6).double().numpy()
    covariance = np.cov(rows.T, bias=True)
    covariance += 1e-3 * covariance.diagonal().mean() * np.eye(6)
    result = []
    for layer, gradient in zip((network.one, network.other), gradients, strict=True):
        slopes = gradient.double().square().sum((0, 2, 3)).numpy()
        taps = layer.weight.detach().double().flatten(2).numpy()
        result.append((covariance, np.einsum("o,oct,odt->cd", slopes, taps, taps)))
    return result


def test_each_channel_explains_most_of_what_is_missing(reading: nn.Module, dataset: Dataset) -> None:
    """Chosen by trying all of them at every step, over both layers that read the group."""
    target, both = target_of(reading), readings(reading, dataset)
    expected = np.zeros(6)
    chosen: list[int] = []
    for _ in range(6):
        before = math.fsum(missing(*each, chosen) for each in both)
        after = {
            c: math.fsum(missing(*each, [*chosen, c]) for each in both) for c in range(6) if c not in chosen
        }
        best = min(after, key=after.__getitem__)
        expected[best] = before - after[best]
        chosen.append(best)
    stem = next(group for group in target.channels.groups if group.width == 6)
    gains = found(target, dataset)[stem.start : stem.start + 6]
    assert gains.argsort(descending=True).tolist() == chosen
    assert gains.tolist() == pytest.approx(expected.tolist(), rel=1e-3)


def test_of_twins_the_second_adds_nothing(reading: Any, dataset: Dataset) -> None:
    with torch.no_grad():
        reading.stem.weight[4] = reading.stem.weight[1]
        reading.stem.bias[4] = reading.stem.bias[1]
    target = target_of(reading)
    stem = next(group for group in target.channels.groups if group.width == 6)
    gains = found(target, dataset)[stem.start : stem.start + 6]
    assert gains.argmin() in (1, 4)
    assert gains[[1, 4]].min() < 0.02 * gains[[1, 4]].max()


def test_groups_that_no_layer_reads_as_they_are_rank_by_norms(reading: nn.Module, dataset: Dataset) -> None:
    target = target_of(reading)
    groups = {group.width: slice(group.start, group.start + group.width) for group in target.channels.groups}
    values, norms = found(target, dataset), target.channels.magnitude(reading)
    [name] = [group.name for group in target.channels.groups if group.width == 10]
    expected = norms[name] * values[groups[6]].mean()
    torch.testing.assert_close(values[groups[10]], expected, rtol=1e-4, atol=0)


class Named(Readers):
    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(input=images).relu()
        x = (self.one(input=x) + self.other(input=x)).relu()
        return self.fc(input=F.avg_pool2d(x, 4).flatten(1))


class InPlace(Readers):
    def forward(self, images: Tensor) -> Tensor:
        images -= 0.0
        return super().forward(images)


@pytest.mark.parametrize("kind", [Named, InPlace])
def test_layers_may_be_called_by_name_and_inputs_changed_in_place(
    kind: type[Readers], reading: nn.Module, dataset: Dataset
) -> None:
    network = kind()
    network.load_state_dict(reading.state_dict())
    assert torch.equal(found(target_of(network), dataset), found(target_of(reading), dataset))


class WithoutGradients(Readers):
    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.stem(images).relu()
        x = (self.one(x) + self.other(x)).relu()
        return self.fc(F.avg_pool2d(x, 4).flatten(1))


def test_groups_behind_which_there_are_no_gradients_rank_by_norms(dataset: Dataset) -> None:
    target = target_of(WithoutGradients())
    norms = target.channels.magnitude(target.network)
    ranked = torch.cat([norms[group.name] for group in target.channels.groups])
    assert torch.allclose(found(target, dataset), ranked)


def test_the_layers_that_read_groups_and_where(channels: ChannelMap, reading: nn.Module) -> None:
    assert {layer: list(groups) for layer, groups in channels.read_by.items()} == {
        "wide": ["stem"], "join": ["wide"], "last": ["stem"], "fc": ["last"]
    }  # fmt: skip
    assert channels.read_by["join"]["wide"].tolist() == list(range(12))
    assert set(target_of(reading).channels.read_by) == {
        "one",
        "other",
    }  # the classifier reads each four times


def test_nothing_of_the_target_changes(target: Target, dataset: Dataset, snapshot: Any) -> None:
    before = snapshot(target)
    values = found(target, dataset)
    after = snapshot(target)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(p.grad is None and p.requires_grad for p in target.network.parameters())
    assert not any(module._forward_hooks for module in target.network.modules())
    assert (values > 0).all()
    assert torch.equal(values, found(target, dataset))


def test_wide_groups_are_ordered_several_channels_at_a_time(
    network: nn.Module, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = target_of(network)
    one_by_one = found(target, dataset)
    monkeypatch.setattr(spannings, "_AT_ONCE", 4)
    together = found(target, dataset)
    for group in target.channels.groups:
        values, exact = (v[group.start : group.start + group.width] for v in (together, one_by_one))
        assert len(set(values.tolist())) == group.width
        assert values.argmax() == exact.argmax()
        assert not torch.allclose(values, exact)
        if group.width == 16:  # of narrower ones the order happens to be the same here
            assert values.argsort().tolist() != exact.argsort().tolist()


def test_processes_share_the_images_and_come_to_the_same(
    network: nn.Module, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes of which each sees half of every batch, without the exchange between them."""
    target = target_of(network)
    sums: list[list[Tensor]] = []
    for world, rank in ((1, 0), (2, 0), (2, 1)):
        with monkeypatch.context() as patch:
            seen: list[Tensor] = []
            patch.setattr(collectives, "world", lambda number=world: number)
            patch.setattr(collectives, "rank", lambda number=rank: number)
            patch.setattr(collectives, "copy_from_first", lambda tensors: None)
            patch.setattr(collectives, "average", lambda tensor, seen=seen: seen.append(tensor.clone()))
            found(target, dataset, images=64)
            sums.append(seen)
    assert len(sums[0]) == 2 * 4
    for whole, first, second in zip(*sums, strict=True):
        torch.testing.assert_close(first + second, whole, rtol=1e-4, atol=1e-6)


def test_no_more_images_are_read_than_asked_for(target: Target, dataset: Dataset) -> None:
    read: list[int] = []

    class Counted:
        num_images = dataset.train.num_images

        def ordered(self, size: int, **options: Any) -> Any:
            for images, labels in dataset.train.ordered(size, **options):
                read.append(len(labels))
                yield images, labels

    found(target, dataclasses.replace(dataset, train=Counted()), images=40)  # type: ignore[arg-type]
    assert read == [32, 8]
