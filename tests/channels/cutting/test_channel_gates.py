"""Gates: after the norm, so that they learn; folded, so that they are gone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jstc.channels import fold
from jstc.errors import ChannelError


def conv(inside: int, outside: int) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 3, padding=1)


def normed(toy, norm):
    return toy(
        lambda net, x: net.b(F.relu(net.norm(net.a(x)))).mean((2, 3)), a=conv(3, 8), norm=norm, b=conv(8, 10)
    )


def gated(net, *, seed=None):
    """The whole network with gates, and other values than ones in them with a seed."""
    plan = net.channels.full_plan if seed is None else net.plan(seed)
    network = net.channels.gated(net.channels.slice(net.model, plan), plan).double().eval()
    if seed is not None:
        network.alpha.data.uniform_(0.5, 1.5)
    return network


def test_only_gates_that_are_all_one_are_left_out(toy):
    network = gated(normed(toy, nn.BatchNorm2d(8)))
    assert network.ungated() is network.network
    network.alpha.data[3] = 0.5
    assert network.ungated() is network


def test_a_gate_before_its_norm_would_not_learn_and_ours_does(toy):
    net = normed(toy, nn.BatchNorm2d(8, eps=1e-12))
    before = torch.ones(8, dtype=torch.float64, requires_grad=True)
    model = copy.deepcopy(net.model).train()
    weights = {"a.weight": model.a.weight * before.view(-1, 1, 1, 1), "a.bias": model.a.bias * before}
    torch.func.functional_call(model, weights, net.inputs).square().sum().backward()
    ours = gated(net).train()
    ours(*net.inputs).square().sum().backward()
    assert before.grad.abs().max() < 1e-9
    assert ours.alpha.grad.abs().min() > 1e-3


def test_gates_scale_what_comes_out_of_the_norm(toy, apart):
    net = normed(toy, nn.BatchNorm2d(8))
    network = gated(net)
    network.alpha.data.uniform_(0.5, 1.5)
    m, alpha = net.model, network.alpha.data
    with torch.inference_mode():
        x = m.norm(m.a(*net.inputs)) * alpha.view(1, -1, 1, 1)
        expected = m.b(F.relu(x)).mean((2, 3))
        assert apart(network(*net.inputs), expected) < 1e-12
    assert apart(net(), expected) > 1e-2


@pytest.mark.filterwarnings("ignore:input's size at dim=1")
@pytest.mark.parametrize("norm", [nn.BatchNorm2d(8, affine=False), nn.InstanceNorm2d(8)])
def test_a_norm_without_parameters_leaves_no_place_for_a_gate(toy, norm):
    # Before the norm it would only pretend to be one.
    net = normed(toy, norm)
    assert net.widths == {"a": 8} and net.channels.gated_groups == ()
    network = gated(net)
    network(*net.inputs).sum().backward()
    assert network.alpha.grad is None
    assert fold(network)(*net.inputs).equal(net())


def test_instance_norms_carry_the_gate(toy):
    network = gated(normed(toy, nn.InstanceNorm2d(8, affine=True)))
    assert set(network.effective()) == {"norm.weight", "norm.bias"}


def test_without_a_norm_the_layer_that_makes_the_channel_carries_the_gate(toy):
    net = toy(
        lambda net, x: net.c((net.a(x) + net.b(x)).relu().mean((2, 3))),
        a=conv(3, 8),
        b=conv(3, 8),
        c=nn.Linear(8, 5),
    )
    network = gated(net)
    assert set(network.effective()) == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert net.channels.gated_groups == ("a",)


def test_a_channel_that_passes_several_norms_is_gated_in_each(toy):
    net = toy(
        lambda net, x: net.c((net.norm1(net.a(x)) + net.norm2(net.b(x))).relu()).mean((2, 3)),
        a=conv(3, 8),
        b=conv(3, 8),
        c=conv(8, 10),
        norm1=nn.BatchNorm2d(8),
        norm2=nn.BatchNorm2d(8),
    )
    assert set(gated(net).effective()) == {f"norm{i}.{p}" for i in (1, 2) for p in ("weight", "bias")}


def test_only_the_prunable_positions_of_a_parameter_are_scaled(toy, apart):
    # Two of the norm's three parts have gates; the one between them belongs to the network's input.
    def forward(net, x):
        return net.out(net.norm(torch.cat([net.a(x), x, net.b(x)], 1)).relu()).mean((2, 3))

    net = toy(forward, a=conv(3, 4), b=conv(3, 5), norm=nn.BatchNorm2d(12), out=conv(12, 10))
    network = gated(net, seed=1)
    plan, norm = net.plan(1), network.effective()["norm.weight"]
    a, b = len(plan.kept["a"]), len(plan.kept["b"])
    scale = norm / network.network.norm.weight
    expected = torch.cat([network.alpha[:a], torch.ones(3), network.alpha[a:]])
    assert torch.allclose(scale, expected, rtol=1e-6) and len(network.alpha) == a + b
    assert apart(net(fold(copy.deepcopy(network))), net(network)) < 1e-12


def test_folding_returns_the_plain_network_and_opens_the_gates(toy):
    network = gated(normed(toy, nn.BatchNorm2d(8)), seed=0)
    plain = network.network
    assert fold(network) is plain
    assert (network.alpha == 1).all()


def test_gates_can_be_read_and_loaded_by_group(example):
    channels = example("cifar/resnet20").channels
    plan = channels.random_plan(flops=0.5, seed=0)
    small = channels.slice(example("cifar/resnet20").model, plan)
    values = {name: torch.rand(kept) for name, kept in plan.counts.items()}
    network = channels.gated(small, plan, values)
    assert all(torch.equal(network.gates[name], value) for name, value in values.items())
    assert torch.equal(network.alpha.data, torch.cat(list(values.values())))
    with pytest.raises(ChannelError, match="another plan"):
        network.load_gates({name: torch.rand(kept + 1) for name, kept in plan.counts.items()})
    with pytest.raises(ChannelError, match="another plan"):
        network.load_gates({})


def test_weights_and_gates_are_trained_together(toy):
    network = gated(normed(toy, nn.BatchNorm2d(8))).train()
    network(torch.randn(4, 3, 8, 8, dtype=torch.float64)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert network.network.norm.num_batches_tracked == 1  # statistics are kept in the network itself


def test_moving_the_network_moves_everything(toy):
    network = gated(normed(toy, nn.BatchNorm2d(8)), seed=0).float().to("meta")
    assert {t.device.type for t in network.effective().values()} == {"meta"}
    assert {index.device.type for index in network.index.values()} == {"meta"}  # as strict as a GPU would be
