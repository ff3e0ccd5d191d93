"""The limits of single groups hold in every plan that a search may visit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from jstc import models
from jstc.channels import ChannelMap, analyse
from jstc.channels.budget import uniform_counts
from jstc.errors import BudgetError, RecipeError
from jstc.jst import space
from jstc.jst.space import Space
from tests.helpers.tiny_search import spaces_of


def counts(channels: ChannelMap, own: Space, seed: int) -> list[int]:
    random = np.random.default_rng(seed)
    levels = [np.sort(random.random(g.width)) * random.uniform(0.2, 1) for g in channels.groups]
    order = [random.permutation(group.width) for group in channels.groups]
    return channels.counts(own.plan(order, levels)).tolist()


def test_plans_keep_to_the_limits_of_their_groups(channels: ChannelMap, make_recipe: Any) -> None:
    groups = {"wide": {"round_to": 3}, "last": {"min_share": 0.8, "round_to": 1}}
    own = spaces_of(channels, make_recipe({"channels.groups": groups, "flops": 0.7}))[0]
    found = np.array([counts(channels, own, seed) for seed in range(20)])
    stem, wide, last = found.T
    assert not (wide % 3).any() and len(set(wide.tolist())) > 1
    assert last.min() >= 13
    assert stem.min() < 8


def test_limits_out_of_reach_and_groups_that_are_not_there(channels: ChannelMap, make_recipe: Any) -> None:
    whole = {name: {"min_share": 1.0} for name in ("stem", "wide", "last")}
    with pytest.raises(BudgetError, match=r"no sub-network meets flops .* channels\.groups"):
        space.resolve_budgets(channels, make_recipe({"channels.groups": whole}))
    with pytest.raises(RecipeError, match=r"channels.groups: 'wise' .* such as 'wide'"):
        space.resolve_budgets(channels, make_recipe({"channels.groups": {"wise": {"min_width": 2}}}))


def some_plan(own: Space) -> Any:
    random = np.random.default_rng(1)
    levels = [np.sort(random.random(g.width)) for g in own.channels.groups]
    return own.plan([np.arange(g.width) for g in own.channels.groups], levels)


@pytest.mark.parametrize("budget", [{"flops": 0.6}, {"flops": None, "params": 0.6}])
@pytest.mark.parametrize("share", [0.5, 0.7])
def test_a_share_of_the_budget_is_met(
    channels: ChannelMap, make_recipe: Any, budget: dict[str, Any], share: float
) -> None:
    whole = spaces_of(channels, make_recipe(budget))[0]
    part = whole.at(share)
    [before], [after] = whole.budget.bounds, part.budget.bounds
    assert after.metric == before.metric
    assert after.limit == int(share * before.limit)
    assert part.budget.share == pytest.approx(share * whole.budget.share, rel=1e-3)
    assert 0.9 * after.limit < after.of(channels.cost(some_plan(part))) <= after.limit


BOTH = {"flops": 0.6, "params": 0.4}


def test_a_share_of_several_bounds_is_met_by_all(channels: ChannelMap, make_recipe: Any) -> None:
    whole = spaces_of(channels, make_recipe(BOTH))[0]
    part = whole.at(0.7)
    assert [one.limit for one in part.budget.bounds] == [int(0.7 * one.limit) for one in whole.budget.bounds]
    used = part.budget.shares(channels.cost(some_plan(part)))
    assert 0.9 < max(used.values()) <= 1


@pytest.mark.parametrize("params", [0.9, 0.45])
def test_coarse_rounds_meet_every_bound(channels: ChannelMap, make_recipe: Any, params: float) -> None:
    changes = {"flops": 0.5, "params": params, "search.coarse_budget": "auto"}
    coarse = spaces_of(channels, make_recipe(changes))[0].of_rounds(below=True)
    halves = [group.width // 2 for group in channels.groups]
    assert even_counts(coarse) == halves
    assert coarse.budget.fits(channels.cost_of_counts(np.array(halves)))


def test_half_the_width_is_too_dear_where_one_bound_says_so(channels: ChannelMap, make_recipe: Any) -> None:
    alone, both = (
        spaces_of(channels, make_recipe({"flops": 0.5, "search.coarse_budget": "auto"} | more))[0].coarse
        for more in ({}, {"params": 0.3})
    )
    assert both == 0.52 != alone


def test_the_tightest_bound_decides_on_the_steps(make_recipe: Any) -> None:
    spec = models.spec("resnet20", num_classes=10, in_channels=3, height=32, width=32)
    channels = analyse(models.build(spec, device="meta"), torch.zeros(1, 3, 32, 32))
    wide, fine, both = (
        spaces_of(channels, make_recipe(changes))[0].bounds.step.tolist()
        for changes in ({"flops": 0.5}, {"flops": None, "params": 0.15}, {"flops": 0.5, "params": 0.15})
    )
    assert both == fine != wide


def test_the_whole_share_is_the_space_itself(channels: ChannelMap, make_recipe: Any) -> None:
    whole = spaces_of(channels, make_recipe())[0]
    assert whole.at(1.0) is whole


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_a_share_out_of_reach_is_the_smallest_within_reach(
    channels: ChannelMap, make_recipe: Any, share: float
) -> None:
    recipe = make_recipe({"flops": 0.5, "channels.min_share": 0.6})
    part = spaces_of(channels, recipe)[0].at(share)
    assert list(some_plan(part).counts.values()) == part.bounds.least.tolist()
    least = channels.cost_of_counts(part.bounds.least).flops
    assert part.budget.on("flops").limit == least
    assert part.budget.share == pytest.approx(least / channels.cost().flops, rel=1e-3)


@pytest.mark.parametrize("budget", [{"flops": 0.5}, {"flops": 0.35}, {"flops": None, "params": 0.5}], ids=str)
def test_coarse_rounds_are_those_of_the_network_of_half_the_width(
    channels: ChannelMap, make_recipe: Any, budget: dict[str, Any]
) -> None:
    own = spaces_of(channels, make_recipe({"search.coarse_budget": "auto"} | budget))[0]
    coarse = own.of_rounds(below=True)
    assert even_counts(coarse) == [group.width // 2 for group in channels.groups]
    assert own.of_rounds(below=False) is own


@pytest.mark.parametrize("flops", [0.9, 0.3])
def test_where_half_the_width_is_too_dear_or_too_cheap_coarse_rounds_have_a_fixed_share(
    channels: ChannelMap, make_recipe: Any, flops: float
) -> None:
    own = spaces_of(channels, make_recipe({"search.coarse_budget": "auto", "flops": flops}))[0]
    assert own.coarse == 0.52


def test_several_budgets_share_their_coarse_network(channels: ChannelMap, make_recipe: Any) -> None:
    each = spaces_of(channels, make_recipe({"search.coarse_budget": "auto", "flops": [0.7, 0.5, 0.35]}))
    first, *others = [even_counts(own.of_rounds(below=True)) for own in each]
    assert others == [first, first]


def test_a_share_for_coarse_rounds_is_taken_as_it_is(channels: ChannelMap, make_recipe: Any) -> None:
    assert spaces_of(channels, make_recipe({"search.coarse_budget": 0.3}))[0].coarse == 0.3


def even_counts(own: Space) -> list[int]:
    counts: list[int] = uniform_counts(own.channels, own.budget, own.bounds).tolist()
    return counts


def test_there_is_a_space_for_each_budget(channels: ChannelMap, make_recipe: Any) -> None:
    recipe = make_recipe({"flops": [0.4, 0.6]})
    each = spaces_of(channels, recipe)
    assert [s.budget for s in each] == list(space.resolve_budgets(channels, recipe).values())
    assert [s.budget.share for s in each] == pytest.approx([0.6, 0.4], rel=1e-3)
    with pytest.raises(BudgetError, match="smallest reachable"):
        spaces_of(channels, make_recipe({"flops": [0.4, 0.001]}))


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"flops": 0.5}, {8: {4}, 16: {8}}),
        ({"flops": 0.25}, {16: {4}, 64: {8}}),
        ({"flops": 0.1}, {16: {2}, 32: {4}, 64: {8}}),
        ({"flops": [0.5, 0.1]}, {16: {2}}),  # the smallest budget decides
        ({"flops": 0.5, "channels.round_to": 1}, {16: {1}}),
        ({"flops": 0.5, "weights": "trained.safetensors"}, {8: {4}, 16: {4}, 32: {4}, 64: {8}}),
        ({"flops": 0.05, "weights": "trained.safetensors"}, {16: {2}, 32: {4}, 64: {8}}),
    ],
    ids=str,
)
def test_narrow_groups_have_multiples_of_8_where_the_budget_leaves_room(
    make_recipe: Any, changes: dict[str, Any], steps: dict[int, set[int]]
) -> None:
    spec = models.spec("resnet20", num_classes=10, in_channels=3, height=32, width=32)
    channels = analyse(models.build(spec, device="meta"), torch.zeros(1, 3, 32, 32))
    bounds = spaces_of(channels, make_recipe(changes))[0].bounds
    found: dict[int, set[int]] = {}
    for group, step in zip(channels.groups, bounds.step.tolist(), strict=True):
        found.setdefault(group.width, set()).add(step)
    assert {width: found[width] for width in steps} == steps


def test_steps_too_wide_to_come_near_the_budget_are_halved(channels: ChannelMap, make_recipe: Any) -> None:
    # Three groups: in steps of a half of each hardly any budget can be met.
    assert [group.width for group in channels.groups] == [8, 12, 16]
    assert spaces_of(channels, make_recipe({"flops": 0.7}))[0].bounds.step.tolist() == [1, 1, 2]
