"""einsum: channels go by their letters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jstc.channels.rules.products import letters
from jstc.runs.stages.train import count


def conv(inside: int, outside: int, size: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, padding=size // 2, **options)


EQUATIONS = {
    "ij,jk": ([["i", "j"], ["j", "k"]], ["i", "k"]),
    " b i , b j -> i j ": ([["b", "i"], ["b", "j"]], ["i", "j"]),
    "...ij,...jk->...ik": ([[".0", ".1", "i", "j"], [".1", "j", "k"]], [".0", ".1", "i", "k"]),
    "ii->i": ([["i", "i"]], ["i"]),
    "ba": ([["b", "a"]], ["a", "b"]),
    "...a,b": ([[".0", "a"], ["b"]], [".0", "a", "b"]),
}
RANKS = {"...ij,...jk->...ik": (4, 3), "...a,b": (2, 1), "ii->i": (2,), "ba": (2,)}


@pytest.mark.parametrize("equation", EQUATIONS)
def test_letters(equation):
    assert letters(equation, RANKS.get(equation, (2, 2))) == EQUATIONS[equation]


WITH_WEIGHT = {
    "mix": ("nchw,dc->ndhw", (12, 16), 12),
    "batch left out": ("...chw,dc->...dhw", (12, 16), 12),
    "scale": ("nchw,c->nchw", (16,), 16),
    "scale without arrow": ("bcde,c->bcde", (16,), 16),
    "spaces": (" n c h w , c d -> n d h w ", (16, 12), 12),
}


@pytest.mark.parametrize("kind", WITH_WEIGHT)
def test_weights_go_by_their_letters(toy, sandwich, kind):
    equation, shape, last = WITH_WEIGHT[kind]
    net = sandwich(
        toy,
        lambda net, x: torch.einsum(equation, x, net.w),
        w=nn.Parameter(torch.randn(*shape)),
        last=last,
    )
    assert net.widths == {"stem": 16, "w": 12} if last == 12 else {"stem": 16}
    net.require_exact()


def test_implied_output(toy):
    net = toy(
        lambda net, x: net.b(torch.einsum("ab,bc", net.a(x.mean((2, 3))).relu(), net.w)),
        a=nn.Linear(3, 16),
        w=nn.Parameter(torch.randn(16, 12)),
        b=nn.Linear(12, 10),
    )
    assert net.widths == {"a": 16, "w": 12}
    net.require_exact()


def test_bilinear_form_of_three_operands(toy):
    net = toy(
        lambda net, x: torch.einsum("ni,oij,nj->no", net.a(x.mean((2, 3))), net.w, net.b(x.amax((2, 3)))),
        a=nn.Linear(3, 16),
        b=nn.Linear(3, 12),
        w=nn.Parameter(torch.randn(10, 16, 12)),
    )
    assert net.widths == {"a": 16, "b": 12}
    net.require_exact()


def test_letters_that_are_summed_over_in_one_operand(toy, sandwich):
    net = sandwich(toy, lambda net, x: x * torch.einsum("nchw->nhw", x)[:, None])
    assert net.channels.inexact == {"stem": "sum over the channels"}


def test_diagonal(toy, sandwich):
    net = sandwich(
        toy,
        lambda net, x: x * torch.einsum("ii->i", net.w).view(-1, 1, 1),
        w=nn.Parameter(torch.randn(16, 16)),
    )
    assert net.widths == {"stem": 16}
    net.require_exact()


def attention(net, x):
    """Keys of one head for all queries, as in multi-query attention of MobileNetV4."""
    tokens = x.flatten(2).transpose(1, 2)
    q = torch.einsum("bnd,hkd->bnhk", tokens, net.q)
    k = torch.einsum("bmd,dk->bmk", tokens, net.k)
    weights = torch.einsum("bnhk,bmk->bnhm", q, k).softmax(-1)
    o = torch.einsum("bnhm,bmv->bnhv", weights, torch.einsum("bmd,dv->bmv", tokens, net.v))
    return torch.einsum("bnhv,dhv->bdn", o, net.out).unflatten(2, (8, 8))


def test_attention_of_many_queries(toy, sandwich):
    net = sandwich(
        toy,
        attention,
        q=nn.Parameter(torch.randn(4, 6, 16) / 10),
        k=nn.Parameter(torch.randn(16, 6) / 10),
        v=nn.Parameter(torch.randn(16, 5) / 10),
        out=nn.Parameter(torch.randn(12, 4, 5) / 10),
        last=12,
    )
    assert net.widths == {"stem": 16, "q": 4, "q#2": 6, "v": 5, "out": 12}
    net.require_exact()


def test_products_are_counted_as_fvcore_does(toy, sandwich):
    net = sandwich(
        toy,
        lambda net, x: torch.einsum("nchw,dc->ndhw", x, net.w),
        w=nn.Parameter(torch.randn(12, 16)),
        last=12,
    )
    plan = net.plan(0)
    small = net.channels.slice(net.model, plan)
    counted = count(small, net.inputs[0][:1])[0]
    assert net.channels.cost(plan).flops == pytest.approx(counted, rel=1e-3)  # fvcore reads four digits
