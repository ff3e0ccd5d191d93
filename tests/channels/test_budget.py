"""Budgets are never passed, and met as nearly as the channels allow."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jstc.channels import Cost, budget
from jstc.channels.budget import WidthBounds
from jstc.errors import BudgetError

NETWORKS = ["cifar/resnet20", "cifar/resnet56", "cifar/vgg16_bn", "mobilenet_v2", "shufflenet_v2_x1_0"]


def require_met(channels, counts, bound, bounds=None):
    """Within the budget; at 98 % of one of its bounds or more, or else no further step of any group fits."""
    bounds = bounds or WidthBounds.of(channels.groups)
    cost = channels.cost_of_counts(counts)
    assert all(one.of(cost) <= one.limit for one in bound.bounds)
    if any(one.of(cost) >= 0.98 * one.limit for one in bound.bounds):
        return
    for g, group in enumerate(channels.groups):
        if counts[g] < group.width:
            more = counts.copy()
            more[g] += min(bounds.step[g], group.width - counts[g])
            cost = channels.cost_of_counts(more)
            assert any(one.of(cost) > one.limit for one in bound.bounds), group.name


def random_levels(channels, random):
    return [np.sort(random.random(g.width)) * random.uniform(0.5, 2) for g in channels.groups]


@pytest.mark.parametrize("metric", ["flops", "params"])
@pytest.mark.parametrize("name", NETWORKS)
def test_many_random_plans_meet_their_budget(example, name, metric):
    channels, bounds = example(name).channels, WidthBounds.of(example(name).channels.groups)
    least = getattr(budget.smallest(channels, bounds), metric) / getattr(channels.cost(), metric)
    different = set()
    for seed, share in enumerate(np.linspace(least + 0.005, 0.999, 15)):
        plan = channels.random_plan(**{metric: float(share)}, seed=seed)
        bound = budget.resolve(channels, {metric: float(share)}, bounds)
        require_met(channels, channels.counts(plan), bound)
        assert channels.cost(plan) == channels.cost_of_counts(channels.counts(plan))
        different.add(plan.hash)
    assert len(different) == 15


@settings(max_examples=60)
@given(
    st.sampled_from(["cifar/resnet20", "cifar/resnet56"]),
    st.sampled_from(["flops", "params"]),
    st.floats(0, 1),
    st.integers(0, 2**32),
    st.sampled_from([1, 3, 8, "auto"]),
    st.sampled_from([0.0, 0.1, 0.5]),
)
def test_any_budget_is_met_within_any_limits(example, name, metric, position, seed, round_to, min_share):
    channels = example(name).channels
    bounds = WidthBounds.of(channels.groups, round_to=round_to, min_share=min_share)
    least = getattr(budget.smallest(channels, bounds), metric)
    amount = least + position * (getattr(channels.cost(), metric) - 1 - least)
    bound = budget.resolve(channels, {metric: float(amount)}, bounds)
    levels = random_levels(channels, np.random.default_rng(seed))
    counts = budget.project(channels, levels, bound, bounds)
    require_met(channels, counts, bound, bounds)
    widths = channels.full_counts
    assert ((counts % bounds.step == 0) | (counts == widths)).all()
    assert (counts >= np.minimum(np.maximum(1, np.ceil(widths * min_share)), widths)).all()
    assert (counts <= widths).all()


def test_a_larger_budget_takes_no_group_back(example):
    # The queue is one, so where filling does not reach, more budget means more of it.
    channels = example("cifar/resnet56").channels
    bounds = WidthBounds.of(channels.groups)
    levels = random_levels(channels, np.random.default_rng(0))
    shares = np.linspace(0.2, 0.9, 8)
    found = [budget.resolve(channels, {"params": float(share)}, bounds) for share in shares]
    totals = [int(budget.project(channels, levels, bound, bounds).sum()) for bound in found]
    assert totals == sorted(totals) and len(set(totals)) == len(totals)


def test_a_group_whose_channels_join_first_is_kept_widest(example):
    channels = example("cifar/resnet20").channels
    bounds = WidthBounds.of(channels.groups)
    levels = [np.linspace(1, 2, g.width) for g in channels.groups]
    levels[3] -= 1
    counts = budget.project(channels, levels, budget.resolve(channels, {"flops": 0.5}, bounds), bounds)
    assert counts[3] == channels.groups[3].width
    assert (counts < channels.full_counts).sum() == len(counts) - 1


def test_uniform_plans_keep_the_first_channels_and_the_same_share(example):
    channels = example("mobilenet_v2").channels
    plan = channels.uniform_plan(flops=0.5)
    assert all(kept == tuple(range(len(kept))) for kept in plan.kept.values())
    shares = np.array([len(plan.kept[g.name]) / g.width for g in channels.groups])
    steps = 1 / channels.full_counts
    assert (np.abs(shares - np.median(shares)) <= 2 * steps).all()
    require_met(
        channels,
        channels.counts(plan),
        budget.resolve(channels, {"flops": 0.5}, WidthBounds.of(channels.groups)),
    )


def test_random_plans_follow_their_seed(example):
    channels = example("cifar/resnet20").channels
    assert channels.random_plan(flops=0.5, seed=3) == channels.random_plan(flops=0.5, seed=3)
    assert channels.random_plan(flops=0.5, seed=3) != channels.random_plan(flops=0.5, seed=4)


@pytest.mark.parametrize(
    ("width", "round_to", "step"),
    [
        *((64, 8, 8), (20, 8, 8), (4, 8, 4), (7, 1, 1)),
        *((7, "auto", 1), (16, "auto", 2), (63, "auto", 4), (64, "auto", 8), (512, "auto", 8)),
    ],
)
def test_the_step_of_a_width(width, round_to, step):
    assert budget.step_for(width, round_to) == step


def _asked(text):
    """The amounts that a message tells the reader to ask for: an absolute one, and a share."""
    number, unit, share = re.search(
        r"smallest reachable has ([\d.]+) ?([kMG]?) .* a share of ([\d.]+);", text
    ).groups()
    return float(number) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[unit], float(share)


@pytest.mark.parametrize("metric", ["flops", "params"])
@pytest.mark.parametrize("name", NETWORKS)
def test_an_impossible_budget_names_the_smallest_one_and_that_is_possible(example, name, metric):
    channels, bounds = example(name).channels, WidthBounds.of(example(name).channels.groups)
    least = getattr(budget.smallest(channels, bounds), metric)
    with pytest.raises(BudgetError, match="no sub-network meets") as caught:
        budget.resolve(channels, {metric: float(least - 1)}, bounds)
    for amount in (*_asked(str(caught.value)), float(least)):
        bound = budget.resolve(channels, {metric: amount}, bounds)
        counts = budget.project(channels, random_levels(channels, np.random.default_rng(0)), bound, bounds)
        require_met(channels, counts, bound)
        assert bound.on(metric).limit <= 1.001 * least + getattr(channels.cost(), metric) / 1e4


def test_limits_raise_the_smallest_budget(example):
    channels = example("cifar/resnet20").channels
    with pytest.raises(BudgetError, match=r"lower channels.min_share, channels.round_to or channels.groups"):
        budget.resolve(channels, {"flops": 0.2}, WidthBounds.of(channels.groups, min_share=0.6))
    assert budget.resolve(channels, {"flops": 0.2}, WidthBounds.of(channels.groups)).share == pytest.approx(
        0.2, abs=1e-6
    )


def test_a_budget_that_the_target_meets_is_refused(example):
    channels = example("cifar/resnet20").channels
    for amount in (channels.cost().flops, 2.0 * channels.cost().flops):
        with pytest.raises(BudgetError, match="nothing to do: the target network has 40"):
            channels.random_plan(flops=amount)
    assert channels.random_plan(flops=1.0) == channels.full_plan
    assert (
        channels.cost(channels.random_plan(params=channels.cost().params - 1)).params < channels.cost().params
    )


def test_a_budget_is_wanted(example):
    with pytest.raises(BudgetError, match="no budget: give a bound"):
        example("cifar/resnet20").channels.uniform_plan()


@pytest.mark.parametrize("amount", [0.0, -0.5, float("nan"), float("inf")])
def test_a_budget_is_a_positive_number(example, amount):
    with pytest.raises(BudgetError, match="above zero"):
        example("cifar/resnet20").channels.uniform_plan(params=amount)


def test_a_share_is_not_cut_by_its_last_binary_digit():
    class Hundred:
        groups = ()

        def cost_of_counts(self, counts):
            return Cost(100, 100)

    # 0.29 * 100 is 28.999999999999996
    with pytest.raises(BudgetError, match="meets flops 29:"):
        budget.resolve(Hundred(), {"flops": 0.29}, WidthBounds.of(()))
