"""Point-wise operations, broadcasting and reductions: each in a toy network, cut as it is masked."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F


def conv(inside: int, outside: int, size: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, padding=size // 2, **options)


POINTWISE = {
    "in place": lambda net, x: F.relu6(x, inplace=True).add_(1).mul_(2).clamp_(max=9),
    "activations": lambda net, x: F.gelu(F.hardswish(F.elu(F.silu(x)))) + F.leaky_relu(x) * x.tanh(),
    "masked": lambda net, x: x.masked_fill(x < 0.5, 0.25) + torch.where(x > 1, x, 1 - x),
    "like": lambda net, x: x + torch.zeros_like(x).copy_(x),
    "dropout": lambda net, x: F.dropout2d(F.dropout(x, 0.5, net.training), 0.5, net.training),
    "cast": lambda net, x: x.float().to(torch.float64).contiguous().detach(),
    "norm by hand": lambda net, x: (
        (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), keepdim=True) + 1).sqrt()
    ),
    "largest pixel": lambda net, x: (
        x * x.max(3, keepdim=True).values / (1 + x.abs().sum((2, 3), keepdim=True))
    ),
    "space softmax": lambda net, x: x.softmax(-1) * x.log_softmax(2),
    "cumulative space": lambda net, x: x.cumsum(2),
    "one number": lambda net, x: x * net.scale(x.mean((2, 3))).sigmoid()[:, :, None, None],
    "spatial attention": lambda net, x: x * net.map(x).sigmoid(),
}


@pytest.mark.parametrize("kind", POINTWISE)
def test_pointwise_operations_pass_channels_on(toy, sandwich, kind):
    net = sandwich(toy, POINTWISE[kind], scale=nn.Linear(16, 1), map=conv(16, 1))
    assert net.widths == {"stem": 16}
    if kind == "cast":  # half of the digits are lost on the way
        assert net(net.channels.slice(net.model, net.plan(0))).shape == (2, 10)
    else:
        net.require_exact()


BROADCAST = {
    "column": lambda net, x: x * net.p.view(1, -1, 1, 1),
    "image": lambda net, x: x + net.q,
    "addcmul": lambda net, x: torch.addcmul(x, x, net.p[:, None, None]),
    "lerp": lambda net, x: torch.lerp(x, x.sigmoid(), net.p.view(-1, 1, 1)),
    "where": lambda net, x: torch.where(x > 0.5, x, net.p.reshape(1, -1, 1, 1)),
    "larger": lambda net, x: torch.maximum(x, net.p.view(1, -1, 1, 1)),
    "prelu": lambda net, x: net.slopes(x - 1),
    "one slope": lambda net, x: net.slope(x - 1),
}


@pytest.mark.parametrize("kind", BROADCAST)
def test_parameters_of_channels_go_with_them(toy, sandwich, kind):
    net = sandwich(
        toy,
        BROADCAST[kind],
        p=nn.Parameter(torch.rand(16) + 0.5),
        q=nn.Parameter(torch.rand(1, 16, 8, 8)),
        slopes=nn.PReLU(16),
        slope=nn.PReLU(),
    )
    assert net.widths == {"stem": 16}
    net.require_exact()


def test_the_number_of_slopes_is_repaired(toy, sandwich):
    net = sandwich(toy, lambda net, x: net.slopes(x - 1), slopes=nn.PReLU(16))
    small = net.channels.slice(net.model, net.plan(0))
    assert small.slopes.num_parameters == len(small.norm.weight)


@pytest.mark.parametrize("which", ["max", "min", "maximum"])
def test_the_larger_half(toy, sandwich, which):
    net = sandwich(toy, lambda net, x: getattr(torch, which)(*net.a(x).chunk(2, 1)), a=conv(16, 32), last=16)
    assert net.widths == {"stem": 16, "a": 16}
    net.require_exact()


def test_a_residual_sum_ties_its_branches(toy, sandwich):
    net = sandwich(toy, lambda net, x: x + net.b(F.relu(net.a(x))), a=conv(16, 12), b=conv(12, 16))
    assert net.widths == {"stem": 16, "a": 12}
    assert net.channels.groups[0].layers == ("stem", "norm", "a", "b", "head")
    net.require_exact()


def test_a_residual_sum_with_the_input_stays(toy):
    net = toy(
        lambda net, x: net.out((x + net.b(F.relu(net.a(x)))).mean((2, 3))),
        a=conv(3, 8),
        b=conv(8, 3),
        out=nn.Linear(3, 10),
    )
    assert net.widths == {"a": 8}
    assert net.reasons["b", 0] == net.reasons["out", 1] == "network input"
    net.require_exact()


def test_two_inputs(toy):
    images = torch.randn(2, 3, 8, 8).double(), torch.randn(2, 2, 8, 8).double()
    net = toy(
        lambda net, x, y: net.out((net.a(x) + net.b(y)).relu().mean((2, 3))),
        a=conv(3, 8),
        b=conv(2, 8),
        out=nn.Linear(8, 10),
        inputs=images,
    )
    assert net.widths == {"a": 8}
    assert net.reasons["b", 1] == "network input"
    net.require_exact()


def test_several_outputs(toy):
    def forward(net, x):
        hidden = net.a(x).relu()
        return net.out(hidden.mean((2, 3))), {"aux": net.b(hidden)}

    net = toy(forward, a=conv(3, 8), b=conv(8, 4), out=nn.Linear(8, 10))
    assert net.widths == {"a": 8}
    assert net.reasons["b", 0] == net.reasons["out", 0] == "network output"
    net.require_exact()


def test_unused_parameters_stay(toy):
    net = toy(
        lambda net, x: net.b(net.a(x).relu()).mean((2, 3)),
        a=conv(3, 8),
        b=conv(8, 4),
        spare=nn.Linear(8, 10),
        count=nn.BatchNorm2d(5),
    )
    assert net.widths == {"a": 8}
    small = net.channels.slice(net.model, net.plan(0))
    assert small.spare.weight.equal(net.model.spare.weight) and small.count.num_features == 5
    net.require_exact()


INEXACT = {
    "mean": lambda net, x: x + x.mean(1, keepdim=True),
    "amax": lambda net, x: x * net.map(torch.cat([x.mean(1, True), x.amax(1, True)], 1)).sigmoid(),
    "all of it": lambda net, x: x / x.sigmoid().sum(),
    "cumsum": lambda net, x: x.sigmoid().cumsum(1),
}


@pytest.mark.parametrize("kind", INEXACT)
def test_reductions_over_channels_are_cut_but_not_exact(toy, sandwich, kind):
    net = sandwich(toy, INEXACT[kind], map=conv(2, 1))
    assert net.widths == {"stem": 16}
    assert "over the channels" in net.channels.inexact["stem"]
    assert net(net.channels.slice(net.model, net.plan(0))).shape == (2, 10)


def test_softmax_over_channels_holds_them(toy, sandwich):
    net = sandwich(toy, lambda net, x: x.softmax(1))
    assert net.widths == {}
    assert net.reasons["stem", 0] == "softmax over the channels"
