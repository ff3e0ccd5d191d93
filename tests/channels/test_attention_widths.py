"""Attention that takes its widths from stored numbers and from the shape of its input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jstc.plan import Plan


class Looks(nn.Module):
    """Attention over the positions of a map [N, C, H, W]; keys are half as wide as values."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, channels // heads
        self.key_dim = self.head_dim // 2
        self.all = nn.Conv2d(channels, 2 * channels, 1)
        self.near = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        made = self.all(x).view(n, self.num_heads, 2 * self.key_dim + self.head_dim, height * width)
        q, k, v = made.split([self.key_dim, self.key_dim, self.head_dim], dim=2)
        weights = (q.transpose(2, 3) @ k * 0.2).softmax(-1)
        found = (v @ weights.transpose(2, 3)).view(n, channels, height, width)
        return self.out(found + self.near(v.reshape(n, channels, height, width)))


class Halves(nn.Module):
    """Leaves one half of its channels as it is, by a stored width, and adds to the other what it sees."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.into, self.outof = nn.Conv2d(3, 2 * width, 1), nn.Conv2d(2 * width, 4, 1)
        self.looks = Looks(width, heads)

    def forward(self, x: Tensor) -> Tensor:
        left, seen = F.relu(self.into(x)).split((self.width, self.width), dim=1)
        return self.outof(torch.cat((left, seen + self.looks(seen)), 1))


def test_a_size_of_one_tensor_views_another(toy):
    """`x.shape[1]` is the width of all heads of the values: heads stay, and each is made narrower."""
    found = toy(
        lambda self, x: self.c(self.looks(F.relu(self.a(x)))),
        a=nn.Conv2d(3, 16, 1), looks=Looks(16, 2), c=nn.Conv2d(16, 4, 1),
    )  # fmt: skip
    assert found.widths == {"a": 8, "looks.all": 4, "looks.out": 16}  # pairs, keys, and what is free
    found.require_all()
    plan = found.plan(seed=0)
    small = found.cut(plan)
    assert small.looks.num_heads == 2
    assert small.looks.head_dim == len(plan.kept["a"])
    assert small.looks.key_dim == len(plan.kept["looks.all"])


def test_halves_by_a_stored_width_around_attention(toy):
    """Two modules whose numbers follow at once: neither is given up for what the other does."""
    found = toy(lambda self, x: self.halves(x), halves=Halves(16, 2))
    assert found.widths == {"halves.into": 8, "halves.looks.all": 4}
    found.require_all()


def test_whole_heads_where_they_can_go(toy):
    """No width is taken from the input: heads are cut, as they are elsewhere."""

    class Free(Looks):
        def forward(self, x: Tensor) -> Tensor:
            n, _, height, width = x.shape
            made = self.all(x).view(n, self.num_heads, 2 * self.key_dim + self.head_dim, -1)
            q, k, v = made.split([self.key_dim, self.key_dim, self.head_dim], dim=2)
            weights = (q.transpose(2, 3) @ k * 0.2).softmax(-1)
            return self.out((v @ weights.transpose(2, 3)).reshape(n, -1, height, width))

    found = toy(
        lambda self, x: self.c(self.looks(self.a(x))),
        a=nn.Conv2d(3, 16, 1), looks=Free(16, 2), c=nn.Conv2d(16, 4, 1),
    )  # fmt: skip
    assert found.widths == {"a": 16, "looks.all": 2, "looks.out": 16}


def test_heads_of_torch_that_keep_their_width_while_others_are_cut(toy):
    """A mask for each head keeps all heads, so that each is made narrower, or stays."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).mT
        mask = torch.zeros(2 * len(x), 64, 64, dtype=torch.bool)
        return self.out(self.looks(tokens, tokens, tokens, attn_mask=mask)[0].mean(1))

    looks = nn.MultiheadAttention(16, 2, batch_first=True)
    found = toy(forward, stem=nn.Conv2d(3, 16, 1), looks=looks, out=nn.Linear(16, 4))
    assert found.widths["looks"] == 8
    whole = {name: tuple(range(width)) for name, width in found.widths.items()}
    for kept in (8, 3):
        for stem in (16, 5):
            plan = Plan(whole | {"looks": tuple(range(kept)), "stem": tuple(range(stem))}, found.widths)
            small = found.channels.slice(found.model, plan)
            assert small.looks.head_dim == kept and small(*found.inputs).shape == (2, 4)
