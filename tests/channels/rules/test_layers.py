"""Convolution, linear, matrix products, norms and pooling: each in a toy network, cut as it is masked."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F


def conv(inside: int, outside: int, size: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, padding=size // 2, **options)


def pooled(x):
    return x.mean((2, 3))


def sandwich(toy, middle, **layers):
    """Stem with batch norm, something on 16 channels, and a last convolution from `last` channels."""
    outside = layers.pop("last", 16)
    stem = {"stem": conv(3, 16), "norm": nn.BatchNorm2d(16), "head": conv(outside, 10)}
    return toy(lambda net, x: pooled(net.head(middle(net, F.relu(net.norm(net.stem(x)))))), **stem, **layers)


def test_convolutions_without_norm_and_with_bias(toy):
    net = toy(lambda net, x: pooled(net.b(F.relu(net.a(x)))), a=conv(3, 8), b=conv(8, 5))
    assert net.widths == {"a": 8}
    assert net.reasons == {("a", 1): "network input", ("b", 0): "network output"}
    net.require_exact()


def test_depthwise_channels_are_those_of_the_input(toy):
    net = sandwich(toy, lambda net, x: net.depthwise(x), depthwise=conv(16, 16, groups=16))
    assert net.widths == {"stem": 16}
    net.require_exact()


def test_depthwise_with_a_multiplier_keeps_it(toy):
    net = sandwich(
        toy, lambda net, x: net.point(net.deep(x)), deep=conv(16, 48, groups=16), point=conv(48, 16, 1)
    )
    assert net.widths == {"stem": 16, "point": 16}
    net.require_exact()
    small = net.channels.slice(net.model, net.plan(0))
    assert small.deep.out_channels == 3 * small.deep.in_channels == 3 * small.deep.groups


@pytest.mark.parametrize(("outside", "groups"), [(32, 4), (8, 4), (16, 8), (32, 2)])
def test_groups_of_a_convolution_stay_equally_wide(toy, outside, groups):
    grouped = conv(16, outside, groups=groups)
    net = sandwich(toy, lambda net, x: net.point(net.grouped(x)), grouped=grouped, point=conv(outside, 16, 1))
    assert net.widths == {"stem": 16 // groups, "grouped": outside // groups, "point": 16}
    net.require_exact()
    assert net.channels.slice(net.model, net.plan(0)).grouped.groups == groups


def test_a_group_cut_to_one_channel_is_not_taken_for_depthwise(toy):
    # Eight groups of two: the proof itself cuts them to one channel each.
    grouped = conv(16, 16, groups=8)
    net = sandwich(toy, lambda net, x: net.point(net.grouped(x)), grouped=grouped, point=conv(16, 16, 1))
    assert not any("cannot be cut" in reason for reason in net.reasons.values())
    assert {f.reason for f in net.channels.frozen} == {"network input", "network output"}


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        ({}, {"stem": 16, "up": 16}),
        ({"groups": 2}, {"stem": 8, "up": 8}),
        ({"groups": 16}, {"stem": 16}),
    ],
)
def test_transposed_convolutions(toy, options, widths):
    net = sandwich(toy, lambda net, x: net.up(x), up=nn.ConvTranspose2d(16, 16, 2, stride=2, **options))
    assert net.widths == widths
    net.require_exact()


def test_a_grouped_transposed_convolution_with_one_output_a_group_stays_right(toy):
    net = sandwich(toy, lambda net, x: net.up(x), up=nn.ConvTranspose2d(16, 8, 2, groups=8), last=8)
    assert net.reasons["up", 0]
    assert net(net.channels.slice(net.model, net.channels.full_plan)).equal(net())


def test_a_convolution_used_twice(toy):
    net = sandwich(toy, lambda net, x: net.shared(F.relu(net.shared(x))), shared=conv(16, 16))
    assert net.widths == {"stem": 16}
    assert net.channels.groups[0].layers == ("stem", "norm", "shared", "head")
    net.require_exact()


def test_two_layers_with_one_weight(toy):
    first, second = conv(16, 16, bias=False), conv(16, 16, bias=False)
    second.weight = first.weight
    net = sandwich(toy, lambda net, x: net.second(F.relu(net.first(x))), first=first, second=second)
    assert net.widths == {"stem": 16}
    net.require_exact()
    small = net.channels.slice(net.model, net.plan(0))
    assert small.first.weight is small.second.weight


def test_linear_layers_and_a_last_one_with_one_output(toy):
    net = toy(
        lambda net, x: net.out(F.relu(net.hidden(pooled(net.a(x))))),
        a=conv(3, 8),
        hidden=nn.Linear(8, 12),
        out=nn.Linear(12, 1),
    )
    assert net.widths == {"a": 8, "hidden": 12}
    net.require_exact()


@pytest.mark.parametrize("squeeze", [1, 4])
@pytest.mark.parametrize("linear", [False, True])
def test_squeeze_and_excite(toy, squeeze, linear):
    def excite(net, x):
        weights = net.up(F.relu(net.down(pooled(x) if linear else x.mean((2, 3), keepdim=True)))).sigmoid()
        return x * (weights[:, :, None, None] if linear else weights)

    layers = nn.Linear if linear else lambda inside, outside: conv(inside, outside, 1)
    net = sandwich(toy, excite, down=layers(16, squeeze), up=layers(squeeze, 16))
    assert net.widths == {"stem": 16} | ({"down": 4} if squeeze > 1 else {})
    net.require_exact()


def test_matrix_products_einsum_and_addmm(toy):
    net = toy(
        lambda net, x: torch.addmm(net.c, torch.einsum("nc,dc->nd", pooled(net.a(x)), net.b), net.d) @ net.e,
        a=conv(3, 8),
        b=nn.Parameter(torch.randn(6, 8)),
        c=nn.Parameter(torch.randn(5)),
        d=nn.Parameter(torch.randn(6, 5)),
        e=nn.Parameter(torch.randn(5, 10)),
    )
    assert sorted(net.widths.values()) == [5, 6, 8]
    net.require_exact()


def test_attention_ties_queries_to_keys_only(toy):
    def attend(net, x):
        q, k, v = (layer(x).flatten(2).transpose(1, 2) for layer in (net.q, net.k, net.v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(len(x), -1, 8, 8)

    net = sandwich(toy, attend, q=conv(16, 8, 1), k=conv(16, 8, 1), v=conv(16, 12, 1), last=12)
    assert net.widths == {"stem": 16, "q": 8, "v": 12}
    assert net.channels.inexact == {"q": "attention is scaled by the number of channels"}


INEXACT = {
    "layer": (lambda net, x: net.own(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.LayerNorm, 16),
    "group": (lambda net, x: net.own(x), lambda width: nn.GroupNorm(4, width), 4),
    "group of all": (lambda net, x: net.own(x), lambda width: nn.GroupNorm(1, width), 16),
    "rms": (lambda net, x: net.own(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.RMSNorm, 16),
}


@pytest.mark.parametrize("kind", INEXACT)
def test_norms_over_channels_are_cut_but_not_exact(toy, apart, kind):
    middle, norm, width = INEXACT[kind]
    net = sandwich(toy, middle, own=norm(16))
    assert net.widths == {"stem": width}
    assert list(net.channels.inexact) == ["stem"] and "over the channels" in net.channels.inexact["stem"]
    plan = net.plan(0)
    small = net.channels.slice(net.model, plan)
    assert net(small).shape == (2, 10)
    assert len(small.own.weight) == len(small.norm.weight) == len(plan.kept["stem"]) * 16 // width


@pytest.mark.filterwarnings("ignore:input's size at dim=1")  # nothing is left to tell the width by
@pytest.mark.parametrize("affine", [True, False])
def test_instance_norm_is_exact(toy, affine):
    net = sandwich(toy, lambda net, x: net.own(x), own=nn.InstanceNorm2d(16, affine=affine))
    assert net.widths == {"stem": 16} and not net.channels.inexact
    net.require_exact()


def test_group_norm_with_one_channel_a_group_stays(toy):
    net = sandwich(toy, lambda net, x: net.own(x), own=nn.GroupNorm(16, 16))
    assert net.widths == {}
    assert net.reasons["own", 0] == "group_norm with one channel a group"


POOLS = {
    "max": lambda x: F.max_pool2d(x, 2),
    "max with indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "average": lambda x: F.avg_pool2d(x, 2),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 3),
    "adaptive max": lambda x: F.adaptive_max_pool2d(x, 3),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "reflected": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "padded": lambda x: F.pad(x, (1, 2, 0, 1)),
}


@pytest.mark.parametrize("kind", POOLS)
def test_pooling_and_resizing_pass_channels_on(toy, kind):
    net = sandwich(toy, lambda net, x: POOLS[kind](x))
    assert net.widths == {"stem": 16}
    net.require_exact()


SLIDING = {
    "convolution": lambda net, x: net.own(pooled(x).unsqueeze(1)).amax(1),
    "max pool": lambda net, x: F.max_pool1d(pooled(x), 3, 1, 1),
    "adaptive pool": lambda net, x: F.adaptive_avg_pool1d(pooled(x), 16),
}


@pytest.mark.parametrize("kind", SLIDING)
def test_what_slides_over_channels_holds_them(toy, kind):
    net = toy(
        lambda net, x: net.out(SLIDING[kind](net, F.relu(net.a(x)))),
        a=conv(3, 16),
        own=nn.Conv1d(1, 4, 3, padding=1),
        out=nn.Linear(16, 10),
    )
    assert "a" not in net.widths
    assert net.reasons["a", 0] in (
        "a convolution slides over the channels",
        "neighbouring channels are pooled or resized",
    )
