"""Tensors that the forward makes up: constants fit channels, numbered positions hold them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F


def conv(inside: int, outside: int, size: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, padding=size // 2, **options)


def made(name, *args):
    return lambda net, x: getattr(torch, name)(*args, dtype=x.dtype, device=x.device)


CONSTANT = {
    "zeros": lambda net, x: x + torch.zeros(x.shape[1], 8, 8, dtype=x.dtype, device=x.device),
    "ones": lambda net, x: x * torch.ones(1, x.shape[1], 1, 1, dtype=x.dtype, device=x.device),
    "full": lambda net, x: x * torch.full((x.shape[1], 1, 1), 0.5, dtype=x.dtype, device=x.device),
    "new": lambda net, x: x * x.new_full((x.shape[1], 1, 1), 0.5) + x.new_zeros(8, 8) + x.new_ones(8),
    "like": lambda net, x: x * torch.full_like(x, 0.5) + torch.zeros_like(x).zero_(),
    "empty": lambda net, x: x * x.new_empty(8, 8).fill_(0.5),
    "zeroed": lambda net, x: x + x.clone().zero_(),
}

OF_SPACE = {
    "arange": lambda net, x: x * torch.arange(8, dtype=x.dtype, device=x.device),
    "linspace": lambda net, x: x * torch.linspace(0, 1, 8, dtype=x.dtype, device=x.device)[:, None],
    "eye": lambda net, x: x * torch.eye(8, dtype=x.dtype, device=x.device),
    "mesh": lambda net, x: x + sum(torch.meshgrid(net.n.n, net.n.n, indexing="ij")),
    "one hot": lambda net, x: x * F.one_hot(torch.arange(8, device=x.device), 8),
    "triangle": lambda net, x: x.tril() + x.triu(2),
    "diagonal": lambda net, x: torch.diag_embed(x.diagonal(dim1=2, dim2=3)),
}


class Numbers(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("n", torch.arange(8.0))


@pytest.mark.parametrize("kind", CONSTANT | OF_SPACE)
def test_what_is_made_up_over_space_or_alike_everywhere(toy, sandwich, kind):
    net = sandwich(toy, (CONSTANT | OF_SPACE)[kind], n=Numbers())
    assert net.widths == {"stem": 16}
    assert not net.channels.unknown_operations
    net.require_exact()


NUMBERED = {
    "arange": lambda net, x: x * torch.arange(x.shape[1], device=x.device).view(-1, 1, 1),
    "linspace": lambda net, x: x * torch.linspace(0, 1, x.shape[1], device=x.device).view(1, -1, 1, 1),
    "eye": lambda net, x: torch.einsum(
        "nchw,cd->ndhw", x, torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    ),
}


@pytest.mark.parametrize("kind", NUMBERED)
def test_values_that_depend_on_the_number_of_a_channel_hold_it(toy, sandwich, kind):
    net = sandwich(toy, NUMBERED[kind])
    assert net.widths == {}
    assert net.reasons["stem", 0] == "meets a dimension of fixed size"


def test_a_triangle_of_channels_stays(toy, sandwich):
    net = sandwich(toy, lambda net, x: x.permute(0, 2, 1, 3).tril().permute(0, 2, 1, 3))
    assert net.reasons["stem", 0] == "a triangle of channels is kept by their numbers"


def test_a_diagonal_matrix_of_channels(toy):
    """Channels on both sides of the diagonal are the same."""
    net = toy(
        lambda net, x: net.b(net.a(x.mean((2, 3))).relu().diag_embed().sum(1) + 0.5),
        a=nn.Linear(3, 16),
        b=nn.Linear(16, 10),
    )
    assert net.widths == {"a": 16}
    assert net.channels.inexact == {"a": "sum over the channels"}
    taken = toy(
        lambda net, x: net.b(torch.diagonal(net.a(x.mean((2, 3))).relu()[:, :, None] * net.w, 0, 1, 2)),
        a=nn.Linear(3, 16),
        b=nn.Linear(16, 10),
        w=nn.Parameter(torch.randn(16, 16)),
    )
    assert taken.widths == {"a": 16}
    taken.require_exact()
