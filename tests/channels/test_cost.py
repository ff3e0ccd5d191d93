"""The cost model by hand, on a network small enough to count."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jstc import models
from jstc.channels import Cost, analyse
from jstc.channels.cutting.channel_gates import fold
from jstc.plan import Plan
from jstc.runs.stages.train import count


def small(toy):
    return toy(
        lambda net, x: net.out(net.pool(F.relu(net.norm(net.a(x)))).flatten(1)),
        a=nn.Conv2d(3, 8, 3, padding=1),
        norm=nn.BatchNorm2d(8),
        pool=nn.AdaptiveAvgPool2d(1),
        out=nn.Linear(8, 10),
    )


def by_hand(width):
    conv, norm, pool, linear = 27 * width * 64, 2 * width * 64, width * 64, 10 * width
    return Cost(conv + norm + pool + linear, 28 * width + 2 * width + 10 * width + 10)


@pytest.mark.parametrize("width", [1, 5, 8])
def test_cost_is_a_sum_of_products_of_widths(toy, width):
    channels = small(toy).channels
    assert channels.cost(Plan({"a": tuple(range(width))}, {"a": 8})) == by_hand(width)
    assert channels.cost_of_counts(np.array([width])) == by_hand(width)


def test_without_a_plan_it_is_that_of_the_whole_network(toy):
    channels = small(toy).channels
    assert channels.cost() == channels.cost(channels.full_plan) == by_hand(8)


def test_which_channels_are_kept_does_not_matter(toy):
    channels = small(toy).channels
    assert channels.cost(Plan({"a": (0, 7)}, {"a": 8})) == channels.cost(Plan({"a": (3, 4)}, {"a": 8}))


def test_flops_are_for_the_images_that_were_given(toy):
    net = small(toy)
    twice = analyse(net.model, net.inputs[0])
    assert twice.cost().flops == 2 * net.channels.cost().flops
    assert twice.cost().params == net.channels.cost().params


def test_shares_of_the_groups(toy):
    net = toy(
        lambda net, x: net.c(net.b(net.a(x))).mean((2, 3)),
        a=nn.Conv2d(3, 4, 1, bias=False),
        b=nn.Conv2d(4, 5, 1, bias=False),
        c=nn.Conv2d(5, 10, 1, bias=False),
    )
    a, b, c = 12, 20, 50
    assert net.channels.flops_share == pytest.approx({"a": (a + b) / (a + b + c), "b": (b + c) / (a + b + c)})
    assert net.channels.coverage == 1
    half = Plan({"a": (0, 3), "b": (0, 1, 2, 3, 4)}, {"a": 4, "b": 5})
    a, b, c = 6, 10, 50
    assert net.channels.flops_share_of(half) == pytest.approx(
        {"a": (a + b) / (a + b + c), "b": (b + c) / (a + b + c)}
    )


def test_coverage_leaves_out_what_no_group_reaches(toy):
    net = toy(
        lambda net, x: net.b(net.a(net.fixed(x))).mean((2, 3)),
        fixed=nn.Conv2d(3, 3, 1, groups=3, bias=False),
        a=nn.Conv2d(3, 4, 1, bias=False),
        b=nn.Conv2d(4, 10, 1, bias=False),
    )
    assert net.channels.coverage == pytest.approx((12 + 40) / (3 + 12 + 40))


def test_layers_used_twice_cost_twice_and_have_one_set_of_parameters(toy):
    net = toy(lambda net, x: net.a(net.a(x)), a=nn.Conv2d(3, 3, 1, bias=False))
    assert net.channels.cost() == Cost(2 * 9 * 64, 9)


COUNTED = {
    "batch norm without parameters": (lambda net, x: net.norm(x), {"norm": nn.BatchNorm2d(8, affine=False)}),
    "instance norm": (lambda net, x: net.norm(x), {"norm": nn.InstanceNorm2d(8, affine=True)}),
    "layer norm": (lambda net, x: net.norm(x.mT).mT, {"norm": nn.LayerNorm([8, 8, 8])}),
    "group norm": (lambda net, x: net.norm(x), {"norm": nn.GroupNorm(2, 8)}),
    "group norm without parameters": (lambda net, x: F.group_norm(x, 2), {}),
    "rms norm": (lambda net, x: net.norm(x.transpose(1, 3)).transpose(1, 3), {"norm": nn.RMSNorm(8)}),
    "transposed": (lambda net, x: net.up(x), {"up": nn.ConvTranspose2d(8, 8, 3, stride=2, groups=2)}),
    "dilated": (lambda net, x: net.own(x), {"own": nn.Conv2d(8, 8, (3, 1), padding=(2, 0), dilation=2)}),
    "one dimension": (lambda net, x: net.own(x.flatten(2))[..., None], {"own": nn.Conv1d(8, 8, 3)}),
    "nearest": (lambda net, x: F.interpolate(x, scale_factor=2), {}),
    "bilinear": (lambda net, x: F.interpolate(x, size=(5, 7), mode="bilinear"), {}),
    "pools": (lambda net, x: F.max_pool2d(F.avg_pool2d(F.adaptive_avg_pool2d(x, 6), 2), 3), {}),
    "linear on rows": (lambda net, x: net.own(x.permute(0, 2, 3, 1)).mT, {"own": nn.Linear(8, 8)}),
    "products": (lambda net, x: (x.flatten(2) @ x.flatten(2).mT @ x.flatten(2)).view_as(x), {}),
    "sum of products": (
        lambda net, x: torch.addmm(net.b, x.mean((2, 3)), net.c)[:, :, None, None],
        {"b": nn.Parameter(torch.zeros(8)), "c": nn.Parameter(torch.zeros(8, 8))},
    ),
    "attention": (
        lambda net, x: F.scaled_dot_product_attention(*[x.flatten(2).mT] * 3).mT.view_as(x),
        {},
    ),
}


@pytest.mark.parametrize("kind", COUNTED)
def test_operations_are_counted_as_fvcore_does(toy, kind):
    middle, layers = COUNTED[kind]
    net = toy(
        lambda net, x: net.out(middle(net, net.a(x)).mean((2, 3))),
        a=nn.Conv2d(3, 8, 1),
        out=nn.Linear(8, 10),
        **copy.deepcopy(layers),
    )
    for plan in (net.channels.full_plan, net.plan(0)):
        cost = net.channels.cost(plan)
        assert count(net.channels.slice(net.model, plan), net.inputs[0][:1]) == (cost.flops, cost.params)


def depthwise(x, kernel, **options):
    return F.conv2d(x, kernel, padding=1, groups=x.shape[1], **options)


KERNELS = {
    "a buffer, expanded": lambda net, x: depthwise(x, net.kernel.expand(x.shape[1], -1, -1, -1), stride=2),
    "a parameter, expanded": lambda net, x: depthwise(x, net.learned.expand(x.shape[1], 1, 3, 3)),
    "to a stored width": lambda net, x: F.conv2d(
        x, net.kernel.expand(net.width, -1, -1, -1), padding=1, groups=net.width
    ),
    "repeated": lambda net, x: depthwise(x, net.kernel.repeat(x.shape[1], 1, 1, 1)),
    "tiled": lambda net, x: depthwise(x, net.learned.tile((x.shape[1], 1, 1, 1))),
    "of ones": lambda net, x: depthwise(x, torch.ones(x.shape[1], 1, 3, 3, dtype=x.dtype) / 9),
    "multiplied": lambda net, x: depthwise(x, torch.ones(x.shape[1], 1, 1, 1, dtype=x.dtype) * net.learned),
    "two for each channel": lambda net, x: depthwise(x, net.kernel.repeat(2 * x.shape[1], 1, 1, 1))[:, ::2],
    "transposed": lambda net, x: F.conv_transpose2d(
        x, net.kernel.expand(x.shape[1], -1, -1, -1), groups=x.shape[1]
    ),
    "over channels in the batch": lambda net, x: F.conv2d(
        x.flatten(0, 1)[:, None], net.learned, padding=1
    ).view_as(x),
    "sums of all channels": lambda net, x: (
        x + F.conv2d(x, torch.ones(1, x.shape[1], 1, 1, dtype=x.dtype) / 8)
    ),
    "a product with ones": lambda net, x: (
        x * (torch.ones(1, x.shape[1], dtype=x.dtype) @ x.flatten(2)).view(-1, 1, *x.shape[2:])
    ),
}


@pytest.mark.parametrize("kind", KERNELS)
def test_what_a_forward_makes_up_is_counted_at_the_width_of_what_it_meets(toy, kind):
    line = torch.tensor([1.0, 2.0, 1.0])
    kernel = (line[:, None] * line)[None, None] / 16
    net = toy(
        lambda net, x: net.out(F.relu(net.b(KERNELS[kind](net, F.relu(net.norm(net.a(x)))))).mean((2, 3))),
        a=nn.Conv2d(3, 8, 3, padding=1),
        norm=nn.BatchNorm2d(8),
        kernel=nn.Buffer(kernel),
        learned=nn.Parameter(kernel.clone()),
        width=8,
        b=nn.Conv2d(8, 12, 3, padding=1),
        out=nn.Linear(12, 10),
    )
    assert net.widths == {"a": 8, "b": 12}
    net.require_all()


UNSEEN = {
    "a convolution": lambda x, ones: F.conv2d(x, ones[:, :, None, None]),
    "a linear layer": lambda x, ones: F.linear(x.movedim(1, -1), ones).movedim(-1, 1),
    "a product": lambda x, ones: (ones @ x.flatten(2)).view_as(x),
}


@pytest.mark.parametrize("kind", UNSEEN)
def test_a_width_that_follows_unseen_is_not_offered(toy, kind):
    """Outputs as many as the inputs, but of no channel: the count of such a cut would be wrong."""

    def forward(net, x):
        x = F.relu(net.a(x))
        y = UNSEEN[kind](x, torch.ones(x.shape[1], x.shape[1], dtype=x.dtype))
        return net.out(net.b(x + y).mean((2, 3)))

    net = toy(forward, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 12, 1), out=nn.Linear(12, 10))
    assert net.widths == {"b": 12}
    assert "a size follows channels that it can't be traced to" in net.reasons["a", 0]
    net.require_all()


def kept_aside(net, x):
    net.seen = net.idle(x).detach()
    return x


UNUSED = {
    "thrown away": lambda net, x: (x, net.idle(x))[0],
    "thrown away in place": lambda net, x: (x, net.idle(x).relu_().mul_(2))[0],
    "kept as an attribute": kept_aside,
}
USED = {
    "in place": lambda net, x: x + (y := net.idle(x), y.relu_())[0],
    "in place by a view": lambda net, x: x + (y := net.idle(x), y[:, :, :2].mul_(2))[0],
}


@pytest.mark.parametrize("kind", UNUSED | USED)
def test_results_that_no_output_needs_cost_nothing(toy, kind):
    net = toy(
        lambda net, x: net.out((UNUSED | USED)[kind](net, net.a(x)).mean((2, 3))),
        a=nn.Conv2d(3, 8, 1, bias=False),
        idle=nn.Conv2d(8, 8, 1, bias=False),
        out=nn.Linear(8, 10),
    )
    assert net.channels.cost().flops == 64 * 24 + 80 + (64 * 64 if kind in USED else 0)
    net.require_all()
    idle = [e for e in net.channels.executions.operations if e.kind == "conv2d"][1:]
    assert len(idle) == (kind in USED)


def test_the_full_size_vgg_is_counted_without_its_weights():
    spec = models.spec("vgg16_bn", num_classes=10, in_channels=3, height=224, width=224)
    model = models.build(spec, device="meta")
    channels = analyse(model, torch.empty(1, 3, 224, 224, device="meta"))
    plan = channels.uniform_plan(flops=0.03)
    cost = channels.cost(plan)
    network = channels.slice(model, plan).to_empty(device="cpu")
    assert count(network, torch.zeros(1, 3, 224, 224)) == (cost.flops, cost.params)
    assert channels.cost().params == sum(p.numel() for p in model.parameters()) == 134_309_962


def test_magnitude_is_the_norm_of_the_weights_around_a_channel(toy):
    net = toy(
        lambda net, x: net.b(net.a(x)).mean((2, 3)),
        a=nn.Conv2d(3, 4, 1, bias=False),
        b=nn.Conv2d(4, 2, 1, bias=False),
    )
    model = net.model
    norm = (model.a.weight.square().sum((1, 2, 3)) + model.b.weight.square().sum((0, 2, 3))).sqrt()
    found = net.channels.magnitude(model)["a"]
    assert torch.allclose(found.double(), norm / norm.mean(), rtol=1e-5)


def test_folded_gates_do_not_change_the_cost(toy):
    net = small(toy)
    plan = net.plan(0)
    network = fold(net.channels.gated(net.channels.slice(net.model, plan), plan))
    cost = net.channels.cost(plan)
    assert count(network, net.inputs[0][:1]) == (cost.flops, cost.params)
