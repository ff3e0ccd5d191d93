"""Sizes written into a forward: exactly what can't be cut stays, with a reason, and the rest stays right."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jstc.channels import analyse
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


def unpacked(x):
    n, c, h, w = x.shape
    return x.reshape(n, c // 8, 8, h, w).transpose(1, 2).reshape(n, c, h, w)


def written(x):
    made = torch.empty(x.shape[0], 16, 8, 8, dtype=x.dtype)
    made[:, :8], made[:, 8:] = x[:, 8:], x[:, :8]
    return made


def checked(x):
    assert x.shape[1] == 16
    return x


LITERALS = {
    "a view": lambda net, x: x.view(-1, 2, 8, 8, 8).relu().view(-1, 16, 8, 8),
    "a flat view": lambda net, x: x.view(-1, 16 * 64).view(x.shape),
    "a reshape": lambda net, x: x.movedim(1, 3).reshape(-1, 16).cos().reshape(-1, 8, 8, 16).movedim(3, 1),
    "a split": lambda net, x: torch.cat([torch.max(*torch.split(x, 8, 1))] * 2, 1),
    "sizes of a split": lambda net, x: torch.cat([p.cos() for p in torch.split(x, [4, 12], 1)][::-1], 1),
    "a slice": lambda net, x: torch.cat([x[:, :8].cos(), x[:, 8:]], 1),
    "a slice of one": lambda net, x: x + x[:, 3:4],
    "a narrow": lambda net, x: torch.cat([x.narrow(1, 8, 8), x.narrow(1, 0, 8)], 1),
    "numbers": lambda net, x: x[:, list(range(15, -1, -1))],
    "positions": lambda net, x: x + torch.arange(16.0, dtype=x.dtype).view(1, 16, 1, 1),
    "a constant": lambda net, x: x + torch.ones(1, 16, 1, 1, dtype=x.dtype),
    "a plain tensor": lambda net, x: x + net.constant,
    "an expansion": lambda net, x: x * x.new_ones(1, 1, 1, 1).expand(1, 16, 1, 1),
    "an assertion": lambda net, x: checked(x),
    "parts": lambda net, x: torch.stack(x.unbind(1)[::-1], 1),
    "single channels": lambda net, x: torch.stack([x[:, i] for i in range(16)], 1),
    "a norm": lambda net, x: F.layer_norm(x.movedim(1, 3), (16,)).movedim(3, 1),
    "a convolution": lambda net, x: F.conv2d(x, torch.ones(16, 1, 3, 3, dtype=x.dtype), padding=1, groups=16),
    "heads by eight": lambda net, x: unpacked(x),
    "a new tensor": lambda net, x: written(x),
}


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("kind", LITERALS)
def test_a_literal_anywhere_in_a_forward_leaves_the_rest_alone(toy, kind, place):
    """All in one forward, beside attributes that follow, one of them as large as the literal width."""

    def held(net, x, here):
        return net.back(LITERALS[kind](net, net.held(x))) if here == place else x

    def forward(net, x):
        x = torch.max(*torch.split(net.maxout(held(net, x, "first")), net.half, 1))
        x = net.narrow(held(net, net.wide(x).relu(), "middle"))
        x = held(net, x.view(x.shape[0], net.inner, 8, -1), "last").mean((2, 3))
        return net.out(net.query(x).view(-1, net.heads, 3).relu().flatten(1))

    width = {"first": 3, "middle": 24, "last": 20}[place]
    net = toy(
        forward,
        half=16,
        inner=20,
        heads=4,
        maxout=conv(3, 32),
        wide=conv(16, 24),
        narrow=conv(24, 20),
        query=nn.Linear(20, 12),
        out=nn.Linear(12, 10),
        held=conv(width, 16),
        back=conv(16, width),
        constant=torch.ones(1, 16, 1, 1, dtype=torch.float64),
    )
    free = {"maxout": 16, "wide": 24, "narrow": 20, "query": 4}
    assert {name: net.widths.get(name) for name in free} == free
    assert net.reasons["held", 0]


def test_an_attribute_that_is_the_width_of_two_layers_ties_them(toy):
    def forward(net, x):
        x = net.a(x).view(x.shape[0], net.width, -1).relu()
        x = net.b(x.view(x.shape[0], -1, 8, 8)).view(x.shape[0], net.width, -1)
        return net.out(x.relu().mean(2))

    net = toy(forward, width=16, a=conv(3, 16), b=conv(16, 16), out=nn.Linear(16, 10))
    assert net.widths == {"a": 16}
    assert set(net.channels.groups[0].layers) == {"a", "b", "out"}
    net.require_all()


def test_parts_of_one_stored_size_stay_equally_wide(toy):
    def forward(net, x):
        a, b = net.a(x).split((net.half, net.half), 1)
        return pooled(net.out(torch.cat((a, net.b(b)), 1)))

    net = toy(forward, half=8, a=conv(3, 16), b=conv(8, 8), out=conv(16, 10))
    assert net.widths == {"a": 8, "b": 8}
    net.require_all()


def test_a_size_of_one_tensor_that_views_another_ties_them(toy):
    class Reduced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.less, self.out = nn.Conv2d(16, 16, 2, stride=2), nn.Linear(16, 10)

        def forward(self, x):
            n, c = x.shape[:2]
            return self.out(self.less(x.relu()).reshape(n, c, -1).mean(2))

    net = toy(lambda net, x: net.reduced(net.stem(x)), stem=conv(3, 16), reduced=Reduced())
    assert net.widths == {"stem": 16}
    assert set(net.channels.groups[0].layers) == {"stem", "reduced.less", "reduced.out"}
    net.require_all()


def test_a_width_that_views_heads_of_another_width_ties_nothing(toy):
    """It would leave the stem two channels to choose from, one for each head."""

    def forward(net, x):
        x = net.stem(x)
        n, c = x.shape[:2]
        heads = net.query(x).view(n, net.heads, -1, 64)
        scores = (heads.mT @ heads).softmax(-1)
        return pooled(net.out((heads @ scores).view(n, c, 8, 8)))

    net = toy(forward, heads=2, stem=conv(3, 16), query=conv(16, 16), out=conv(16, 10))
    assert 2 not in net.widths.values()


def attention(net, x, factor):
    q, k = (part.view(x.shape[0], net.width, 64) for part in (net.query(x), net.key(x)))
    weights = ((q.mT @ k) * factor).softmax(-1)
    return net.out((weights @ net.value(x).flatten(2).mT).mean(1))


@pytest.mark.parametrize("form", ["by an attribute", "by a literal"])
def test_a_factor_that_hangs_on_a_width_is_told(toy, form):
    """Attention scaled by a stored width of its head: without some of its channels it is another factor."""
    own = form == "by an attribute"
    net = toy(
        lambda net, x: attention(net, net.stem(x), net.width**-0.5 if own else 0.25),
        width=16,
        stem=conv(3, 12),
        query=conv(12, 16),
        key=conv(12, 16),
        value=conv(12, 8),
        out=nn.Linear(8, 10),
    )
    assert net.widths["query"] == 16
    reason = "a factor hangs on the number of channels"
    assert net.channels.inexact == ({"query": reason} if own else {})


FACTORS = {
    "a number": lambda x, width: x / width**0.5,
    "a tensor of a width": lambda x, width: x / torch.sqrt(torch.tensor(width)),
    "a tensor of a fraction": lambda x, width: torch.tensor(width**-0.5) * x,
    "a tensor where the network is": lambda x, width: x / torch.tensor(width, device=x.device).sqrt(),
    "in place": lambda x, width: x.mul_(torch.tensor(width).rsqrt()),
    "a literal": lambda x, width: x / torch.tensor(4.0),
}


@pytest.mark.parametrize("form", FACTORS)
def test_a_factor_is_told_where_no_channels_are_left(toy, form):
    """The correlation of all places with all others has no channels, but was summed over them."""

    def forward(net, x):
        features = net.query(net.stem(x)).flatten(2)
        scores = FACTORS[form](features.mT @ features, features.shape[1])
        return pooled(net.out(scores.cos().view(len(x), 64, 8, 8)))

    net = toy(forward, stem=conv(3, 12), query=conv(12, 16), out=conv(64, 10))
    assert net.widths == {"stem": 12, "query": 16}
    reason = "a factor hangs on the number of channels"
    told = {} if form == "a literal" else {"query": reason}
    assert net.channels.inexact == told
    batch = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    trained = analyse(net.model, batch[:1], also=lambda network: network(batch).square().mean())
    assert trained.inexact == told


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
