"""Copies of modules are those of `copy.deepcopy`."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from jstc import models
from jstc.channels.cutting.slicing import copied


class Block(nn.Module):
    """Attributes of many kinds, some of them shared."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.same = self.conv
        self.layers = [self.conv, nn.ReLU()]  # not registered
        self.by_size = {4: self.conv, (1, 2): "pair"}
        self.sizes, self.names = [1, 2, 3], {"a", "b"}
        self.alias, self.nothing = self.sizes, OrderedDict()
        self.nested = ((1, [2]), torch.float32, torch.device("cpu"))
        self.tied = nn.Linear(4, 4)
        self.tied.weight = nn.Parameter(self.conv.weight.detach().view(4, 3)[:, :1])
        self.head = nn.Linear(1, 4)
        self.head.weight = self.tied.weight
        self.me = [self]
        self.register_buffer("table", torch.arange(4), persistent=False)


def both(module):
    """The copy of `copy.deepcopy`, the copy, and what each made of which object."""
    by_python, by_us = {}, {}
    return copy.deepcopy(module, by_python), copied(module, by_us), by_python, by_us


def require_alike(a, b, module, seen):
    """The same attributes, all the way down, with the same objects shared, and nothing of the original."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert (a.is_meta or torch.equal(a, b)) and a.requires_grad == b.requires_grad
    known = seen.setdefault(id(a), b)
    if isinstance(a, nn.Module | torch.Tensor | list | dict | set):
        assert known is b, "shared in one copy, not in the other"
    if known is not b or (id(a), "done") in seen:
        return
    seen[id(a), "done"] = a
    if isinstance(a, nn.Module):
        assert list(vars(a)) == list(vars(b)) and b not in seen["original"]
        for name in vars(a):
            require_alike(vars(a)[name], vars(b)[name], module, seen)
    elif isinstance(a, dict):
        for (key, x), (other, y) in zip(a.items(), b.items(), strict=True):
            require_alike(key, other, module, seen)
            require_alike(x, y, module, seen)
    elif isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            require_alike(x, y, module, seen)
    elif not isinstance(a, torch.Tensor) and type(a).__eq__ is not object.__eq__:
        assert a == b


def check(module):
    expected, found, *_ = both(module)
    require_alike(expected, found, module, {"original": set(module.modules())})
    return found


def test_attributes_of_many_kinds_and_what_they_share():
    module = Block().eval()
    found = check(module)
    assert found.me[0] is found and found.layers[0] is found.conv is found.same is found.by_size[4]
    assert found.alias is found.sizes and found.sizes is not module.sizes and found.names is not module.names
    assert found.head.weight is found.tied.weight and found.table is not module.table
    assert not found.training and found.nested[0][1] is not module.nested[0][1]


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "swin_t", "squeezenet1_0"])
def test_networks(name):
    check(models.build(models.spec(name, num_classes=10, in_channels=3, height=64, width=64), device="meta"))


def test_hooks_see_the_copy():
    module, seen = Block(), []
    module.conv.register_forward_hook(lambda own, *_: seen.append(own))
    module.register_load_state_dict_post_hook(lambda *_: None)
    found = check(module)
    found.conv(torch.zeros(1, 3, 2, 2))
    assert seen == [found.conv]


def test_parametrised_modules():
    for module in (parametrizations.weight_norm(nn.Linear(3, 4)), weight_norm_by_hook()):
        found = copied(module, {})
        x = torch.randn(2, 3)
        assert torch.equal(found(x), module(x))
        found.bias.data.add_(1)
        assert not torch.equal(found(x), module(x))


def weight_norm_by_hook():
    with pytest.warns(FutureWarning):
        module = weight_norm(nn.Linear(3, 4))
    with torch.no_grad():
        module(torch.zeros(1, 3))  # makes `weight` a tensor without a graph, which can be copied
    return module


def test_what_stands_for_something_in_the_copy():
    module = Block()
    weight, inner = nn.Parameter(torch.zeros(2, 2)), nn.ReLU()
    memo = {id(module.conv.weight): weight, id(module.tied): inner}
    found = copied(module, memo)
    assert found.conv.weight is weight and found.tied is inner
    assert memo[id(module)] is found and memo[id(module.conv)] is found.conv


class OwnCopy(nn.Module):
    def __deepcopy__(self, memo):
        return "copied by itself"


class OwnState(nn.Module):
    def __getstate__(self):
        return {**super().__getstate__(), "secret": 1}

    def __setstate__(self, state):
        super().__setstate__({**state, "restored": state.pop("secret")})


class RestoresOnly(nn.Module):
    def __setstate__(self, state):
        super().__setstate__(state)
        self.restored = 1


def test_classes_that_say_themselves_how_they_are_copied():
    outer = nn.Sequential(OwnState(), RestoresOnly())
    outer.own = OwnCopy
    found = copied(outer, {})
    assert [m.restored for m in found] == [1, 1]
    holder = nn.Module()
    holder._modules["inner"] = OwnCopy()
    assert copied(holder, {}).inner == "copied by itself"
    single = nn.ReLU()
    single.__deepcopy__ = lambda memo: "by the instance"
    assert copied(single, {}) == copy.deepcopy(single) == "by the instance"
