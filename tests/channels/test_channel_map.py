"""`analyse`: what it takes, what it leaves alone, and what it says when it can't."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import jstc
from jstc.channels import analyse, rule
from jstc.channels.trace.ids import named_tensors
from jstc.errors import ChannelError


def described(channels):
    return channels.groups, channels.frozen, channels.cost(), channels.gated_groups


@pytest.mark.parametrize("name", ["cifar/resnet20", "mobilenet_v2", "densenet121"])
def test_the_model_is_left_as_it_was(example, name):
    model = copy.deepcopy(example(name).model).float().train()
    next(model.children()).eval()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    addresses = [t.data_ptr() for _, t in named_tensors(model)]
    training = [m.training for m in model.modules()]
    analyse(model, example(name).inputs[0].float())
    assert all(torch.equal(t, before[key]) for key, t in model.state_dict().items())
    assert [t.data_ptr() for _, t in named_tensors(model)] == addresses
    assert [m.training for m in model.modules()] == training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


FORMS = {
    "meta": lambda model, x: (copy.deepcopy(model).to("meta"), x.to("meta")),
    "meta, real image": lambda model, x: (copy.deepcopy(model).to("meta"), x),
    "float32": lambda model, x: (copy.deepcopy(model).float(), x.float()),
    "float16": lambda model, x: (copy.deepcopy(model).half(), x.half()),
    "channels last": lambda model, x: (
        copy.deepcopy(model).to(memory_format=torch.channels_last),
        x.contiguous(memory_format=torch.channels_last),
    ),
    "training": lambda model, x: (copy.deepcopy(model).train(), x),
    "a tuple": lambda model, x: (model, (x,)),
    "a dict": lambda model, x: (model, {"x": x}),
    "without gradients": lambda model, x: (copy.deepcopy(model).requires_grad_(False), x),
}


@pytest.mark.parametrize("name", ["cifar/resnet20", "shufflenet_v2_x1_0"])
@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_the_model_does_not_matter(example, name, form):
    found = example(name)
    model, images = FORMS[form](found.model, found.inputs[0][:1])
    assert described(analyse(model, images)) == described(found.channels)


def test_a_sub_network_can_be_analysed_and_cut_again(example):
    found = example("cifar/resnet20")
    small = found.cut(found.channels.random_plan(flops=0.6, seed=0))
    channels = analyse(small, found.inputs[0][:1])
    assert channels.groups[0].name == found.channels.groups[0].name
    smaller = channels.slice(small, channels.random_plan(flops=0.5, seed=0))
    assert channels.cost() == found.channels.cost(found.channels.random_plan(flops=0.6, seed=0))
    assert smaller(found.inputs[0]).shape == (2, 10)


def test_it_is_the_public_function():
    assert jstc.analyse is analyse


def small(function, **layers):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 10, 1)
            for name, layer in layers.items():
                setattr(self, name, layer)

        def forward(self, x):
            return self.b(function(self, F.relu(self.a(x)))).mean((2, 3))

    return Net()


def test_a_forward_that_looks_at_values_is_run_for_real():
    net = small(lambda net, x: x + 1 if float(x.abs().sum()) >= 0 else x)
    channels = analyse(net, torch.randn(1, 3, 4, 4))
    assert channels.widths == {"a": 8}


def test_a_tensor_that_is_no_buffer_is_no_obstacle():
    net = small(lambda net, x: x * net.constant)
    net.constant = torch.tensor(2.0)
    assert analyse(net, torch.randn(1, 3, 4, 4)).widths == {"a": 8}


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        (torch.randn(1, 5, 4, 4), "forward failed at aten.conv2d in a"),
        ((torch.randn(1, 3, 4, 4), 1), "forward failed at the first operation"),
    ],
)
def test_a_forward_that_fails_is_reported_with_its_place(images, complaint):
    with pytest.raises(ChannelError, match=complaint):
        analyse(small(lambda net, x: x), images)


def test_the_failure_of_the_users_own_code_is_told():
    def broken(net, x):
        raise KeyError("missing part")

    with pytest.raises(ChannelError, match="missing part"):
        analyse(small(broken), torch.randn(1, 3, 4, 4))


def test_operations_without_a_rule_are_counted():
    net = small(lambda net, x: x.matrix_exp().matrix_exp())
    assert analyse(net, torch.randn(1, 3, 4, 4)).unknown_operations == {"aten.linalg_matrix_exp": 2}


def test_hooks_of_the_user_run_in_the_trace_and_stay():
    net, seen = small(lambda net, x: x), []
    handle = net.a.register_forward_hook(lambda *_: seen.append(1))
    analyse(net, torch.randn(1, 3, 4, 4))
    assert seen and list(net.a._forward_hooks) == [handle.id]


def test_a_project_can_add_a_rule_for_its_own_operation():
    library = torch.library.Library("jstc_test", "DEF")
    library.define("swap_halves(Tensor x) -> Tensor")
    library.impl("swap_halves", lambda x: x.roll(x.shape[1] // 2, 1), "CompositeExplicitAutograd")

    def swap(net, x):
        return torch.ops.jstc_test.swap_halves(x)

    images = torch.randn(1, 3, 4, 4)
    assert analyse(small(swap), images).widths == {}

    @rule("jstc_test::swap_halves")
    def _(tracer, call):
        labels = list(tracer.labels(call.first))
        half = len(labels[1]) // 2
        tracer.tie(labels[1][:half], labels[1][half:])
        return tuple(labels)

    net = small(swap)
    channels = analyse(net, images)
    assert channels.widths == {"a": 4}
    assert channels.slice(net, channels.uniform_plan(flops=0.5))(images).shape == (1, 10)


def test_inexact_groups_are_named_and_only_those(toy):
    net = toy(
        lambda net, x: net.c(net.norm(net.b(F.relu(net.a(x))))).mean((2, 3)),
        a=nn.Conv2d(3, 8, 1),
        b=nn.Conv2d(8, 6, 1),
        norm=nn.GroupNorm(2, 6),
        c=nn.Conv2d(6, 10, 1),
    )
    assert net.channels.inexact == {"b": "group_norm over the channels"}
