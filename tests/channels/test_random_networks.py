"""Random networks, cut at random: whatever is offered can be cut, and computes what the masked one does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from jstc.channels import ChannelMap, analyse
from jstc.channels.trace.ids import named_tensors
from jstc.plan import Plan
from jstc.runs.stages.train import count
from tests.helpers import random_networks as networks
from tests.helpers.random_networks import Description, Step

# -- what is drawn ----------------------------------------------------------------------------------------

SMALL = st.integers(0, 15)
LEAVES = st.builds(Step, st.sampled_from(sorted(networks.LEAVES)), SMALL, SMALL, st.just(()))
BLOCKS = st.builds(
    Step,
    st.sampled_from(sorted(networks.BLOCKS)),
    SMALL,
    SMALL,
    st.lists(LEAVES, min_size=1, max_size=4).map(tuple),
)
STEPS = st.lists(st.one_of(LEAVES, LEAVES, BLOCKS), min_size=1, max_size=6).map(tuple)
DESCRIPTIONS = st.builds(
    Description,
    STEPS,
    st.sampled_from(networks.HEADS),
    st.sampled_from(["", "", "cat", "add"]),
    st.sampled_from([(8, 8), (4, 8), (6, 6)]),
)


def random_plan(channels: ChannelMap, seed: int, *, whole: Any = ()) -> Plan:
    """At least one channel of each group; all of those in `whole`."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for name, width in channels.widths.items():
        number = width if name in whole else int(torch.randint(1, width + 1, (), generator=generator))
        kept[name] = tuple(sorted(torch.randperm(width, generator=generator)[:number].tolist()))
    return Plan(kept, channels.widths)


# -- what must hold ---------------------------------------------------------------------------------------


def leaves(out: Any) -> list[Tensor]:
    return [t for t in tree_leaves(out) if isinstance(t, Tensor)]


