"""Where the groups are: parameters in the order of the forward, not in that of the constructor."""

from __future__ import annotations

import torch
from torch import nn

from jstc.channels import analyse


class Reversed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(8, 3)
        self.unused = nn.Linear(2, 2)
        self.first = nn.Linear(4, 8)

    def forward(self, x):
        return self.last(self.first(x).relu())


def test_layers_are_placed_in_the_order_of_the_forward():
    channels = analyse(Reversed(), torch.zeros(1, 4))
    assert [placed.parameter for placed in channels.layout] == [
        "first.weight",
        "first.bias",
        "last.weight",
        "last.bias",
    ]
    first, _, last, _ = channels.layout
    assert (first.layer, first.shape, first.groups) == ("first", (8, 4), (("first",), ()))
    assert last.groups == ((), ("first",))


def test_a_dimension_can_hold_several_groups():
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 8), nn.Linear(14, 3)

        def forward(self, x):
            return self.c(torch.cat([self.a(x), self.b(x)], 1))

    channels = analyse(Joined(), torch.zeros(1, 4))
    assert channels.layout[4].groups == ((), ("a", "b"))


def test_the_share_of_the_parameters_that_can_fall():
    channels = analyse(Reversed(), torch.zeros(1, 4))
    # All but last.bias (3) and the layer that the forward does not use (6).
    assert channels.params_coverage == (32 + 8 + 24) / (32 + 8 + 24 + 3 + 6)
    assert channels.coverage == 1.0


def test_positions_of_a_group_are_counted():
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 8, 1), nn.Linear(8 * 16, 5)

        def forward(self, x):
            return self.fc(self.conv(x).flatten(1))

    channels = analyse(Flat(), torch.zeros(1, 3, 4, 4))
    sizes = {placed.parameter: placed.sizes for placed in channels.layout}
    assert sizes["conv.weight"] == ((8,), (), (), ())
    assert sizes["fc.weight"] == ((), (128,))
