from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jstc.channels import ChannelMap
from jstc.jst import space as spaces
from jstc.jst.space import Space
from jstc.plan import Plan
from jstc.recipe.schema import Recipe
from tests.helpers.tiny_search import spaces_of

PARTS = 1024  # probabilities are whole 1024ths, so that their sums are exact
random = np.random.default_rng


@st.composite
def falling(draw: st.DrawFn) -> np.ndarray:
    cuts = draw(st.lists(st.integers(0, PARTS), max_size=40))
    shares = np.diff([0, *sorted(cuts), PARTS])
    return -np.sort(-shares) / PARTS


thresholds = st.integers(1, PARTS).map(lambda part: part / PARTS)


def smallest_set(p: np.ndarray, threshold: float) -> int:
    return next(k for k in range(1, len(p) + 1) if p[:k].sum() >= threshold)


@given(p=falling(), threshold=thresholds)
def test_a_threshold_keeps_the_smallest_set_that_adds_up_to_it(p: np.ndarray, threshold: float) -> None:
    joined = spaces.joining_levels(p, threshold) < 0
    assert joined.sum() == smallest_set(p, threshold)
    assert joined[: joined.sum()].all()


@given(p=falling(), low=thresholds, high=thresholds, scalar=st.floats(-5, 5))
def test_a_higher_threshold_never_keeps_fewer(p: np.ndarray, low: float, high: float, scalar: float) -> None:
    low, high = sorted((low, high))
    few, many = (spaces.joining_levels(p, threshold) < scalar for threshold in (low, high))
    assert not (few & ~many).any()


@pytest.mark.parametrize("scalar", [-2.0, -0.3, 0.7, 3.0])
def test_the_scalar_moves_the_threshold_on_the_logistic_scale(scalar: float) -> None:
    p = np.sort(random(0).dirichlet(np.ones(64)))[::-1]
    moved = 1 / (1 + math.exp(-(math.log(0.6 / 0.4) + scalar)))
    assert (spaces.joining_levels(p, 0.6) < scalar).sum() == smallest_set(p, moved)


def test_probabilities_are_the_softmax_of_the_formula() -> None:
    weights, noise = random(1).normal(size=(2, 9))
    p = spaces.probabilities(weights, noise, sigma=0.3, tau=0.7)
    expected = np.exp((weights + 0.3 * noise) / 0.7)
    assert p == pytest.approx(expected / expected.sum())
    assert p.sum() == pytest.approx(1, abs=1e-12)


def test_probabilities_stay_finite_far_out() -> None:
    p = spaces.probabilities(np.array([-4e3, 0.0, 4e3]), np.zeros(3), sigma=1.0, tau=0.1)
    assert p.tolist() == [0.0, 0.0, 1.0]


def test_gumbel_noise_has_the_mean_variance_and_median_of_gumbel() -> None:
    noise = spaces.gumbel(200_000, random(2))
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.02)
    assert noise.var() == pytest.approx(math.pi**2 / 6, rel=0.02)
    assert np.median(noise) == pytest.approx(-math.log(math.log(2)), abs=0.02)


def test_gumbel_noise_is_finite_even_for_a_zero() -> None:
    class Zeros:
        def random(self, size: int) -> np.ndarray:
            return np.zeros(size)

    assert np.isfinite(spaces.gumbel(3, Zeros())).all()  # type: ignore[arg-type]


def lasting(round_: int, period: int, size: int = 50, **changes: int) -> np.ndarray:
    options = {"seed": 0} | changes
    return spaces.lasting_gumbel(size, round_=round_, period=period, **options)


@given(period=st.integers(1, 12), first=st.integers(0, 60), seed=st.integers(0, 99))
def test_lasting_noise_changes_once_in_a_period_in_each_element(period: int, first: int, seed: int) -> None:
    rounds = np.array([lasting(first + n, period, seed=seed) for n in range(2 * period + 1)])
    changes = (np.diff(rounds, axis=0) != 0).astype(int)
    assert (changes[:period].sum(0) == 1).all()
    assert (changes[:period] == changes[period:]).all()


def test_lasting_noise_changes_a_few_elements_in_every_round() -> None:
    rounds = np.array([lasting(n, 10, size=5000) for n in range(12)])
    assert (np.diff(rounds, axis=0) != 0).mean(1) == pytest.approx(0.1, abs=0.02)


