"""A network rebuilt from tensors: what was shared is shared, and nothing of it is the original's."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from jstc.channels.cutting.slicing import rebuild
from jstc.channels.trace.ids import named_tensors


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


def copied(module):
    tensors = {name: tensor.detach().clone() for name, tensor in named_tensors(module)}
    return rebuild(module, tensors)


def test_attributes_of_many_kinds_and_what_they_share():
    module = Block().eval()
    found = copied(module)
    assert found.me[0] is found and found.layers[0] is found.conv is found.same is found.by_size[4]
    assert found.alias is found.sizes and found.sizes is not module.sizes and found.names is not module.names
    assert found.head.weight is found.tied.weight and found.table is not module.table
    assert not found.training and found.nested[0][1] is not module.nested[0][1]


def test_hooks_see_the_copy():
    module, seen = Block(), []
    module.conv.register_forward_hook(lambda own, *_: seen.append(own))
    module.register_load_state_dict_post_hook(lambda *_: None)
    found = copied(module)
    found.conv(torch.zeros(1, 3, 2, 2))
    assert seen == [found.conv]


def test_parametrised_modules():
    for module in (parametrizations.weight_norm(nn.Linear(3, 4)), weight_norm_by_hook()):
        found = copied(module)
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
