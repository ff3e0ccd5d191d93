"""The second opinion: fvcore's counts against the cost model's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from jstc.channels import Cost, analyse
from jstc.errors import StageError
from jstc.runs.stages import train


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


IMAGE = torch.zeros(1, 3, 6, 6)


def test_one_multiply_add_is_one_flop():
    flops, params = train.count(nn.Linear(7, 11, bias=False), torch.zeros(1, 7))
    assert (flops, params) == (77, 77)


def test_equal_counts_pass():
    network = Small()
    channels = analyse(network, IMAGE)
    train.require_equal("target", network, IMAGE, channels.cost())
    plan = channels.uniform_plan(flops=0.5)
    train.require_equal("slim", channels.slice(network, plan), IMAGE, channels.cost(plan))


@pytest.mark.parametrize("wrong", [(1, 0), (0, 1)])
def test_any_difference_is_an_error_that_shows_both(wrong):
    network = Small()
    cost = analyse(network, IMAGE).cost()
    shifted = Cost(cost.flops + wrong[0], cost.params + wrong[1])
    with pytest.raises(StageError, match=f"fvcore finds {cost.flops:,} FLOPs and {cost.params:,} parameters"):
        train.require_equal("slim", network, IMAGE, shifted)


class Wrapped(nn.Linear):
    def forward(self, x):
        return SimpleNamespace(logits=super().forward(x), more={"x": x})


def test_outputs_may_be_objects():
    assert train.count(Wrapped(7, 11, bias=False), torch.zeros(1, 7)) == (77, 77)
