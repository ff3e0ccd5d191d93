"""Class scores for an image: counted without weights, and what is no classifier is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jstc.errors import ModelError
from jstc.runs.network_check import num_scores

SHAPE = (3, 8, 8)


class Gives(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.function(x)


def scores(x):
    return x.new_zeros(len(x), 7)


@pytest.mark.parametrize("function", [scores, lambda x: (scores(x), x), lambda x: [scores(x)]])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_scores_are_counted_on_either_device(function, device):
    assert num_scores(Gives(function).to(device), SHAPE) == 7


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: {"a": scores(x), "b": x}, r"the network returned dict \(a: \[2, 7\], b: .*\); expected"),
        (lambda x: x, r"2 images gave \[2, 3, 8, 8\]; expected class scores"),
        (lambda x: scores(x)[:1], r"2 images gave \[1, 7\]"),
        (lambda x: None, "the network returned NoneType"),
    ],
)
def test_what_is_no_classifier_is_refused(function, message):
    with pytest.raises(ModelError, match=message):
        num_scores(Gives(function), SHAPE)


def test_the_network_is_left_as_it_was():
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192), nn.Linear(192, 4)).train()
    before = network[1].num_batches_tracked.clone()
    assert num_scores(network, SHAPE) == 4
    assert network.training and network[1].training
    assert torch.equal(network[1].num_batches_tracked, before)
