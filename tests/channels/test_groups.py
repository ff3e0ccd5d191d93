"""From ties to groups: components, names, members, and what stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from jstc.channels.groups import components


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40))
def test_components_are_those_of_the_graph(edges):
    found = components(20, [(np.array([a]), np.array([b])) for a, b in edges])
    expected = list(range(20))
    for _ in range(20):  # the plainest way: spread the smaller label until nothing changes
        for a, b in edges:
            expected[a] = expected[b] = min(expected[a], expected[b])
    assert found.tolist() == expected


def test_components_of_long_chains_and_arrays():
    n = np.arange(999)
    assert (components(1000, [(n[::-1] + 1, n[::-1])]) == 0).all()
    assert components(6, [(np.array([5, 1]), np.array([3, 4]))]).tolist() == [0, 1, 2, 3, 1, 3]
    assert components(3, []).tolist() == [0, 1, 2]


def test_resnet20_has_a_group_per_block_and_parts_of_the_residual_stream(example):
    found = example("cifar/resnet20")
    inner = {f"layer{s}.{b}.conv1": 16 * 2 ** (s - 1) for s in (1, 2, 3) for b in (0, 1, 2)}
    assert {n: w for n, w in found.widths.items() if n in inner} == inner
    # Option-A shortcuts: 16 channels of the first stage, 8 zeros on both sides of them, then 16 and 16.
    stream = {n: w for n, w in found.widths.items() if n not in inner}
    assert stream["conv1"] == 16 and sorted(stream.values()) == [8, 8, 16, 16, 16]
    assert {(f.layer, f.dim, f.channels, f.reason) for f in found.channels.frozen} == {
        ("conv1", 1, 3, "network input"),
        ("linear", 0, 10, "network output"),
    }


GROUPS = {
    # groups, channels in them, share of FLOPs that they reach
    "cifar/resnet56": (32, 16 * 9 + 32 * 9 + 64 * 9 + 64, 1.0),
    "cifar/vgg16_bn": (13, 64 * 2 + 128 * 2 + 256 * 3 + 512 * 6, 1.0),
    "resnet18": (12, 64 + 64 * 2 + 128 * 3 + 256 * 3 + 512 * 3, 1.0),
    "resnet50": (37, None, 1.0),
    "densenet121": (120, None, 1.0),
    "mobilenet_v2": (25, None, 1.0),
    "efficientnet_b0": (40, None, 1.0),
}


@pytest.mark.parametrize("name", GROUPS)
def test_known_networks_have_the_groups_they_should(example, name):
    found = example(name)
    groups, channels, coverage = GROUPS[name]
    assert len(found.widths) == groups
    assert channels in (None, sum(found.widths.values()))
    assert found.channels.coverage == pytest.approx(coverage, abs=1e-3)
    assert {f.reason for f in found.channels.frozen} == {"network input", "network output"}
    assert not found.channels.unknown_operations and not found.channels.inexact


STREAMS = {
    "cifar/resnet56": {"conv1", "layer2.0.conv2", "layer2.0.conv2#2", "layer3.0.conv2", "layer3.0.conv2#2"},
    "cifar/vgg16_bn": set(),
    "resnet50": {f"layer{stage}.0.conv3" for stage in (1, 2, 3, 4)},
    "densenet121": set(),
    "mobilenet_v2": {f"features.{block}.conv.2" for block in (2, 4, 7, 11, 14)},
    # Squeeze and excitation multiplies channels; only the blocks' outputs are added up.
    "efficientnet_b0": {f"features.{stage}.0.block.3.0" for stage in (2, 3, 4, 5, 6)},
}


@pytest.mark.parametrize("name", STREAMS)
def test_residual_streams_are_what_is_added_up(example, name):
    assert example(name).channels.streams == STREAMS[name]


def test_products_and_biases_make_no_stream(toy):
    def forward(net, x):
        x = net.stem(x)
        gated = net.left(x) * net.right(x).sigmoid() + net.bias
        return net.head((net.back(gated) + x).mean((2, 3)))

    net = toy(
        forward,
        stem=nn.Conv2d(3, 8, 3, padding=1),
        left=nn.Conv2d(8, 12, 1),
        right=nn.Conv2d(8, 12, 1),
        bias=nn.Parameter(torch.zeros(12, 1, 1)),
        back=nn.ConvTranspose2d(12, 8, 1),
        head=nn.Linear(8, 3),
    )
    assert net.channels.streams == {"stem"} and len(net.channels.groups) == 2


def test_groups_are_numbered_one_after_the_other_in_the_order_of_the_forward(example):
    groups = example("resnet50").channels.groups
    assert [g.start for g in groups] == np.cumsum([0, *(g.width for g in groups)])[:-1].tolist()
    assert groups[0].name == "conv1" and groups[0].layers == (
        "conv1",
        "bn1",
        "layer1.0.conv1",
        "layer1.0.downsample.0",
    )
    assert [g.name for g in groups[1:4]] == ["layer1.0.conv1", "layer1.0.conv2", "layer1.0.conv3"]
    assert len({g.name for g in groups}) == len(groups)


def test_channels_of_one_layer_in_several_groups_get_names_of_their_own(toy):
    net = toy(
        lambda net, x: net.d(net.a(x) + torch.cat([net.b(x), net.c(x)], 1)).mean((2, 3)),
        a=nn.Conv2d(3, 10, 1),
        b=nn.Conv2d(3, 6, 1),
        c=nn.Conv2d(3, 4, 1),
        d=nn.Conv2d(10, 5, 1),
    )
    assert net.widths == {"a": 6, "a#2": 4}
    assert [g.layers for g in net.channels.groups] == [("a", "b", "d"), ("a", "c", "d")]
    net.require_exact()


def test_a_parameter_outside_any_module_has_its_own_name(toy):
    net = toy(
        lambda net, x: x.mean((2, 3)) @ net.first @ net.second,
        first=nn.Parameter(torch.randn(3, 8)),
        second=nn.Parameter(torch.randn(8, 5)),
    )
    assert net.channels.groups[0].layers == ("first", "second")
    net.require_exact()


def test_channels_tied_into_one_stay(toy):
    # Two outputs in two groups: each output needs the other.
    net = toy(
        lambda net, x: net.c(net.b(net.a(x))).mean((2, 3)),
        a=nn.Conv2d(3, 8, 1),
        b=nn.Conv2d(8, 2, 1, groups=2),
        c=nn.Conv2d(2, 5, 1),
    )
    assert net.widths == {"a": 4}
    assert net.reasons["b", 0] == net.reasons["c", 1] == "tied into one channel that occurs in many places"
    net.require_exact()


def test_a_network_without_any_group(toy):
    net = toy(lambda net, x: net.a(x).mean((2, 3)), a=nn.Conv2d(3, 10, 1))
    assert net.widths == {} and net.channels.coverage == 0
    plan = net.channels.uniform_plan(flops=1.0)
    assert plan == net.channels.full_plan and net.channels.cost(plan).params == 40
    assert net(net.channels.gated(net.channels.slice(net.model, plan), plan)).equal(net())
