"""Scans, orders, gated halves, and weights that are normalised before use."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F


def conv(inside: int, outside: int, size: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, padding=size // 2, **options)


EXACT = {
    "cumulative space": lambda net, x: x.cumprod(2) + x.cummax(3).values + x.logcumsumexp(2),
    "ordered space": lambda net, x: x.sort(2).values + x.topk(8, 3)[0] + x.median(3, keepdim=True).values,
    "third of a row": lambda net, x: x * x.kthvalue(3, 2)[0][:, :, None],
    "normalised space": lambda net, x: F.normalize(x, dim=2) + F.normalize(x.flatten(2), dim=-1).view_as(x),
    "in place": lambda net, x: F.gelu(x.clone().abs_()).lt(0.5) * x,
    "largest place": lambda net, x: x * (x.flatten(2).argmax(2)[:, :, None, None] > 20),
}


@pytest.mark.parametrize("kind", EXACT)
def test_over_space(toy, sandwich, kind):
    net = sandwich(toy, EXACT[kind])
    assert net.widths == {"stem": 16}
    net.require_exact()


@pytest.mark.parametrize("dim", [1, -3])
def test_gated_halves(toy, sandwich, dim):
    net = sandwich(toy, lambda net, x: F.glu(net.a(x), dim), a=conv(16, 24), last=12)
    assert net.widths == {"stem": 16, "a": 12}
    net.require_exact()


HELD = {
    "sort": (lambda x: x.sort(1).values, "channels are ordered by their values (sort)"),
    "topk": (lambda x: x.topk(16, 1).values, "channels are ordered by their values (topk)"),
    "median": (
        lambda x: x * x.median(1, keepdim=True).values,
        "channels are ordered by their values (median)",
    ),
    "number": (
        lambda x: x * x.argmax(1, keepdim=True),
        "the number of the largest or smallest channel is taken",
    ),
}


@pytest.mark.parametrize("kind", HELD)
def test_orders_over_channels_hold_them(toy, sandwich, kind):
    function, reason = HELD[kind]
    net = sandwich(toy, lambda net, x: function(x))
    assert net.widths == {}
    assert net.reasons["stem", 0] == reason


INEXACT = {
    "cumprod": lambda x: x.sigmoid().cumprod(1),
    "cummax": lambda x: x.cummax(1).values,
    "renorm": lambda x: x.renorm(2, 0, 1.0),
    "normalize": F.normalize,
    "distance": lambda x: x * torch.cdist(x.mean((2, 3))[:, None], x.amax((2, 3))[:, None])[..., None],
    "cosine": lambda x: x * F.cosine_similarity(x, x.tanh(), dim=1)[:, None],
}  # fmt: skip


@pytest.mark.parametrize("kind", INEXACT)
def test_what_depends_on_all_channels_is_not_exact(toy, sandwich, kind):
    net = sandwich(toy, lambda net, x: INEXACT[kind](x))
    assert net.widths == {"stem": 16}
    assert "over the channels" in net.channels.inexact["stem"]
    assert net(net.channels.slice(net.model, net.plan(0))).shape == (2, 10)


def test_weight_norm(toy, sandwich):
    normed = nn.utils.parametrizations.weight_norm(conv(16, 12))
    net = sandwich(toy, lambda net, x: net.normed(x), normed=normed, last=12)
    assert sorted(net.widths.values()) == [12, 16]
    assert list(net.channels.inexact.values()) == ["weight_norm over the channels"]
    assert net(net.channels.slice(net.model, net.plan(0))).shape == (2, 10)


def test_spectral_norm(toy):
    normed = nn.utils.parametrizations.spectral_norm(nn.Linear(16, 12))
    net = toy(
        lambda net, x: net.out(net.normed(net.stem(x).mean((2, 3)))),
        stem=conv(3, 16),
        normed=normed,
        out=nn.Linear(12, 10),
    )
    assert sorted(net.widths.values()) == [12, 16]
    assert not net.channels.unknown_operations
    assert net(net.channels.slice(net.model, net.plan(0))).shape == (2, 10)