def call(network: nn.Module, images: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.inference_mode():
        return leaves(network(*images))


def require_exact(model: nn.Module, channels: ChannelMap, plan: Plan, images: tuple[Tensor, ...]) -> None:
    """Where nothing mixes all channels, a cut is a mask."""
    masked = copy.deepcopy(model)
    channels.mask(masked, plan)
    for small, hidden in zip(call(channels.slice(model, plan), images), call(masked, images), strict=True):
        assert small.shape == hidden.shape
        assert torch.allclose(small, hidden, rtol=1e-9, atol=1e-9 * float(hidden.abs().max() + 1))


class OneInput(nn.Module):
    """Both inputs as one, because fvcore is given one tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> list[Tensor]:
        given = (x[:, :3], x[:, 3:]) if x.shape[1] > 3 else (x,)
        return leaves(self.network(*given))


def require_counted(model: nn.Module, channels: ChannelMap, plan: Plan, images: tuple[Tensor, ...]) -> None:
    """The cost model says what fvcore counts."""
    cost = channels.cost(plan)
    assert (cost.flops, cost.params) == count(OneInput(channels.slice(model, plan)), torch.cat(images, 1))


def filled(model: nn.Module, value: float) -> nn.Module:
    """The network with every number the same."""
    copied = copy.deepcopy(model)
    for _, tensor in named_tensors(copied):
        tensor.data.fill_(value)
    return copied


def require_returned(model: nn.Module, channels: ChannelMap, plan: Plan) -> None:
    """Slices go back where they came from; trained ones change these places alone."""
    small, target = channels.slice(model, plan), copy.deepcopy(model)
    before = dict(named_tensors(model))
    channels.map_back(small, target, plan)
    assert all(torch.equal(tensor, before[name]) for name, tensor in named_tensors(target))
    marks = filled(model, 0)
    channels.map_back(filled(small, 1), marks, plan)
    for _, tensor in named_tensors(small):
        tensor.data.add_(1)
    channels.map_back(small, target, plan)
    kept, new = dict(named_tensors(marks)), dict(named_tensors(small))
    for name, tensor in named_tensors(target):
        assert torch.equal(tensor[kept[name] == 1], new[name].flatten())
        assert torch.equal(tensor[kept[name] == 0], before[name][kept[name] == 0])


FORMS = {
    "float32": lambda net: net.float(),
    "training": lambda net: net.train(),
    "channels last": lambda net: net.to(memory_format=torch.channels_last),
}


def require_runs(model: nn.Module, channels: ChannelMap, plan: Plan, images: tuple[Tensor, ...]) -> None:
    """The slice runs in every form in which the whole network does."""
    for batch in (1, 3):
        given = tuple(x[:1].repeat(batch, 1, 1, 1) for x in images)
        for name, form in FORMS.items():
            kind = torch.float32 if name == "float32" else torch.float64
            layout = torch.channels_last if name == "channels last" else torch.contiguous_format
            there = tuple(x.to(kind).contiguous(memory_format=layout) for x in given)
            shapes = [t.shape for t in call(form(copy.deepcopy(model)), there)]
            out = call(form(channels.slice(model, plan)), there)
            assert [t.shape for t in out] == shapes
            assert all(t.isfinite().all() and t.dtype == kind for t in out)


def prunable(model: nn.Module, channels: ChannelMap) -> dict[str, Tensor]:
    """By parameter: 1 where a channel of some group is removed by one of two plans that share none."""
    removed = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for first in (True, False):
        kept = {name: (0,) if first else (width - 1,) for name, width in channels.widths.items()}
        masked = filled(model, 1)
        channels.mask(masked, Plan(kept, channels.widths))
        for name, parameter in masked.named_parameters():
            removed[name] += (parameter == 0).double()
    return removed


def require_accounted(model: nn.Module, channels: ChannelMap) -> None:
    """Every channel of a weight is in a group, or frozen with a reason."""
    assert all(f.reason for f in channels.frozen)
    frozen: dict[tuple[str, int], int] = {}
    for f in channels.frozen:
        frozen[f.layer, f.dim] = frozen.get((f.layer, f.dim), 0) + f.channels
    for name, marks in prunable(model, channels).items():
        layer, _, kind = name.rpartition(".")
        for dim in range(min(marks.dim(), 2) if kind == "weight" else 0):
            rows = marks.transpose(0, dim).flatten(1) if marks.dim() > 1 else marks[:, None]
            whole = int((rows == 0).any(1).sum()) if len(rows) > 1 else 0
            # a channel that is in no group has places that neither plan removes
            assert frozen.get((layer, dim), 0) >= (whole if len(rows) > 1 else 0), (name, dim)


def check(description: Any, seed: int, say: Callable[[str], None] = print) -> ChannelMap:
    """All properties of one network and one plan; `say` what they are, to be read when one fails."""
    torch.default_generator.manual_seed(seed)
    model, images = networks.build(description), networks.inputs(description, 2)
    say(str(model))
    single = tuple(x[:1] for x in images)
    channels = analyse(model, single)
    say(f"groups {channels.widths}, frozen {channels.frozen}, inexact {channels.inexact}")
    assert not channels.unknown_operations
    require_accounted(model, channels)
    plan = random_plan(channels, seed)
    say(f"kept {dict(plan.kept)}")
    require_counted(model, channels, plan, single)
    require_returned(model, channels, plan)
    require_runs(model, channels, plan, images)
    require_exact(model, channels, random_plan(channels, seed, whole=channels.inexact), images)
    return channels


FOUND = {
    "three parts of one head": (Description((Step("attention", 0, 0),), "pooled"), 0),
    "windows with one head": (Description((Step("attention", 4, 1),), "pooled"), 0),
    "a token with one head": (Description((Step("class token", 0, 0),), "pooled"), 0),
    "a border at half of the width": (
        Description((Step("split", 0, 4, (Step("conv", 1, 0),)),), "pooled"),
        3,
    ),
    "a border at a quarter of the width": (
        Description((Step("split", 5, 11, (Step("shuffle", 8, 4), Step("shared", 0, 11))),), "tokens", "add"),
        40778,
    ),
    "the first channel by its number": (
        Description((Step("split", 14, 13, (Step("transposed", 4, 10),)), Step("response", 9, 8)), "pooled"),
        0,
    ),
    "a norm that counts its channels": (Description((Step("conv", 0, 1), Step("norm", 2, 3)), "pooled"), 0),
    "a plain layer norm": (Description((Step("norm", 5, 1),), "pooled"), 0),
    "a border between a group and channels that stay": (
        Description(
            (Step("strided", 1, 1), Step("split", 9, 10, (Step("strided", 13, 15), Step("strided", 6, 6)))),
            "pooled",
            size=(6, 6),
        ),
        12377,
    ),
    "a border through a group, and one beside it": (
        Description((Step("transposed", 2, 2), Step("split", 3, 11, (Step("shared", 7, 2),))), "several"),
        62645,
    ),
    "halves with unequal shares of two groups": (
        Description(
            (
                Step("residual", 12, 11, (Step("pixels", 15, 11),)),
                Step("branches", 10, 2),
                Step("split", 14, 4),
            ),
            "pooled",
            "cat",
        ),
        58064,
    ),
}


OPEN: set[str] = set()
WAITING = pytest.mark.xfail(strict=True, reason="known, not yet mended")


@pytest.mark.parametrize("name", [pytest.param(n, marks=WAITING if n in OPEN else ()) for n in FOUND])
def test_networks_that_once_were_cut_wrongly(name):
    check(*FOUND[name])


SEEDS = st.integers(0, 2**16)
QUICK = settings(max_examples=30, suppress_health_check=list(HealthCheck))


@QUICK
@given(DESCRIPTIONS, SEEDS)
def test_random_networks(description, seed):
    check(description, seed, note)


@pytest.mark.slow
@settings(QUICK, max_examples=500)
@given(DESCRIPTIONS, SEEDS)
def test_many_random_networks(description, seed):
    check(description, seed, note)
