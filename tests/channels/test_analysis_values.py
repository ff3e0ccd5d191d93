"""Forwards that hang on values, on random numbers, or on what an earlier forward has left in the network."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import jstc
from jstc.channels import ChannelMap
from jstc.channels.trace.ids import tensors_held
from jstc.channels.trace.memory import duplicate
from jstc.errors import ChannelError
from jstc.plan import Plan


def half(channels: ChannelMap) -> Plan:
    """Every other channel, and of two heads one."""
    return Plan({name: tuple(range(0, width, 2)) for name, width in channels.widths.items()}, channels.widths)


def require_exact(model: nn.Module, channels: ChannelMap, *inputs: Any) -> nn.Module:
    small, masked = channels.slice(model, half(channels)).eval(), duplicate(model).eval()
    channels.mask(masked, half(channels))
    with torch.inference_mode():
        pairs = list(zip(tensors_held(small(*inputs)), tensors_held(masked(*inputs)), strict=True))
    assert pairs
    for cut, expected in pairs:
        assert torch.allclose(cut, expected, rtol=1e-9, atol=1e-12)
    return small


class Chooses(nn.Module):
    """Two layers, and a choice by `how` among the results [N, 6, H, W] of the second."""

    def __init__(self, how: Any) -> None:
        super().__init__()
        self.a, self.b, self.how = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 1), how

    def forward(self, x: Tensor) -> Any:
        y = self.b(F.relu(self.a(x)))
        return self.how(y, y.permute(0, 2, 3, 1).flatten(0, 2))


def by_nms(_: Tensor, points: Tensor) -> Tensor:
    boxes = torch.cat([points[:, :2], points[:, :2] + points[:, 2:4].abs()], 1)
    return points[torchvision.ops.nms(boxes, points[:, 4], 0.3)]


def by_scipy(_: Tensor, points: Tensor) -> Tensor:
    """Through numpy, where no operation passes by."""
    return points[torch.as_tensor(np.argsort(points[:9, 0].numpy())[:4].copy())]


CHOICES = {
    "where": lambda _, points: points[torch.where(points[:, 0] > 0)[0]],
    "nonzero": lambda _, points: points[(points.sum(1) > 0).nonzero()[:, 0]],
    "mask": lambda _, points: points[points[:, 0] > 0],
    "masked_select": lambda _, points: points.masked_select(points > 0.2),
    "unique": lambda _, points: torch.unique((points * 9).long()),
    "nms": by_nms,
    "scipy": by_scipy,
    "if": lambda y, _: y * 2 if y.mean() > 0 else torch.tanh(y).flip(0),
    "tolist": lambda y, _: y if y.mean((0, 2, 3)).tolist()[0] > 0 else y.relu(),
    "while": lambda y, _: sum((y for _ in range(int(y.abs().mean() * 50))), y),
    "equal": lambda y, _: y if torch.equal(y, y.round()) else y.relu(),
}


@pytest.mark.parametrize("how", CHOICES)
@pytest.mark.parametrize("seed", [0, 1])
def test_what_values_decide_is_taken_over(how, seed):
    torch.default_generator.manual_seed(seed)
    model, x = Chooses(CHOICES[how]).double(), torch.randn(1, 3, 8, 8).double()
    channels = jstc.analyse(model, x)
    assert channels.widths == {"a": 8}
    assert channels.unknown_operations == {}
    require_exact(model, channels, x)


class Wide(nn.Module):
    """Goes one way for wide tensors and another for narrow ones."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        if (torch.tensor(x.shape[1]) * 2).item() >= 16:
            x = F.relu(self.b(x))
        return self.c(x)


def test_a_size_is_no_value():
    channels = jstc.analyse(Wide(), torch.randn(1, 3, 4, 4))
    assert set(channels.widths) == {"b"}
    assert any(f.layer == "a" and "cannot be cut" in f.reason for f in channels.frozen)


class Fills(nn.Module):
    """Fills a new tensor part by part, as detectors do with regions of several sizes."""

    def __init__(self, *, literal: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.literal = nn.Linear(3, 8), nn.Linear(8, 4), literal

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        found = y.new_zeros(len(y), 8 if self.literal else y.shape[1])
        for part in (x[:, 0] > 0, x[:, 0] <= 0):
            found[torch.where(part)[0]] = y[part]
        return self.b(found)


def test_a_new_tensor_filled_part_by_part():
    model, x = Fills().double(), torch.randn(6, 3).double()
    channels = jstc.analyse(model, x)
    assert channels.widths == {"a": 8}
    require_exact(model, channels, x)
    assert jstc.analyse(Fills(literal=True), x.float()).groups == ()


# -- torchvision's detectors, whole -----------------------------------------------------------------------


def targets(images: Iterable[Tensor]) -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[4.0, 4.0, 30.0, 40.0], [20.0, 10.0, 60.0, 50.0]])
    return [{"boxes": boxes, "labels": torch.tensor([1, 2])} for _ in images]


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_a_detector_as_a_whole(name):
    size = {"min_size": 64, "max_size": 64} if "faster" in name else {}
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=5, **size)
    images = [torch.rand(3, 64, 64) for _ in range(2)]
    channels = jstc.analyse(
        model, images[:1], also=lambda network: sum(network(images, targets(images)).values())
    )
    assert channels.coverage > 0.99
    assert not any("cannot be cut" in f.reason or "written" in f.reason for f in channels.frozen)
    assert channels.unknown_operations == {}
    small = channels.slice(model, half(channels)).train()
    sum(small(images, targets(images)).values()).backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
    assert len(small.eval()(images)) == 2


