"""What a forward does by numbers and not by channels: never offered wrongly, never a crash."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jstc.channels import analyse


def conv(inside, outside):
    return nn.Conv2d(inside, outside, 3, padding=1)


def first_four(y):
    mask = torch.zeros(y.shape[1], dtype=y.dtype)
    mask[:4] = 1
    return y * mask.view(1, -1, 1, 1)


MADE = {
    "written by numbers": first_four,
    "a list": lambda y: y * torch.tensor([float(i) for i in range(y.shape[1])], dtype=y.dtype)[:, None, None],
    "counted": lambda y: y * torch.ones(y.shape[1], dtype=y.dtype).cumsum(0)[:, None, None],
}


@pytest.mark.parametrize("kind", MADE)
def test_values_that_depend_on_the_position_hold_their_channels(toy, kind):
    net = toy(
        lambda net, x: net.b(MADE[kind](net.a(net.free(x)))).mean((2, 3)),
        free=conv(3, 6),
        a=conv(6, 16),
        b=conv(16, 10),
    )
    assert net.widths == {"free": 6}
    net.require_exact()


def test_the_number_of_the_largest_channel(toy):
    net = toy(
        lambda net, x: net.table(net.a(x).mean((2, 3)).max(1).indices),
        a=conv(3, 16),
        table=nn.Embedding(16, 5),
    )
    assert net.widths == {}
    values = toy(lambda net, x: net.b(net.a(x)).max(1).values.mean((1, 2)), a=conv(3, 8), b=conv(8, 6))
    assert values.widths["a"] == 8  # nobody reads the numbers


def test_heads_that_share_keys(toy):
    def forward(net, x):
        x = x.flatten(2).transpose(1, 2)
        q, k, v = (layer(x).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in (net.q, net.k, net.v))
        out = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return net.out(out.transpose(1, 2).flatten(2)).mean(1)

    net = toy(forward, q=nn.Linear(3, 32), k=nn.Linear(3, 8), v=nn.Linear(3, 8), out=nn.Linear(32, 5))
    assert net.widths == {}
    assert "share heads of keys" in net.reasons["q", 0]


class Shift(nn.Module):
    """Two attributes of one value, of which one is no width."""

    def __init__(self):
        super().__init__()
        self.parts, self.shift = 8, 8
        self.conv, self.out = conv(3, 32), nn.Linear(32, 5)

    def forward(self, x):
        y = self.conv(x)
        y = y * torch.linspace(0, 1, y.shape[3], dtype=y.dtype)
        y = y.roll(self.shift, 3)[..., :5]
        return self.out(y.reshape(len(x), self.parts, 4, -1).mean(-1).flatten(1))


def test_an_attribute_that_means_two_things():
    model, x = Shift().double().eval(), torch.randn(2, 3, 12, 12, dtype=torch.float64)
    channels = analyse(model, x[:1])
    plan = channels.random_plan(flops=0.6) if channels.groups else channels.full_plan
    assert "shift" not in channels.attributes(plan)


def test_one_channel_is_left_of_a_squeeze(toy):
    net = toy(
        lambda net, x: net.out(net.a(net.free(x)).mean((2, 3), keepdim=True).squeeze()),
        free=conv(3, 6),
        a=conv(6, 8),
        out=nn.Linear(8, 4),
    )
    assert net.widths == {"free": 6}


def test_an_empty_view_and_other_types(toy):
    def forward(net, x):
        y = net.b(net.a(x))
        assert y[:, :0].reshape(-1).numel() == 0
        assert y.view(torch.uint8).dim() == 4
        return y.mean((2, 3))

    assert toy(forward, a=conv(3, 6), b=conv(6, 8)).widths == {"a": 6}


def test_a_norm_whose_attribute_was_wrong_all_along(toy):
    net = toy(
        lambda net, x: net.b(net.norm(net.a(x))).mean((2, 3)),
        a=conv(3, 16),
        norm=nn.BatchNorm2d(16),
        b=conv(16, 4),
    )
    net.model.norm = nn.InstanceNorm2d(1)
    with pytest.warns(UserWarning, match="num_features"):
        assert analyse(net.model, net.inputs[0][:1]).widths == {"a": 16}


class Cached(nn.Module):
    def __init__(self):
        super().__init__()
        self.cache_levels = [0, 1]
        self.a, self.b = conv(3, 6), conv(6, 4)

    def forward(self, x):
        return self.b(self.a(x)).mean((2, 3)) * self.cache_levels[1]


def test_settings_called_a_cache_stay():
    channels = analyse(Cached(), torch.randn(1, 3, 8, 8))
    assert channels.widths == {"a": 6}
    assert channels.slice(Cached(), channels.full_plan).cache_levels == [0, 1]
