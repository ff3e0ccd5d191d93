"""How a network is called: inputs of any form, outputs that are picked, a forward that only training does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import jstc
from jstc.channels import ChannelMap
from jstc.errors import InputError


def exact(model: nn.Module, channels: ChannelMap, *args: Any, pick: Any = None, **kwargs: Any) -> nn.Module:
    """A random slice of a float64 network, which computes what the masked network does."""
    plan = channels.random_plan(flops=0.5, seed=1)
    small, masked = channels.slice(model, plan), copy.deepcopy(model)
    channels.mask(masked, plan)
    with torch.inference_mode():
        cut, expected = small.eval()(*args, **kwargs), masked.eval()(*args, **kwargs)
    cut, expected = (cut, expected) if pick is None else (pick(cut), pick(expected))
    assert torch.allclose(cut, expected, rtol=1e-10)
    return small


# -- inputs ---------------------------------------------------------------------------------------------


class Fused(nn.Module):
    """Adds what two branches see, and a list of dicts of biases."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.depth, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(1, 8, 1), nn.Linear(8, 4)

    def forward(self, image: Tensor, depth: Tensor, *, more: Any = ()) -> Tensor:
        x = self.image(image) + self.depth(depth)
        for each in more:
            x = x * each["scale"]
        return self.head(F.relu(x).mean((2, 3)))


@pytest.mark.parametrize("form", ["tuple", "dict", "both", "nested"])
def test_an_example_of_any_form(form):
    image, depth = torch.randn(1, 3, 4, 4).double(), torch.randn(1, 1, 4, 4).double()
    more = [{"scale": torch.full((1,), 2.0).double()}]
    example = {
        "tuple": (image, depth),
        "dict": {"image": image, "depth": depth},
        "both": ((image,), {"depth": depth}),
        "nested": ((image, depth), {"more": more}),
    }[form]
    model = Fused().double()
    channels = jstc.analyse(model, example)
    assert channels.widths == {"image": 8}
    exact(model, channels, image, depth, more=more)


class OfAList(nn.Module):
    """Takes a list of images [3, H, W], as torchvision's detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, images: list[Tensor]) -> Tensor:
        return self.b(F.relu(self.a(torch.stack(images))))


def test_a_list_is_one_input():
    model, images = OfAList().double(), [torch.randn(3, 4, 4).double()]
    for example in (images, (images,)):
        channels = jstc.analyse(model, example)
        assert channels.widths == {"a": 8}
        exact(model, channels, images)


@pytest.mark.parametrize("example", [None, 3, "x", [], {"x": 1}, {1: torch.zeros(1)}], ids=str)
def test_an_example_without_a_tensor_or_with_nameless_inputs(example):
    with pytest.raises(InputError, match="example: "):
        jstc.analyse(Fused(), example)


# -- outputs --------------------------------------------------------------------------------------------


class TwoResults(nn.Module):
    """Returns its features beside the result."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        features = F.relu(self.b(F.relu(self.a(x))))
        return {"out": self.c(features), "more": {"features": features}}


def test_only_picked_outputs_stay():
    model, x = TwoResults().double(), torch.randn(1, 3, 4, 4).double()
    assert jstc.analyse(model, x).widths == {"a": 8}
    channels = jstc.analyse(model, x, outputs=lambda found: found["out"])
    assert channels.widths == {"a": 8, "b": 6}
    exact(model, channels, x, pick=lambda found: found["out"])


def test_what_is_not_picked_is_computed_and_counted_all_the_same():
    model, x = TwoResults(), torch.randn(1, 3, 4, 4)
    picked = jstc.analyse(model, x, outputs=lambda found: found["more"]["features"])
    assert picked.cost() == jstc.analyse(model, x).cost()
    assert picked.widths == {"a": 8, "c": 4}


# -- what only training does ----------------------------------------------------------------------------


class Denoised(nn.Module):
    """Puts embedded labels before its tokens [N, T, 8] while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.extra, self.head = nn.Linear(8, 12), nn.Embedding(10, 12), nn.Linear(12, 4)
        self.aside = nn.Linear(12, 6)
        self.wide = 0

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.stem(x))
        if self.training:
            x = torch.cat([self.extra(torch.zeros(len(x), 3, dtype=torch.long)), x], 1)
            if self.wide:
                x = x.view(-1, 8, self.wide)
            return self.head(x), self.aside(x)
        return self.head(x)

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        out, aside = self(x)
        return F.cross_entropy(out.flatten(0, 1), labels.flatten()) + aside.square().mean()


def test_what_only_training_uses_is_cut_along():
    model, x = Denoised().double(), torch.randn(1, 5, 8).double()
    batch, labels = torch.randn(2, 5, 8).double(), torch.zeros(2, 8, dtype=torch.long)
    alone = jstc.analyse(model, x)
    channels = jstc.analyse(model, x, also=lambda network: network.loss(batch, labels))
    assert [g.layers for g in channels.groups] == [("stem", "head", "extra", "aside"), ("aside",)]
    assert channels.cost().flops == alone.cost().flops == 5 * (8 * 12 + 12 * 4)
    assert "not used by the forward" not in {f.reason for f in channels.frozen}
    small = exact(model, channels, x).train()
    small.loss(batch, labels).backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        alone.slice(model, alone.uniform_plan(flops=0.5)).train().loss(batch, labels)


def test_what_training_returns_stays():
    model, x = Denoised(), torch.randn(1, 5, 8)
    channels = jstc.analyse(model, x, also=lambda network: network(x.expand(2, 5, 8)))
    assert channels.widths == {"stem": 12}
    assert ("aside", "output in training") in {(f.layer, f.reason) for f in channels.frozen}


def test_what_training_can_not_cut_stays():
    """The number 12 is written into the forward that only training runs."""
    model, x = Denoised(), torch.randn(1, 5, 8)
    batch, labels = torch.randn(2, 5, 8), torch.zeros(2, 8, dtype=torch.long)

    def also(network: Any) -> Tensor:
        network.wide = 12  # at any width of the others
        return network.loss(batch, labels)

    channels = jstc.analyse(model, x, also=also)
    assert "stem" not in channels.widths
    assert any(f.layer == "stem" and "cannot be cut" in f.reason for f in channels.frozen)


def test_the_network_keeps_its_mode_and_its_statistics():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    before = copy.deepcopy(model.state_dict())
    batch = torch.randn(4, 3, 4, 4)

    def also(network: nn.Module) -> Tensor:
        assert network is not model and network.training
        return network(batch).relu().mean()

    channels = jstc.analyse(model, batch[:1], also=also)
    assert channels.widths == {"0": 8}
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
