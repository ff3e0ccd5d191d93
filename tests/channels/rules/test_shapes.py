"""Operations that move, join, cut or reshape channels: each in a toy network, cut as it is masked."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F


def conv(inside: int, outside: int, size: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, padding=size // 2, **options)


def shuffle(x, groups):
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def test_concatenation_joins(toy, sandwich):
    net = sandwich(
        toy,
        lambda net, x: net.b(torch.cat([x, F.relu(net.a(x))], 1)),
        a=conv(16, 8),
        b=conv(24, 16),
    )
    assert net.widths == {"stem": 16, "a": 8, "b": 16}
    net.require_exact()


def test_concatenation_of_a_tensor_with_itself(toy, sandwich):
    net = sandwich(toy, lambda net, x: torch.cat([x, x.flip(1)], 1), last=32)
    assert net.widths == {"stem": 16}
    net.require_exact()


@pytest.mark.parametrize("parts", [2, 4])
def test_equal_parts_stay_equal(toy, sandwich, parts):
    net = sandwich(toy, lambda net, x: sum(net.a(x).chunk(parts, 1)).relu(), a=conv(16, 48), last=48 // parts)
    assert net.widths == {"stem": 16, "a": 48 // parts}
    net.require_exact()


def test_one_part_through_a_layer_and_one_around_it(toy, sandwich):
    def branch(net, x):
        left, right = x.split(x.shape[1] // 2, 1)
        return torch.cat([left, net.a(right)], 1)

    net = sandwich(toy, branch, a=conv(8, 8))
    assert net.widths == {"stem": 8, "a": 8}
    net.require_exact()


def test_unequal_parts_stay_whole(toy, sandwich):
    net = sandwich(toy, lambda net, x: torch.cat([p.sigmoid() for p in x.chunk(3, 1)], 1))
    assert net.widths == {}
    assert net.reasons["stem", 0] == "split into unequal parts"


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("module", [False, True])
def test_channel_shuffle(toy, sandwich, groups, module):
    net = sandwich(
        toy,
        lambda net, x: net.own(x) if module else shuffle(x, groups),
        own=nn.ChannelShuffle(groups),
    )
    assert net.widths == {"stem": 16 // groups}
    net.require_exact()


def test_channel_shuffle_between_grouped_convolutions(toy, sandwich):
    net = sandwich(
        toy,
        lambda net, x: net.b(shuffle(net.a(x), 2)),
        a=conv(16, 16, groups=2),
        b=conv(16, 16, groups=2),
    )
    assert net.widths["stem"] == net.widths["b"] == 8
    net.require_exact()


FLAT = {
    "flatten": lambda x: x.flatten(1),
    "view": lambda x: x.view(x.size(0), -1),
    "reshape": lambda x: x.permute(0, 2, 3, 1).reshape(len(x), -1),
    "unflatten": lambda x: x.flatten(1).unflatten(1, (-1, 64)).flatten(1),
}


@pytest.mark.parametrize("kind", FLAT)
def test_flattening_before_a_linear_layer(toy, kind):
    net = toy(lambda net, x: net.out(FLAT[kind](net.a(x).relu())), a=conv(3, 8), out=nn.Linear(512, 10))
    assert net.widths == {"a": 8}
    net.require_exact()
    plan = net.plan(0)
    assert net.channels.slice(net.model, plan).out.in_features == 64 * len(plan.kept["a"])


def test_pixel_shuffle_and_back(toy, sandwich):
    net = sandwich(toy, lambda net, x: F.pixel_shuffle(x, 2), last=4)
    assert net.widths == {"stem": 4}
    net.require_exact()
    net = sandwich(toy, lambda net, x: F.pixel_unshuffle(x, 2), last=64)
    assert net.widths == {"stem": 16}
    net.require_exact()


REPEATED = {"repeat": lambda x: x.repeat(1, 2, 1, 1), "interleave": lambda x: x.repeat_interleave(2, 1)}


@pytest.mark.parametrize("kind", REPEATED)
def test_repeated_channels(toy, sandwich, kind):
    net = sandwich(toy, lambda net, x: REPEATED[kind](x), last=32)
    assert net.widths == {"stem": 16}
    net.require_exact()


MOVED = {
    "transpose": lambda x: x.transpose(1, 3).sigmoid().transpose(3, 1),
    "permute": lambda x: x.permute(2, -3, 0, 3).permute(2, 1, 0, 3),
    "squeeze": lambda x: x.mean((2, 3), keepdim=True).squeeze(3).squeeze(-1)[:, :, None, None] + x,
    "expand": lambda x: x.amax((2, 3), keepdim=True).expand(-1, -1, 8, 8) * x,
    "stack": lambda x: torch.stack([x, x.sigmoid()], 1).prod(1),
    "unbind space": lambda x: sum(x.unbind(2)).unsqueeze(2),
    "roll space": lambda x: x.roll(1, 2),
    "flip": lambda x: x.flip(1),
    "flip all": lambda x: x.flip((-3, 2)),
    "space slices": lambda x: x[:, :, ::2, 1:5],
    "mirrored": lambda x: x[:, :, None].expand(-1, -1, 3, -1, -1).mean(2),
}


@pytest.mark.parametrize("kind", MOVED)
def test_moved_dimensions(toy, sandwich, kind):
    net = sandwich(toy, lambda net, x: MOVED[kind](x))
    assert net.widths == {"stem": 16}
    net.require_exact()


HELD = {
    "select": (lambda x: x * x[:, 3:4] * x[:, 2, None], "one channel is picked by its number"),
    "unbind": (lambda x: sum(x.unbind(1))[:, None] * x, "channels are taken apart one by one"),
    "pad": (
        lambda x: F.pad(x, (0, 0, 0, 0, 2, 1), "reflect")[:, 2:-1],
        "channels are padded by mode reflect",
    ),
    "roll": (lambda x: x.roll(1, 1), "channels are rolled"),
    "index": (lambda x: x[:, torch.arange(16)], "channels are picked by the numbers in a tensor"),
    "merged": (
        lambda x: (x.flatten(2) @ x.flatten(2).mT).flatten(1).mean(1).view(-1, 1, 1, 1) + x,
        "two channel dimensions are merged into one",
    ),
}


@pytest.mark.parametrize("kind", HELD)
def test_what_can_not_be_followed_stays_whole(toy, sandwich, kind):
    function, reason = HELD[kind]
    net = sandwich(toy, lambda net, x: function(x))
    assert net.widths == {}
    assert net.reasons["stem", 0] == reason


class Padding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("before", torch.zeros(3), persistent=False)
        self.register_buffer("after", torch.zeros(5), persistent=False)

    def forward(self, x):
        n, _, h, w = x.shape
        sides = (side.view(1, -1, 1, 1).expand(n, -1, h, w) for side in (self.before, self.after))
        return torch.cat([next(sides), x, next(sides)], 1)


def test_a_shortcut_that_pads_with_buffers(toy, sandwich):
    net = sandwich(toy, lambda net, x: net.pad(x) + net.a(x), pad=Padding(), a=conv(16, 24), last=24)
    # The middle of the wide sum is the stem; its ends hold channels of the second convolution alone.
    assert sorted(net.widths.items()) == [("pad", 3), ("pad#2", 5), ("stem", 16)]
    net.require_exact()
    plan = net.plan(0)
    small = net.channels.slice(net.model, plan)
    assert len(small.pad.before) == len(plan.kept["pad"])
