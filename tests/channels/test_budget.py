"""Budgets are never passed, and met as nearly as the channels allow."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jstc.channels import Cost, budget
from jstc.channels.budget import Bound, Budget, WidthBounds
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


# --- several bounds at once -------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.sampled_from(["cifar/resnet20", "cifar/vgg16_bn", "mobilenet_v2"]),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 2**32),
    st.sampled_from([1, 8, "auto"]),
)
def test_every_bound_is_met_and_one_of_them_is_used(example, name, flops, params, seed, round_to):
    channels = example(name).channels
    bounds = WidthBounds.of(channels.groups, round_to=round_to)
    least, whole = budget.smallest(channels, bounds), channels.cost()
    asked = {
        metric: float(getattr(least, metric) + at * (getattr(whole, metric) - 1 - getattr(least, metric)))
        for metric, at in (("flops", flops), ("params", params))
    }
    both = budget.resolve(channels, asked, bounds)
    levels = random_levels(channels, np.random.default_rng(seed))
    require_met(channels, budget.project(channels, levels, both, bounds), both, bounds)


@pytest.mark.parametrize("round_to", [1, "auto"])
@pytest.mark.parametrize("slack", [{"params": 0.9}, {"params": 1e9}, {"params": 1.0}])
def test_a_bound_that_is_met_anyhow_changes_nothing(example, slack, round_to):
    channels = example("cifar/vgg16_bn").channels
    bounds = WidthBounds.of(channels.groups, round_to=round_to)
    alone = budget.resolve(channels, {"flops": 0.4}, bounds)
    both = budget.resolve(channels, {"flops": 0.4} | slack, bounds)
    for seed in range(5):
        levels = random_levels(channels, np.random.default_rng(seed))
        expected = budget.project(channels, levels, alone, bounds)
        assert both.fits(channels.cost_of_counts(expected))
        assert budget.project(channels, levels, both, bounds).tolist() == expected.tolist()


@pytest.mark.parametrize(("shares", "tight"), [((0.6, 0.2), "params"), ((0.2, 0.6), "flops")])
def test_the_bound_that_is_reached_first_decides(example, shares, tight):
    channels = example("cifar/vgg16_bn").channels
    bounds = WidthBounds.of(channels.groups)
    both = budget.resolve(channels, dict(zip(("flops", "params"), shares, strict=True)), bounds)
    used = both.shares(channels.cost_of_counts(budget.uniform_counts(channels, both, bounds)))
    assert max(used, key=used.get) == tight
    assert 0.98 < used[tight] <= 1 and min(used.values()) < 0.6


class TwoGroups:
    """Channels of `dear` cost ten parameters each, those of `cheap` one; every channel costs one FLOP."""

    class Group:
        def __init__(self, name):
            self.name, self.width = name, 6

    groups = (Group("dear"), Group("cheap"))

    def cost_of_counts(self, counts):
        return Cost(int(counts.sum()), int(10 * counts[0] + counts[1]))


@pytest.mark.parametrize(
    ("asked", "counts"),
    [
        ({"params": 27.0}, [2, 6]),
        ({"params": 27.0, "flops": 6.0}, [2, 4]),
        ({"params": 27.0, "flops": 3.0}, [2, 1]),
        ({"params": 27.0, "flops": 11.0}, [2, 6]),
    ],
)
def test_groups_that_fit_all_bounds_are_filled_where_others_are_too_dear(asked, counts):
    channels = TwoGroups()
    bounds = WidthBounds(np.ones(2, np.int64), np.ones(2, np.int64))
    levels = [np.arange(6.0), np.arange(6.0) + 0.5]  # they take turns
    found = budget.project(channels, levels, budget.resolve(channels, asked, bounds), bounds)
    assert found.tolist() == counts


class Stairs:
    """Two groups: a channel of the first takes 100 ns, 16 of the second together as long."""

    class Group:
        def __init__(self, name):
            self.name, self.width = name, 210

    groups = (Group("first"), Group("second"))

    def cost_of_counts(self, counts):
        first, second = counts.tolist()
        return Cost(3 * first + second, first + second, 100 * (first - (-second // 16)))


@pytest.mark.parametrize(
    ("flops", "nanoseconds", "counts"),
    [
        (100, 200, [0, 22]),  # of the second group what costs no time is taken, up to four steps
        (20, 200, [0, 20]),  # but no more than the FLOPs allow
        (259, 10**6, [60, 78]),  # and nothing for the sake of time where that is not short
    ],
)
def test_what_costs_no_time_is_taken_where_time_is_short(flops, nanoseconds, counts):
    channels, bounds = Stairs(), WidthBounds(np.zeros(2, np.int64), np.ones(2, np.int64))
    both = Budget((Bound("flops", flops, 0.5), Bound("latency", nanoseconds, 0.5)))
    levels = [np.arange(210.0) + 16.5, np.arange(210.0)]
    assert budget.project(channels, levels, both, bounds).tolist() == counts


def test_a_plan_of_both_bounds(example):
    channels = example("cifar/resnet20").channels
    for plan in (
        channels.uniform_plan(flops=0.6, params=0.4),
        channels.random_plan(flops=0.6, params=0.4, seed=1),
    ):
        cost, whole = channels.cost(plan), channels.cost()
        assert cost.flops <= 0.6 * whole.flops
        assert 0.95 * 0.4 * whole.params < cost.params <= 0.4 * whole.params


def test_a_bound_out_of_reach_is_named_and_so_are_two(example):
    channels = example("cifar/resnet20").channels
    with pytest.raises(BudgetError, match=r"^no sub-network meets params 269: the smallest [^:]*; ask for"):
        channels.uniform_plan(flops=0.5, params=0.001)
    with pytest.raises(BudgetError, match=r"meets flops 40\.[^:]*: [^:]*, nor params 269: .*; ask for"):
        channels.uniform_plan(flops=0.001, params=0.001)


def test_a_budget_is_refused_where_the_target_meets_all_its_bounds(example):
    channels = example("cifar/resnet20").channels
    told = (
        r"nothing to do: the target network has 40\.\d+ M FLOPs \(one multiply-add is one FLOP\), within the "
        r"budget 90.* M, and has 269\.7 k parameters, within the budget 1\.0+ M$"
    )
    with pytest.raises(BudgetError, match=told):
        channels.uniform_plan(flops=9e7, params=1e6)
    assert channels.uniform_plan(flops=9e7, params=0.5) == channels.uniform_plan(params=0.5)


def test_a_share_of_a_budget_is_that_of_every_bound():
    whole = Budget((Bound("flops", 1000, 0.5), Bound("params", 300, 0.4)))
    part = whole.at(0.5, least=Cost(400, 200))
    assert part == Budget((Bound("flops", 500, 0.25), Bound("params", 200, pytest.approx(0.8 / 3))))
    assert whole.share == 0.4
    assert whole.with_limit("flops", 500).bounds == (part.bounds[0], whole.bounds[1])
    flops, params = ({"metric": "flops", "limit": 1000, "share": 0.5},
                     {"metric": "params", "limit": 300, "share": 0.4})  # fmt: skip
    assert whole.to_dict() == flops | {"bounds": [flops, params]}
    assert Budget(whole.bounds[:1]).to_dict() == flops
