"""A search in a second, whole or in parts: see `tests/helpers/tiny_search.py`."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jstc.channels import ChannelMap, analyse
from jstc.data.base import Dataset
from jstc.jst.round import RoundContext
from jstc.jst.subnetwork import Target
from jstc.plan import Plan
from jstc.recipe.schema import Recipe
from tests.helpers.tiny_search import (
    Run,
    context_of,
    tiny_dataset,
    tiny_network,
    tiny_recipe,
    tiny_search,
    watch,
)


@pytest.fixture
def make_recipe() -> Callable[..., Recipe]:
    return lambda changes=None: tiny_recipe(changes or {})


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """A finished search of a recipe with `changes`. Each is run only once: change no file of it."""
    runs: dict[str, Run] = {}

    def run(changes: dict[str, Any] | None = None) -> Run:
        key = json.dumps(changes or {}, sort_keys=True)
        if key not in runs:
            runs[key] = tiny_search(tmp_path_factory.mktemp("search"), changes)
        return runs[key]

    return run


@pytest.fixture
def run_search() -> Callable[..., Run]:
    return tiny_search


@pytest.fixture
def watched() -> Callable[..., Dataset]:
    return watch


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return tiny_dataset()


@pytest.fixture
def network() -> nn.Module:
    return tiny_network()


@pytest.fixture(scope="session")
def channels() -> ChannelMap:
    return analyse(tiny_network(), torch.zeros(1, 2, 8, 8))


@pytest.fixture
def plan(channels: ChannelMap) -> Plan:
    return channels.random_plan(flops=0.5, seed=3)


@pytest.fixture
def target(channels: ChannelMap, network: nn.Module) -> Target:
    """A target whose gates and optimisers all have a history, different in every channel."""
    target = Target.new(network, channels, tiny_recipe({}).train)
    source = torch.Generator().manual_seed(5)
    for tensor in (target.alpha, target.moments):
        tensor.copy_(torch.rand(tensor.shape, generator=source) + 0.5)
    target.steps.copy_(torch.arange(len(target.steps)) % 7)
    for tensors in target.optimizer.values():
        for tensor in tensors.values():
            tensor.copy_(torch.rand(tensor.shape, generator=source) * 0.01)
    for tensor in (buffer for buffer in network.buffers() if buffer.dim()):
        tensor.copy_(torch.rand(tensor.shape, generator=source) + 0.5)
    return target


@pytest.fixture
def make_context(dataset: Dataset) -> Callable[..., RoundContext]:
    def make(changes: dict[str, Any] | None = None, data: Dataset = dataset) -> RoundContext:
        return context_of(tiny_recipe(changes or {}), data)

    return make


@pytest.fixture
def snapshot() -> Callable[[Target], dict[str, Tensor]]:
    """Copies of every tensor of a target, by name."""

    def take(target: Target) -> dict[str, Tensor]:
        tensors = {f"network.{name}": t for name, t in target.network.state_dict().items()}
        for kind, own in target.optimizer.items():
            tensors |= {f"{kind}.{name}": t for name, t in own.items()}
        gates = {name: getattr(target, name) for name in ("alpha", "moments", "steps", "trained")}
        return copy.deepcopy(tensors | gates)

    return take
