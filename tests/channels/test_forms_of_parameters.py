"""Forms of parameters and images: normed weights, five dimensions, sides that differ, vectors as images."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from jstc.channels import analyse
from jstc.errors import ChannelError


def conv(inside: int, outside: int, size: int = 3, **options: int) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, padding=size // 2, **options)


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def test_a_network_that_cannot_be_copied_is_refused_in_words():
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 4))
    vars(model[1])["lock"] = threading.Lock()
    with pytest.raises(ChannelError, match="can't be copied") as refused:
        analyse(model, torch.randn(1, 3, 8, 8))
    assert "a lock" in refused.value.advice


# -- weights that are normalised before use -----------------------------------------------------------------


@pytest.mark.parametrize("form", ["spectral norm", "weight norm"])
@pytest.mark.parametrize("kind", ["plain", "depthwise", "transposed", "linear"])
def test_layers_with_a_norm_of_their_weight_one_after_another(toy, form, kind):
    norm = {"spectral norm": spectral_norm, "weight norm": weight_norm}[form]
    if kind == "linear":
        net = toy(
            lambda net, x: net.c(F.relu(net.b(F.relu(net.a(pooled(x)))))),
            a=norm(nn.Linear(3, 16)),
            b=norm(nn.Linear(16, 12)),
            c=norm(nn.Linear(12, 10)),
        )
    else:
        middle = {
            "plain": conv(16, 12),
            "depthwise": conv(16, 16, groups=16),
            "transposed": nn.ConvTranspose2d(16, 12, 2),
        }[kind]
        net = toy(
            lambda net, x: pooled(net.c(F.relu(net.b(F.relu(net.a(x)))))),
            a=norm(conv(3, 16)),
            b=norm(middle),
            c=norm(conv(16 if kind == "depthwise" else 12, 10)),
        )
    assert sorted(net.widths.values()) == ([16] if kind == "depthwise" else [12, 16])
    if form == "spectral norm":  # in evaluation it is a factor of the whole weight
        net.require_all()


# -- five dimensions, sides that differ, vectors that become images -----------------------------------------

VOLUME = torch.randn(2, 3, 4, 7, 5, dtype=torch.float64)
VOLUMES = {
    "positions": lambda net, x: x + net.positions,
    "positions of fewer frames": lambda net, x: x[:, :, :3] + net.positions[:, :, :3],
    "resized positions": lambda net, x: x + F.interpolate(net.positions, size=x.shape[2:], mode="trilinear"),
    "positions, channels last": lambda net, x: (x.movedim(1, -1) + net.last).movedim(-1, 1),
    "a kernel": lambda net, x: F.conv3d(x, net.kernel, padding=1),
    "a scale": lambda net, x: x * net.kernel[:1, :, :1, :1, :1],
    "six dimensions": lambda net, x: (x[:, None] * net.six)[:, 0],
    "depthwise": lambda net, x: net.depthwise(x),
    "transposed": lambda net, x: net.up(x),
}


@pytest.mark.parametrize("form", VOLUMES)
def test_parameters_of_five_dimensions_and_more(toy, form):
    net = toy(
        lambda net, x: net.out(F.relu(net.b(VOLUMES[form](net, F.relu(net.norm(net.a(x)))))).mean((2, 3, 4))),
        inputs=(VOLUME,),
        a=nn.Conv3d(3, 8, 3, padding=1),
        norm=nn.BatchNorm3d(8),
        b=nn.Conv3d(8, 6, 3, padding=1),
        out=nn.Linear(6, 10),
        positions=nn.Parameter(torch.randn(1, 8, 4, 7, 5)),
        last=nn.Parameter(torch.randn(1, 4, 7, 5, 8)),
        kernel=nn.Parameter(torch.randn(8, 8, 3, 3, 3) / 9),
        six=nn.Parameter(torch.randn(1, 1, 8, 4, 7, 5)),
        depthwise=nn.Conv3d(8, 8, 3, padding=1, groups=8),
        up=nn.ConvTranspose3d(8, 8, 2, stride=2),
    )
    assert net.widths["a"] == 8 and net.widths["b"] == 6
    net.require_all()


@pytest.mark.parametrize("sides", [(9, 14), (31, 7), (1, 16)])
def test_images_with_sides_that_differ(toy, sides):
    image = torch.randn(2, 3, *sides, dtype=torch.float64)

    def forward(net, x):
        x = net.b(F.relu(net.norm(net.a(x))))
        tokens = x.flatten(2).mT
        return net.out((tokens.softmax(1) * tokens).sum(1))

    net = toy(
        forward,
        inputs=(image,),
        a=nn.Conv2d(3, 8, (1, 5), stride=(1, 2)),
        norm=nn.BatchNorm2d(8),
        b=conv(8, 6),
        out=nn.Linear(6, 10),
    )
    assert net.widths == {"a": 8, "b": 6}
    net.require_all()


SIZES = {
    "a tuple": (8, 2, 2),
    "a list": [8, 2, 2],
    "torch.Size": torch.Size((8, 2, 2)),
    "minus one": (-1, 2, 2),
}


@pytest.mark.parametrize("form", SIZES)
def test_a_vector_that_is_unflattened_into_an_image(toy, form):
    net = toy(
        lambda net, x: pooled(net.out(net.image(F.relu(net.grow(pooled(x)))))),
        grow=nn.Linear(3, 32),
        image=nn.Unflatten(1, SIZES[form]),
        out=nn.Conv2d(8, 10, 1),
    )
    assert net.widths == {"grow": 8}
    net.require_all()
