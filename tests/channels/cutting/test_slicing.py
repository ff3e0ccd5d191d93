"""Slices, masks, and modules rebuilt around other tensors."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jstc.channels.cutting.slicing import rebuild, take_tensors
from jstc.channels.trace.ids import named_tensors
from jstc.errors import ChannelError
from jstc.plan import Plan


def block(toy):
    return toy(
        lambda net, x: net.out(F.relu(net.norm(net.up(net.deep(F.relu(net.a(x)))))).mean((2, 3))),
        a=nn.Conv2d(3, 8, 3, padding=1),
        deep=nn.Conv2d(8, 16, 3, padding=1, groups=8),
        up=nn.ConvTranspose2d(16, 12, 2, stride=2),
        norm=nn.BatchNorm2d(12),
        out=nn.Linear(12, 10),
    )


PLAN = Plan({"a": (1, 2, 6), "up": (0, 3, 4, 11)}, {"a": 8, "up": 12})


def test_attributes_are_repaired(toy):
    net = block(toy)
    small = net.cut(PLAN)
    assert (small.a.in_channels, small.a.out_channels) == (3, 3)
    assert (small.deep.in_channels, small.deep.out_channels, small.deep.groups) == (3, 6, 3)
    assert (small.up.in_channels, small.up.out_channels) == (6, 4)
    assert (small.norm.num_features, small.out.in_features, small.out.out_features) == (4, 4, 10)
    assert net.model.a.out_channels == 8 and net.model.norm.num_features == 12


def test_slices_are_the_kept_positions(toy):
    net = block(toy)
    small, model = net.channels.slice(net.model, PLAN), net.model
    assert small.a.weight.equal(model.a.weight[[1, 2, 6]])
    assert small.deep.weight.equal(model.deep.weight[[2, 3, 4, 5, 12, 13]])
    assert small.up.weight.equal(model.up.weight[[2, 3, 4, 5, 12, 13]][:, [0, 3, 4, 11]])
    assert small.norm.running_var.equal(model.norm.running_var[[0, 3, 4, 11]])
    assert small.out.weight.equal(model.out.weight[:, [0, 3, 4, 11]])


def test_a_slice_shares_no_memory_with_its_source(toy):
    net = block(toy)
    for plan in (PLAN, net.channels.full_plan):
        small, before = net.channels.slice(net.model, plan), copy.deepcopy(net.model.state_dict())
        for _, tensor in named_tensors(small):
            tensor.data.zero_()
        assert all(torch.equal(t, before[key]) for key, t in net.model.state_dict().items())


def test_a_slice_keeps_flags_types_and_hooks(toy):
    net, seen = block(toy), []
    model = copy.deepcopy(net.model).float()
    model.train()
    model.norm.eval()
    model.a.weight.requires_grad_(False)
    model.register_forward_hook(lambda *_: seen.append(1))
    small = net.channels.slice(model, PLAN)
    assert small.training and not small.norm.training
    assert small.a.weight.requires_grad is False and small.out.weight.requires_grad
    assert {t.dtype for _, t in named_tensors(small)} == {torch.float32, torch.int64}
    small(net.inputs[0].float())
    assert seen == [1]


def test_channels_last_and_meta_stay_what_they_are(toy):
    net = block(toy)
    last = copy.deepcopy(net.model).to(memory_format=torch.channels_last)
    small = net.channels.slice(last, PLAN)
    torch.testing.assert_close(net(small), net(net.channels.slice(net.model, PLAN)))
    assert small.a.weight.is_contiguous(memory_format=torch.channels_last)
    assert next(net.channels.slice(copy.deepcopy(net.model).to("meta"), PLAN).parameters()).is_meta


def test_mapping_back_by_hand(toy):
    net = block(toy)
    target = copy.deepcopy(net.model)
    small = net.channels.slice(target, PLAN)
    for _, tensor in named_tensors(small):
        tensor.data.fill_(7)
    net.channels.map_back(small, target, PLAN)
    assert (target.norm.weight == 7).nonzero().flatten().tolist() == [0, 3, 4, 11]
    assert (target.up.weight == 7).all((2, 3)).nonzero().tolist() == [
        [i, o] for i in (2, 3, 4, 5, 12, 13) for o in (0, 3, 4, 11)
    ]
    assert (target.out.bias == 7).all() and target.norm.num_batches_tracked == 7
    assert target.a.weight[0].equal(net.model.a.weight[0])


def test_momentum_is_cut_and_put_back_like_the_weights(toy):
    net = block(toy)
    momentum = {name: torch.randn_like(p) for name, p in net.model.named_parameters()}
    whole = {name: tensor.clone() for name, tensor in momentum.items()}
    small = net.channels.take(momentum, PLAN)
    assert small["up.weight"].equal(momentum["up.weight"][[2, 3, 4, 5, 12, 13]][:, [0, 3, 4, 11]])
    net.channels.put({name: 2 * tensor for name, tensor in small.items()}, momentum, PLAN)
    again = net.channels.take(momentum, PLAN)
    assert all(torch.equal(again[name], 2 * tensor) for name, tensor in small.items())
    assert momentum["a.weight"][0].equal(whole["a.weight"][0])


def test_taking_some_tensors_only(toy):
    net = block(toy)
    assert list(net.channels.take({"a.bias": torch.arange(8.0)}, PLAN)["a.bias"]) == [1, 2, 6]


def test_masks_zero_exactly_what_is_removed(toy):
    net = block(toy)
    masked = copy.deepcopy(net.model)
    net.channels.mask(masked, PLAN)
    for _, tensor in named_tensors(ones := copy.deepcopy(net.model)):
        tensor.data.fill_(1)
    net.channels.mask(ones, PLAN)
    removed = sum(int((p == 0).sum()) for p in ones.parameters())
    kept = [[0, 3, 4, 11], [1, 2, 6]]
    assert removed > 0 and masked.norm.running_mean.equal(net.model.norm.running_mean)
    assert masked.norm.weight.nonzero().flatten().tolist() == kept[0]
    assert masked.a.bias.nonzero().flatten().tolist() == kept[1]
    assert int((ones.up.weight != 0).sum()) == 6 * 4 * 4


@pytest.mark.parametrize(
    "plan",
    [
        Plan({"a": (1,)}, {"a": 8}),
        Plan({"a": (1,), "up": (0,), "more": (0,)}, {"a": 8, "up": 12, "more": 2}),
        Plan({"a": (1,), "up": (0,)}, {"a": 8, "up": 13}),
        Plan({"a": (1,), "upp": (0,)}, {"a": 8, "upp": 12}),
    ],
)
def test_plans_of_other_networks_are_refused(toy, plan):
    net = block(toy)
    use = net.channels
    for call in (
        lambda: use.slice(net.model, plan),
        lambda: use.cost(plan),
        lambda: use.map_back(net.model, net.model, plan),
        lambda: use.mask(copy.deepcopy(net.model), plan),
    ):
        with pytest.raises(ChannelError, match=r"another network: group\(s\) .* differ"):
            call()


def test_rebuilding_with_given_tensors(toy):
    net = block(toy)
    small = net.channels.slice(net.model, PLAN)
    again = rebuild(net.model, dict(named_tensors(small)))
    assert net(again).equal(net(small)) and type(again) is type(net.model)
    assert isinstance(again.a.weight, nn.Parameter) and not isinstance(again.norm.running_var, nn.Parameter)


def test_rebuilding_refuses_other_tensors(toy):
    net = block(toy)
    tensors = dict(named_tensors(net.model))
    for change, complaint in [
        ({"spare": torch.zeros(1)}, "not those of this network: 1 only among the tensors, such as 'spare'"),
        ({"a.bias": torch.zeros(9)}, r"'a.bias' does not fit: its shape is \[9\], the network's own \[8\]"),
        ({"a.bias": torch.zeros(8, 1)}, "'a.bias' does not fit"),
    ]:
        with pytest.raises(ChannelError, match=complaint):
            rebuild(net.model, tensors | change)
    del tensors["out.bias"]
    with pytest.raises(ChannelError, match=r"1 only in the network, such as 'out\.bias'"):
        rebuild(net.model, tensors)


@pytest.mark.parametrize("shape", [(6, 5), (6, 3000), (6, 5, 2, 2), (6, 2000, 2), (1, 1500)])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_large_and_small_slices(shape, kind):
    tensor = torch.arange(math.prod(shape)).reshape(shape).to(kind)
    rows = torch.arange(shape[0])[::2].contiguous()
    columns = torch.randperm(shape[1])[: -(-shape[1] * 3 // 4)].sort().values
    for first, second in ((rows, columns), (None, columns), (rows, None), (None, None)):
        index = (first, second, *[None] * (len(shape) - 2))
        expected = tensor
        for dim, kept in enumerate(index):
            expected = expected if kept is None else expected.index_select(dim, kept)
        taken = take_tensors({"w": tensor}, {"w": index})["w"]
        assert taken.equal(expected) and taken.is_contiguous() and taken.dtype == kind
        taken.zero_()
        assert tensor.flatten()[-1] == torch.tensor(math.prod(shape) - 1).to(kind)
        there = take_tensors({"w": tensor.to("meta")}, {"w": index})["w"]
        assert there.is_meta and (there.shape, there.dtype) == (expected.shape, kind)