# -- random numbers ---------------------------------------------------------------------------------------


class Drops(nn.Module):
    """Drops layers at random while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 12), nn.Linear(12, 4)
        self.layers = nn.ModuleList(nn.Linear(12, 12) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            chance = min(random.random(), np.random.random(), float(torch.rand(())))
            x = x if self.training and chance < 0.2 else x + F.relu(layer(x))
        return self.head(x)


def test_random_numbers_are_drawn_alike_and_given_back():
    model, x = Drops(), torch.randn(2, 8)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    channels = jstc.analyse(model, x, also=lambda network: network(x).square().mean())
    assert channels.widths == {"stem": 12}
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


# -- what an earlier forward has left ---------------------------------------------------------------------


class Hooked(nn.Module):
    """Collects the results of its layers by hooks that its first forward registers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(8, 12), nn.Linear(12, 10), nn.Linear(22, 4)
        self.hooked, self.found = False, []

    def forward(self, x: Tensor) -> Tensor:
        if not self.hooked:
            for layer in (self.a, self.b):
                layer.register_forward_hook(lambda _m, _x, out: _current[0].append(out))
            self.hooked = True
        _current[0] = []
        self.b(F.relu(self.a(x)))
        return self.head(torch.cat(_current[0], -1))


_current: list[list[Tensor]] = [[]]


def test_hooks_that_a_forward_registers():
    fresh, warm = Hooked().double(), Hooked().double()
    x = torch.randn(2, 8).double()
    warm(x)
    for model in (fresh, warm):
        channels = jstc.analyse(model, x)
        assert channels.widths == {"a": 12, "b": 10}
        require_exact(model, channels, x)
    assert not fresh.hooked
    assert not fresh.a._forward_hooks


class Points(nn.Module):
    """Scales its features by the numbers of their positions, which it keeps together with their shape."""

    shape: Any = None
    numbers = torch.empty(0)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.calls = nn.Linear(3, 8), nn.Linear(8, 4), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = F.relu(self.a(x))
        if self.shape != x.shape:
            self.numbers, self.shape = torch.arange(x.shape[1], dtype=x.dtype).view(1, -1, 1), x.shape
        return self.b(x * self.numbers)


@pytest.mark.parametrize("before", [(), (1,), (2,), (1, 3)], ids=str)
def test_positions_kept_from_another_forward(before):
    model = Points().double()
    for batch in before:
        model(torch.randn(batch, 5, 3).double())
    x = torch.randn(1, 5, 3).double()
    kept = model.shape
    channels = jstc.analyse(model, x)
    assert channels.widths == {"a": 8}
    assert (model.shape, model.calls) == (kept, len(before))
    small = require_exact(model, channels, x)
    assert small.calls == len(before) + 1


class Biased(nn.Module):
    """Keeps a bias that it computes from its parameters, whatever comes later."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.raw = nn.Linear(3, 8), nn.Linear(8, 4), nn.Parameter(torch.randn(8))
        self._bias: Any = None

    def forward(self, x: Tensor) -> Tensor:
        if self._bias is None:
            self._bias = self.raw.detach() * 2
        return self.b(F.relu(self.a(x)) + self._bias)


def test_what_a_forward_keeps_is_not_carried_into_a_cut_network():
    model, x = Biased().double(), torch.randn(2, 3).double()
    channels = jstc.analyse(model, x)
    with torch.inference_mode():
        model(x)
    assert model._bias is not None
    small = channels.slice(model, half(channels))
    assert small._bias is None
    assert small(x).shape == (2, 4)
    assert small._bias.shape == (4,)


class Watched(nn.Module):
    """Keeps what it has made on the way, for pictures of it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 4)
        self.map: Any = None
        self.features: list[Any] = []

    def forward(self, x: Tensor) -> Tensor:
        self.features = [self.a(x), {"relu": F.relu(self.a(x))}]
        self.map = self.features[0].tanh()
        return self.b(self.features[1]["relu"])


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_a_forward_in_training_has_kept_is_no_obstacle(when):
    model, x = Watched().double(), torch.randn(2, 3).double()
    if when == "before":
        model(x).sum().backward()
    channels = jstc.analyse(model, x)
    model(x).sum().backward()
    kept = model.map
    assert channels.widths == {"a": 8}
    require_exact(model, channels, x)
    assert model.map is kept and not kept.is_leaf  # the user's own is left alone


class Scaled(Watched):
    """Scales by a tensor that was computed once; in training it also keeps a loss of its own."""

    def __init__(self, *, uses: bool) -> None:
        super().__init__()
        self.scale, self.uses = self.a.weight.sum() * 2, uses

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.aside = self.a(x).square().mean()
        return super().forward(x) * (self.scale if self.uses else 1)


def test_a_weight_computed_before_any_forward_is_refused_where_it_is_used():
    model = Scaled(uses=False)
    model(torch.randn(2, 3)).sum().backward()
    assert jstc.analyse(model, torch.randn(2, 3)).widths == {"a": 8}
    with pytest.raises(ChannelError, match=r"a tensor that was computed from its parameters, 'scale'"):
        jstc.analyse(Scaled(uses=True), torch.randn(2, 3))
