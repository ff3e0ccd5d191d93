"""Picking and writing by numbers: what they point into stays, the rest is cut as it is masked."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F


def conv(inside: int, outside: int, size: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, padding=size // 2, **options)


def buffer(values):
    holder = nn.Module()
    holder.register_buffer("n", torch.as_tensor(values))
    return holder


SPACE = [7, 0, 3, 3, 5]

OF_SPACE = {
    "one dimension": lambda net, x: x[:, :, net.i.n],
    "last dimension": lambda net, x: x[..., net.i.n],
    "points": lambda net, x: x[:, :, net.i.n, net.i.n][..., None],
    "points apart": lambda net, x: x.permute(2, 0, 1, 3)[net.i.n, :, :, net.i.n].permute(1, 2, 0)[..., None],
    "table": lambda net, x: x[:, :, net.i.n.view(-1, 1), net.i.n],
    "made up": lambda net, x: x[:, :, torch.arange(0, 8, 2, device=x.device)],
    "select": lambda net, x: x.index_select(2, net.i.n),
    "gather": lambda net, x: x.gather(3, net.i.n.expand(len(x), x.shape[1], 8, 5)),
    "take along": lambda net, x: torch.take_along_dim(x, net.i.n.view(1, 1, 1, 5), 3),
    "largest": lambda net, x: x.take_along_dim(x.argmax(3, keepdim=True), 3),
    "put": lambda net, x: x.clone().index_put_((torch.arange(len(x)),), x.sigmoid()),
    "assign": lambda net, x: assign(x, net.i.n),
    "fill": lambda net, x: x.index_fill(2, net.i.n, 0.5),
    "add": lambda net, x: x.index_add(2, net.i.n, x[:, :, :5]),
    "select_scatter": lambda net, x: x.select_scatter(x[..., 2].tanh(), 3, 5),
    "select_scatter, new": lambda net, x: torch.zeros_like(x).select_scatter(x[..., 2], 3, 5) + x.new_zeros(
        x.shape
    ).select_scatter(x[..., 1], 3, 5),
    "copy": lambda net, x: x.index_copy(3, net.j.n, x[..., 6:].tanh()),
    "scatter": lambda net, x: x.scatter(
        3, net.j.n.expand(len(x), x.shape[1], 8, 2), x[..., 1:3].contiguous()
    ),
}  # fmt: skip


def assign(x, numbers):
    x = x.clone()
    x[:, :, numbers] = x[:, :, numbers + 1 - 1].sigmoid()
    return x


@pytest.mark.parametrize("kind", OF_SPACE)
def test_numbers_of_space_leave_channels_alone(toy, sandwich, kind):
    net = sandwich(toy, OF_SPACE[kind], i=buffer(SPACE), j=buffer([4, 1]))
    assert net.widths == {"stem": 16}
    assert not net.channels.unknown_operations
    net.require_exact()


OF_CHANNELS = {
    "index": lambda net, x: x[:, net.i.n],
    "select": lambda net, x: x.index_select(1, net.i.n),
    "gather": lambda net, x: x.gather(1, net.i.n.view(1, 5, 1, 1).expand(len(x), 5, 8, 8)),
    "made up": lambda net, x: x[:, torch.arange(5, device=x.device)],
}


@pytest.mark.parametrize("kind", OF_CHANNELS)
def test_channels_that_are_picked_by_numbers_stay(toy, sandwich, kind):
    net = sandwich(toy, OF_CHANNELS[kind], i=buffer(SPACE), last=5)
    assert net.widths == {}
    assert net.reasons["stem", 0] == "channels are picked by the numbers in a tensor"


WRITTEN = {
    "fill": lambda net, x: x.index_fill(1, net.i.n, 0.5),
    "put": lambda net, x: torch.index_put(x, (net.zero.n, net.i.n), x.mean()),
    "scatter": lambda net, x: x.scatter(1, net.i.n.view(1, 5, 1, 1).expand(len(x), 5, 8, 8), 2.0),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_channels_that_are_written_by_numbers_stay(toy, sandwich, kind):
    net = sandwich(toy, WRITTEN[kind], i=buffer(SPACE), zero=buffer([0]))
    assert net.widths == {}
    assert net.reasons["stem", 0] == "channels are written to by the numbers in a tensor"


def test_rows_of_a_table_are_no_channels_but_its_columns_are(toy, sandwich):
    net = sandwich(
        toy,
        lambda net, x: x + net.bias[net.i.n].view(2, 4, -1).permute(2, 0, 1).repeat(1, 4, 2),
        bias=nn.Parameter(torch.randn(9, 16)),
        i=buffer([3, 4, 4, 1, 0, 8, 7, 7]),
    )
    assert net.widths == {"stem": 16}
    assert {f.reason for f in net.channels.frozen} == {"network input", "network output"}
    net.require_exact()
    assert net.channels.slice(net.model, net.plan(0)).bias.shape[0] == 9


@pytest.mark.parametrize("kind", ["function", "module"])
def test_embeddings(toy, kind):
    def forward(net, x, words):
        found = net.words(words) if kind == "module" else F.embedding(words, net.words.weight)
        return net.head((x.mean((2, 3)) @ net.mix.weight.t()).relu() + found.mean(1))

    net = toy(
        forward,
        words=nn.Embedding(20, 16),
        mix=nn.Linear(3, 16, bias=False),
        head=nn.Linear(16, 10),
        inputs=(torch.randn(2, 3, 8, 8).double(), torch.randint(0, 20, (2, 7))),
    )
    assert list(net.widths.values()) == [16]
    net.require_exact()
    assert net.channels.slice(net.model, net.plan(0)).words.num_embeddings == 20


def test_channels_in_a_part_of_a_new_tensor_stay(toy, sandwich):
    def forward(net, x):
        wide = x.new_zeros(len(x), 16, 10, 10)
        wide[:, :, 1:-1, 1:-1] = x
        return wide

    net = sandwich(toy, forward)
    assert net.widths == {}
    assert net.reasons["stem", 0] == "channels are written into a part of a new tensor"


def test_numbers_written_into_a_new_tensor(toy, sandwich):
    """A mask of windows as Swin makes it: of space only."""

    def forward(net, x):
        mask = x.new_zeros(1, 1, 8, 8)
        mask[..., :4, :] = 1
        mask[..., 4:, :2].fill_(-2)
        mask[:, :, net.i.n, net.i.n] = 3.0
        return x * mask

    net = sandwich(toy, forward, i=buffer(SPACE))
    assert net.widths == {"stem": 16}
    net.require_exact()


def test_a_mask_of_values(toy, sandwich):
    """Which forces real values: a meta tensor has none."""

    def forward(net, x):
        return torch.cat([x, x[:, :, :, :1][x[:, :, :, :1] > -1e9].view(len(x), -1, 8, 1)], 3)

    net = sandwich(toy, forward)
    assert net.widths == {}
    assert net.reasons["stem", 0] == "meets a dimension of fixed size"


@pytest.mark.parametrize("numbers", [lambda mask: torch.where(mask)[0], lambda mask: mask.nonzero()[:, 0]])
def test_images_picked_by_their_values_leave_channels_free(toy, sandwich, numbers):
    net = sandwich(toy, lambda net, x: x[numbers(x.mean((1, 2, 3)) > -9)])
    assert net.widths == {"stem": 16}
    net.require_exact()


def test_where_a_channel_has_a_value_is_a_number(toy, sandwich):
    net = sandwich(toy, lambda net, x: x + torch.where(x.mean((0, 2, 3)) > -9)[0].sum())
    assert net.widths == {}
    assert net.reasons["stem", 0] == "channels are picked one by one (where)"