def test_noise_with_a_period_of_one_is_new_in_every_round() -> None:
    rounds = np.array([lasting(n, 1, size=200) for n in range(20)])
    assert len(np.unique(rounds)) == rounds.size
    correlation = np.corrcoef(rounds) - np.eye(20)
    assert np.abs(correlation).max() < 0.3


@pytest.mark.parametrize("period", [1, 4])
def test_lasting_noise_is_gumbel_in_every_round(period: int) -> None:
    for round_ in (0, 3, 9):
        noise = lasting(round_, period, size=100_000)
        assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.02)
        assert noise.var() == pytest.approx(math.pi**2 / 6, rel=0.03)


def test_lasting_noise_depends_on_its_arguments_only() -> None:
    first = lasting(7, 4)
    np.random.seed(3)
    lasting(2, 9)
    assert (lasting(7, 4) == first).all()
    assert (lasting(7, 4, seed=1) != first).mean() == 1


def test_elements_change_at_different_rounds_for_another_seed() -> None:
    """Which channels change together is itself drawn."""
    first, second = ([lasting(n, 4, seed=seed) for n in (0, 1)] for seed in (0, 1))
    assert ((first[0] != first[1]) != (second[0] != second[1])).any()


def test_perturbed_channels_come_first_as_often_as_their_softmax_says() -> None:
    """The Gumbel-max theorem; it holds for noise that is Gumbel and independent from channel to channel."""
    weights, source = np.array([1.0, 0.0, -1.0, 0.5]), random(3)
    firsts = [
        spaces.probabilities(weights, spaces.gumbel(4, source), sigma=1.0, tau=0.5).argmax()
        for _ in range(8000)
    ]
    expected = np.exp(weights) / np.exp(weights).sum()
    assert np.bincount(firsts) / 8000 == pytest.approx(expected, abs=0.02)


def test_standardised_weights_have_no_mean_per_group_and_unit_spread_in_all() -> None:
    groups = [random(4).normal(3, 0.5, 10), random(5).normal(-1, 2.0, 30)]
    result = spaces.standardised(groups)
    assert [g.mean() for g in result] == pytest.approx([0, 0], abs=1e-12)
    assert np.sqrt(np.mean(np.concatenate(result) ** 2)) == pytest.approx(1)
    assert result[1].std() / result[0].std() == pytest.approx(groups[1].std() / groups[0].std())


def test_equal_weights_are_not_blown_up() -> None:
    result = spaces.standardised([1 + 1e-4 * random(6).normal(size=20)])
    assert np.abs(result[0]).max() < 0.05
    assert spaces.standardised([np.ones(4)])[0].tolist() == [0.0] * 4


def draw(space: Space, seed: int, values: list[float] | None = None) -> tuple[Any, list[np.ndarray]]:
    source = random(seed)
    p = [source.dirichlet(np.full(g.width, 0.5)) for g in space.channels.groups]
    chosen = source.uniform(0.3, 0.95, len(p)).tolist() if values is None else values
    return spaces.sample(space, p, chosen), p


@pytest.mark.parametrize("budget", [{"flops": 0.3}, {"flops": 0.9}, {"flops": None, "params": 0.5}])
def test_plans_meet_the_budget_and_leave_no_room_for_another_channel(
    channels: ChannelMap, make_recipe: Any, budget: dict[str, Any]
) -> None:
    space = spaces_of(channels, make_recipe(budget))[0]
    for seed in range(30):
        plan, _ = draw(space, seed)
        [used] = space.budget.shares(channels.cost(plan)).values()
        assert used <= 1
        assert used >= 0.98 or cheapest_larger(space, plan) > 1


def cheapest_larger(space: Space, plan: Plan) -> float:
    """The least share of the budget that a plan would take with one more step of channels in one group."""
    counts, widths = space.channels.counts(plan), space.channels.full_counts
    steps = np.diag(space.bounds.step)
    costs = [
        space.channels.cost_of_counts(counts + step) for step in steps if (counts + step <= widths).all()
    ]
    return min(max(space.budget.shares(cost).values()) for cost in costs)


def test_the_likeliest_channels_are_kept(channels: ChannelMap, make_recipe: Any) -> None:
    space = spaces_of(channels, make_recipe())[0]
    for seed in range(20):
        plan, p = draw(space, seed)
        for kept, each in zip(plan.kept.values(), p, strict=True):
            removed = np.delete(each, kept)
            assert removed.size == 0 or each[list(kept)].min() >= removed.max()


@pytest.mark.parametrize("group", [0, 1, 2])
def test_a_group_with_a_higher_threshold_than_the_others_gets_more(
    channels: ChannelMap, make_recipe: Any, group: int
) -> None:
    space = spaces_of(channels, make_recipe())[0]
    gains = []
    for seed in range(10):
        common, _ = draw(space, seed, [0.6] * 3)
        favoured, _ = draw(space, seed, [0.95 if g == group else 0.6 for g in range(3)])
        gains.append(channels.counts(favoured)[group] - channels.counts(common)[group])
    assert min(gains) >= 0
    assert sum(gains) > 0


def test_widths_are_rounded_and_never_below_the_least(channels: ChannelMap, make_recipe: Any) -> None:
    recipe: Recipe = make_recipe({"channels.round_to": 4, "channels.min_share": 0.3})
    space = spaces_of(channels, recipe)[0]
    counts = np.array([channels.counts(draw(space, seed)[0]) for seed in range(20)])
    assert not (counts % 4).any()
    assert (counts >= [4, 4, 8]).all()
    assert len(np.unique(counts, axis=0)) > 1


def test_a_raised_threshold_is_the_one_moved_in_its_logit() -> None:
    assert spaces.raised(0.5, 0.0) == 0.5
    assert spaces.raised(0.7, 1.0) == pytest.approx(1 / (1 + np.exp(-(np.log(0.7 / 0.3) + 1.0))))
    assert spaces.raised(1.0, 2.0) == 1.0


# Thresholds that are multiplied, of a policy's offsets


@given(
    width=st.integers(1, 300),
    offset=st.floats(-2, 2),
    scalar=st.floats(-3, 3),
)
def test_with_equal_probabilities_an_offset_multiplies_the_width(
    width: int, offset: float, scalar: float
) -> None:
    joined = (spaces.multiplied_levels(np.full(width, 1 / width), offset) < scalar).sum()
    assert joined == pytest.approx(min(width, width * math.exp(scalar + offset)), abs=0.5 + 1e-9)


@given(p=falling(), offset=st.floats(-2, 2), more=st.floats(0, 2), scalar=st.floats(-3, 3))
def test_channels_join_in_order_and_a_higher_offset_never_keeps_fewer(
    p: np.ndarray, offset: float, more: float, scalar: float
) -> None:
    few, many = (spaces.multiplied_levels(p, each) for each in (offset, offset + more))
    assert np.isfinite(few).all()
    assert (np.diff(few) >= 0).all()
    assert not ((few < scalar) & ~(many < scalar)).any()


def with_offsets(space: Space, offsets: list[float]) -> np.ndarray:
    p = [np.full(group.width, 1 / group.width) for group in space.channels.groups]
    return space.channels.counts(spaces.sample(space, p, [0.7] * len(p), offsets=offsets))


def test_offsets_make_groups_wider_than_others_at_the_same_budget(
    channels: ChannelMap, make_recipe: Any
) -> None:
    space = spaces_of(channels, make_recipe({"channels.round_to": 1}))[0]
    even = with_offsets(space, [0.0] * 3)
    shares = even / channels.full_counts
    assert shares.max() - shares.min() < 0.3  # what is left of the budget is filled by single channels
    for group in range(3):
        offsets = [0.5 if g == group else 0.0 for g in range(3)]
        wider = with_offsets(space, offsets)
        assert wider[group] > even[group]
        assert space.channels.cost_of_counts(wider).flops <= 0.5 * channels.cost().flops
        assert (
            with_offsets(space, [each - 7.0 for each in offsets]) == wider
        ).all()  # only differences count


def test_without_offsets_thresholds_are_moved_in_their_logits(channels: ChannelMap, make_recipe: Any) -> None:
    space = spaces_of(channels, make_recipe())[0]
    p = [np.full(group.width, 1 / group.width) for group in channels.groups]
    order = [np.arange(group.width) for group in channels.groups]
    for thresholds in ([0.7, 0.7, 0.7], [0.5, 0.9, 0.7]):
        levels = [spaces.joining_levels(each, r) for each, r in zip(p, thresholds, strict=True)]
        assert spaces.sample(space, p, thresholds) == space.plan(order, levels)
