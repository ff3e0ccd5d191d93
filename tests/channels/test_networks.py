"""Well-known networks: cut exactly, put back exactly, counted exactly."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from jstc.channels import fold
from jstc.channels.trace.ids import named_tensors
from jstc.runs.stages.train import count

CIFAR = ["cifar/resnet20", "cifar/resnet32", "cifar/resnet56", "cifar/resnet110", "cifar/vgg16_bn"]
NETWORKS = [
    *CIFAR,
    "resnet18",
    "resnet50",
    "vgg16_bn",
    "mobilenet_v2",
    "densenet121",
    "resnext50_32x4d",
    "shufflenet_v2_x1_0",
    "efficientnet_b0",
]
pytestmark = pytest.mark.parametrize("name", NETWORKS)


def test_slicing_equals_masking(example, name):
    found = example(name)
    for plan in (found.channels.random_plan(flops=0.4, seed=1), found.plan(seed=2)):
        small = found.cut(plan)
        assert type(small) is type(found.model)
        assert small(found.inputs[0].repeat(2, 1, 1, 1)[:3]).shape == (3, 10)  # another batch size


def test_cost_is_what_fvcore_counts(example, name):
    found = example(name)
    image = found.inputs[0][:1]
    plans = [found.channels.full_plan, found.channels.random_plan(flops=0.6, seed=3), found.plan(seed=4)]
    for plan in plans:
        cost = found.channels.cost(plan)
        assert (cost.flops, cost.params) == count(found.channels.slice(found.model, plan), image)


def test_slices_return_to_their_places(example, name):
    found = example(name)
    plan = found.channels.random_plan(params=0.5, seed=5)
    small = found.channels.slice(found.model, plan)
    target = copy.deepcopy(found.model)
    for _, tensor in named_tensors(target):
        tensor.data.zero_()
    found.channels.map_back(small, target, plan)
    again = dict(named_tensors(found.channels.slice(target, plan)))
    assert all(torch.equal(tensor, again[key]) for key, tensor in named_tensors(small))


def _places(found, plan):
    """By tensor: where the slices of `plan` go, found by putting ones into zeros."""
    target, small = copy.deepcopy(found.model), found.channels.slice(found.model, plan)
    for network, value in ((target, 0), (small, 1)):
        for _, tensor in named_tensors(network):
            tensor.data.fill_(value)
    found.channels.map_back(small, target, plan)
    return {key: tensor == 1 for key, tensor in named_tensors(target)}


def test_mapping_back_changes_only_what_is_kept(example, name):
    found = example(name)
    plan = found.plan(seed=6)
    places = _places(found, plan)
    trained, target = found.channels.slice(found.model, plan), copy.deepcopy(found.model)
    for _, tensor in named_tensors(trained):
        tensor.data.add_(1)
    found.channels.map_back(trained, target, plan)
    new, before = dict(named_tensors(trained)), dict(named_tensors(found.model))
    for key, tensor in named_tensors(target):
        assert torch.equal(tensor[places[key]], new[key].flatten())
        assert torch.equal(tensor[~places[key]], before[key][~places[key]])
    assert any(not place.all() for place in places.values())


def _terms(gated):
    """By gate: the sum of all absolute terms that its gradient consists of (the gates are one)."""
    total, tensors = torch.zeros_like(gated.alpha), dict(gated.network.named_parameters())
    for key, index in gated.index.items():
        terms = (tensors[key] * tensors[key].grad).abs().flatten(1 if tensors[key].dim() > 1 else 0)
        inside = index < len(total)
        total.index_add_(0, index[inside], terms.view(len(index), -1).sum(1)[inside].detach())
    return total


def test_every_group_has_gates_that_learn(example, name):
    found = example(name)
    channels, plan = found.channels, found.channels.random_plan(flops=0.7, seed=7)
    assert channels.gated_groups == tuple(channels.widths)
    gated = channels.gated(channels.slice(found.model, plan), plan).double().train()
    gated(found.inputs[0]).square().sum().backward()
    gradient, terms = gated.alpha.grad.abs(), _terms(gated)
    assert torch.equal(gradient > 0, terms > 0)  # without a term a channel is dead in these two images
    for start, kept in zip(np.cumsum([0, *plan.counts.values()]), plan.counts.values(), strict=False):
        own = slice(start, start + kept)
        alive = terms[own] > 0
        assert alive.float().mean() > 0.2
        # A gate before its norm would be here too, but with terms that cancel to a share near 1e-5.
        assert alive.sum() < 4 or (gradient[own] / terms[own])[alive].median() > 1e-3


def test_a_closed_gate_is_a_cut(example, apart, name):
    # Nothing of the gates' own arithmetic is used here: zero gates must do what slicing does.
    found = example(name)
    channels, plan = found.channels, found.plan(seed=8)
    open_ = {group: torch.zeros(width) for group, width in channels.widths.items()}
    for group, kept in plan.kept.items():
        open_[group][list(kept)] = 1.0
    full = channels.full_plan
    gated = channels.gated(channels.slice(found.model, full), full, open_).double().eval()
    assert apart(found(gated), found(channels.slice(found.model, plan))) <= 1e-10


def test_folding_changes_nothing(example, apart, name):
    found = example(name)
    plan = found.channels.random_plan(flops=0.5, seed=9)
    plain = found.channels.slice(found.model, plan)
    for kind, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        gated = found.channels.gated(copy.deepcopy(plain), plan).to(kind).eval()
        gated.alpha.data.uniform_(0.5, 1.5)
        images = found.inputs[0].to(kind)
        with torch.inference_mode():
            before = gated(images)
        folded = fold(gated)
        with torch.inference_mode():
            assert apart(folded(images), before) <= tolerance
            assert apart(plain.to(kind)(images), before) > 1e-3
        plain.double()
