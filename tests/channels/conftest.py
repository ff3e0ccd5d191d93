"""Networks to cut: a zoo of well-known ones, analysed once for all tests, and toys made of a few layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from jstc import models
from jstc.channels import ChannelMap, analyse
from jstc.channels.trace.ids import named_tensors
from jstc.plan import Plan
from jstc.runs.stages.train import count


def relative(a: Any, b: Any) -> float:
    """Largest difference of two outputs (or structures of them), relative to the largest value of `b`."""
    left, right = (
        torch.cat([t.flatten() for t in tree_leaves(tree) if isinstance(t, Tensor)]) for tree in (a, b)
    )
    return float((left - right).abs().max() / right.abs().max())


class Toy(nn.Module):
    """A network made of some layers, and a function of itself and the inputs."""

    def __init__(self, function: Callable[..., Any], layers: dict[str, Any]) -> None:
        super().__init__()
        self._function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs: Any) -> Any:
        return self._function(self, *inputs)


@dataclass(frozen=True)
class Example:
    """A network in float64 and eval mode, its inputs at batch two, and its channels. Nobody changes it."""

    model: nn.Module
    channels: ChannelMap
    inputs: tuple[Any, ...]

    @property
    def widths(self) -> dict[str, int]:
        return self.channels.widths

    @property
    def reasons(self) -> dict[tuple[str, int], str]:
        """Why channels stay, by layer and dimension of its weight."""
        return {(f.layer, f.dim): f.reason for f in self.channels.frozen}

    def __call__(self, network: nn.Module | None = None) -> Any:
        with torch.inference_mode():
            return (network or self.model)(*self.inputs)

    def plan(self, seed: int) -> Plan:
        """At least one channel of each group, and never all."""
        generator = torch.Generator().manual_seed(seed)
        kept = {}
        for name, width in self.widths.items():
            count = int(torch.randint(1, width, (), generator=generator))
            kept[name] = tuple(sorted(torch.randperm(width, generator=generator)[:count].tolist()))
        return Plan(kept, self.widths)

    def cut(self, plan: Plan) -> nn.Module:
        """The slice; it computes what the masked network does, and the mask shows in the output."""
        small = self.channels.slice(self.model, plan)
        masked = copy.deepcopy(self.model)
        self.channels.mask(masked, plan)
        hidden = self(masked)
        assert relative(self(small), hidden) <= 1e-10
        assert relative(self(), hidden) > 1e-4
        return small

    def require_exact(self) -> None:
        for seed in range(3):
            plan = self.plan(seed)
            small = self.cut(plan)
            assert sum(p.numel() for p in small.parameters()) == self.channels.cost(plan).params

    def require_all(self) -> None:
        """A cut is a mask, costs what fvcore counts, can be trained, and goes back to its places."""
        for seed in range(2):
            plan = self.plan(seed)
            small, cost = self.cut(plan), self.channels.cost(plan)
            assert count(small, self.inputs[0][:1]) == (cost.flops, cost.params)
            trained = copy.deepcopy(small).train()
            sum(t.sum() for t in tree_leaves(trained(*self.inputs)) if isinstance(t, Tensor)).backward()
            with torch.no_grad():
                for parameter in trained.parameters():
                    parameter.sub_(0.1 if parameter.grad is None else 0.1 * parameter.grad)
            whole = copy.deepcopy(self.model)
            self.channels.map_back(trained, whole, plan)
            again = dict(named_tensors(self.channels.slice(whole, plan)))
            assert all(torch.equal(tensor, again[name]) for name, tensor in named_tensors(trained))


def _randomise(model: nn.Module) -> nn.Module:
    """Norms, statistics and biases that no two channels share."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
        norm = isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm)
        if norm and module.weight is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
        if isinstance(getattr(module, "bias", None), Tensor):
            nn.init.normal_(module.bias, 0.1, 0.2)
    return model


@cache
def _example(name: str) -> Example:
    plain = name.removeprefix("cifar/")
    size = 32 if plain != name else 64
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        spec = models.spec(plain, num_classes=10, in_channels=3, height=size, width=size)
        model = _vgg() if name == "vgg16_bn" else models.build(spec, seed=0)
        model = _randomise(model).double().eval()
        images = torch.randn(2, 3, size, size, dtype=torch.float64)
    return Example(model, analyse(model, images[:1]), (images,))


def _vgg() -> nn.Module:
    """torchvision's VGG-16 with its 7x7 flatten, but without the 100 million weights behind it."""
    spec = models.spec("vgg16_bn", num_classes=10, in_channels=3, height=224, width=224)
    model: Any = models.build(spec, device="meta").to_empty(device="cpu")
    model.classifier[0], model.classifier[3] = nn.Linear(512 * 49, 96), nn.Linear(96, 64)
    model.classifier[6] = nn.Linear(64, 10)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def example() -> Callable[[str], Example]:
    """A network of the zoo: `cifar/NAME` for images of 32 pixels, else torchvision's for 64."""
    return _example


@pytest.fixture
def toy() -> Callable[..., Example]:
    """`toy(function, layer=..., inputs=...)`: a network that calls `function(self, *inputs)`, analysed."""

    def make(function: Callable[..., Any], *, inputs: Any = None, ignore: Any = (), **layers: Any) -> Example:
        model = _randomise(Toy(function, layers)).double().eval()
        given = (torch.randn(2, 3, 8, 8, dtype=torch.float64),) if inputs is None else inputs
        return Example(model, analyse(model, tuple(x[:1] for x in given), ignore=ignore), given)

    return make


@pytest.fixture(scope="session")
def apart() -> Callable[[Any, Any], float]:
    """Largest difference of two outputs, relative to the second."""
    return relative


@pytest.fixture(autouse=True)
def _same_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield
