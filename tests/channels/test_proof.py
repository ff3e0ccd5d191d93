"""Sizes written into a forward: exactly what can't be cut stays, with a reason, and the rest stays right."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jstc.channels.proof import trial_plan


def conv(inside: int, outside: int, size: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, padding=size // 2, **options)


def sandwich(toy, middle, **layers):
    """`free` (12 channels, offered in any case), `held` (16 channels), something hard-coded, and `out`."""

    def forward(net, x):
        x = F.relu(net.held(F.relu(net.norm(net.free(x)))))
        return net.out(middle(net, x))

    own = {"free": conv(3, 12), "norm": nn.BatchNorm2d(12), "held": conv(12, 16), "out": nn.Linear(16, 10)}
    return toy(forward, **(own | layers))


def pooled(x):
    return x.mean((2, 3))


class StoredWidth(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x):
        if x.shape[1] != self.width:
            raise ValueError(f"expected {self.width} channels")
        return x.sigmoid()


def assertion(net, x):
    assert x.shape[1] == 16, "expected 16 channels"
    return pooled(x)


def late_assertion(net, x):
    width, x = x.shape[1], net.fixed(pooled(x))
    assert width == 16, "expected 16 channels"
    return x


HELD = {
    "literal view": (lambda net, x: x.view(-1, 16 * 64).view(-1, 16, 64).mean(2), "aten.view"),
    "literal reshape": (lambda net, x: x.reshape(-1, 16, 64).mean(2), "aten.reshape"),
    "stored width": (lambda net, x: pooled(net.stored(x)), "expected 16 channels"),
    "assertion": (assertion, "expected 16 channels"),
    "late assertion": (late_assertion, "expected 16 channels"),
    "literal slice": (
        lambda net, x: pooled(torch.cat([x[:, :8].sigmoid(), x[:, 8:]], 1)),
        "taken by their numbers",
    ),
    "literal slice in place": (
        lambda net, x: pooled(x.index_fill(1, torch.arange(3), 2.0)),
        "written to by the numbers",
    ),
    "literal split": (
        lambda net, x: pooled(torch.cat([p.sigmoid() for p in x.split([4, 12], 1)], 1)),
        "taken by their numbers",
    ),
    "split at a literal distance": (
        lambda net, x: pooled(torch.cat([p.cos() for p in x.split([4, x.shape[1] - 4], 1)[::-1]], 1)),
        "taken by their numbers",
    ),
    "half by the shape": (
        lambda net, x: pooled(torch.cat([x[:, : x.shape[1] // 2].cos(), x[:, x.shape[1] // 2 :]], 1)),
        "taken by their numbers",
    ),
    "position": (lambda net, x: pooled(x * torch.linspace(0, 1, x.shape[1]).view(1, -1, 1, 1)), "fixed size"),
    "literal constant": (lambda net, x: pooled(x) + torch.ones(16), "dimension of length 16"),
    "fourier": (lambda net, x: pooled(torch.fft.fft(x, dim=1).real), "a Fourier transform over the channels"),
    "sort": (lambda net, x: pooled(x.sort(1).values), "channels are ordered by their values (sort)"),
    "no rule": (lambda net, x: pooled(x.matrix_exp()), "operation aten.linalg_matrix_exp has no rule"),
    "no rule in a module": (
        lambda net, x: pooled(net.unknown(x)),
        "operation aten.linalg_matrix_exp in unknown has no rule",
    ),
}


class Unknown(nn.Module):
    def forward(self, x):
        return x.matrix_exp()


@pytest.mark.parametrize("kind", HELD)
def test_only_the_channels_at_fault_stay(toy, kind):
    middle, reason = HELD[kind]
    net = sandwich(toy, middle, stored=StoredWidth(16), fixed=nn.Linear(16, 16), unknown=Unknown())
    assert net.widths == {"free": 12} | ({"fixed": 16} if kind == "late assertion" else {})
    assert reason in net.reasons["held", 0] or reason in net.reasons["out", 1]
    assert net.reasons["held", 0]
    net.require_exact()


def test_half_of_a_literal_split_may_still_be_cut(toy):
    def forward(net, x):
        x = F.relu(net.stem(x))
        return pooled(net.first(x[:, :8]) + net.second(x[:, 8:]))

    net = toy(forward, stem=conv(3, 24), first=conv(8, 10), second=conv(16, 10))
    assert list(net.widths.values()) == [16]
    assert "taken by their numbers" in net.reasons["first", 1]
    net.require_exact()


def test_a_reason_names_the_module(toy):
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = conv(12, 16)

        def forward(self, x):
            x = self.inside(x)
            return x.view(len(x), 4, 4, *x.shape[2:]).flatten(1, 2)

    net = toy(
        lambda net, x: pooled(net.out(net.heads(net.stem(x)))),
        stem=conv(3, 12),
        heads=Heads(),
        out=conv(16, 10),
    )
    assert net.widths == {"stem": 12}
    assert net.reasons["heads.inside", 0].startswith("cannot be cut: ")
    assert net.reasons["heads.inside", 0].endswith("(aten.view in heads)")


def test_ignored_modules_stay_with_the_pattern_as_reason(toy):
    layers = {"a": conv(3, 8), "block1": conv(8, 6), "block2": conv(6, 12), "d": conv(12, 10)}
    net = toy(
        lambda net, x: pooled(net.d(net.block2(net.block1(net.a(x))))),
        ignore=["block1*"],
        **layers,
    )
    assert net.widths == {"block2": 12}
    for place in (("a", 0), ("block1", 1), ("block1", 0), ("block2", 1)):
        assert net.reasons[place] == "ignored by the pattern 'block1*'"
    net.require_exact()


def test_many_faults_are_all_found(toy):
    # More of them than the proof takes steps one by one.
    names = [f"conv{i}" for i in range(30)]

    def forward(net, x):
        for name in names:
            x = getattr(net, name)(net.free(x) if name == "conv0" else x)
            assert x.shape[1] == 4
        return pooled(net.out(x))

    layers = {name: conv(4, 4, 1) for name in names}
    net = toy(forward, free=conv(3, 4), out=conv(4, 10), **layers)
    assert "free" in net.widths and not set(net.widths) & set(names)


def test_combined_cuts_that_fail_where_single_ones_do_not(toy):
    def forward(net, x):
        a, b = net.a(x).relu(), net.b(x).relu()
        assert a.shape[1] == 8 or b.shape[1] == 8
        return pooled(net.c(a) + net.d(b))

    net = toy(forward, a=conv(3, 8), b=conv(3, 8), c=conv(8, 10), d=conv(8, 10))
    assert len(net.widths) <= 1  # one of them may stay free, never both
    assert net(net.channels.slice(net.model, net.plan(0))).shape == (2, 10)


def test_trial_cuts_are_neither_full_nor_even_nor_contiguous(example):
    structure = example("mobilenet_v2").channels._structure
    plan = trial_plan(structure)
    for name, count in plan.counts.items():
        assert count % 2 == 1 and 1 < count < plan.widths[name]
    assert any(kept != tuple(range(len(kept))) for kept in plan.kept.values())
    first = structure.groups[0].name
    only = trial_plan(structure, {first})
    assert [n for n, c in only.counts.items() if c < only.widths[n]] == [first]
