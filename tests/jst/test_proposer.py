from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from jstc.channels import ChannelMap
from jstc.errors import UnknownNameError
from jstc.jst.phases import Phase
from jstc.jst.proposer import Proposal
from jstc.jst.subnetwork import Target
from jstc.jst.threshnet import Choice
from jstc.jst.thresholds import COMMON_THRESHOLD
from tests.helpers.tiny_search import policy_of, proposer_of

FINE = Phase(sigma=0.5, tau=1.0, coarse=False)
NOISY = Phase(sigma=1.0, tau=1.0, coarse=False)
STILL = Phase(sigma=0.0, tau=1.0, coarse=False)
COARSE = Phase(sigma=0.5, tau=1.0, coarse=True)


@pytest.fixture
def propose(channels: ChannelMap, target: Target, make_recipe: Any) -> Any:
    """The proposal of a fresh proposer of a recipe with changes, in a phase, for a round."""

    def make(now: Phase, round_: int = 0, **changes: Any) -> Proposal:
        settings = {f"search.{key}" if key != "seed" else key: value for key, value in changes.items()}
        recipe = make_recipe({"search.candidates": 1} | settings)
        return proposer_of(channels, recipe).propose(target, now, round_)

    return make


def favour(target: Target, channels: list[int]) -> None:
    """Give these channels, by number, the largest gates, with all others alike."""
    target.alpha.fill_(1.0)
    target.alpha[channels] = 1.5


def test_a_proposal_depends_on_seed_and_round_only(propose: Any) -> None:
    first = propose(FINE, 3)
    torch.manual_seed(1)
    np.random.seed(1)
    again = propose(FINE, 3)
    assert (first.plan, first.thresholds) == (again.plan, again.thresholds)
    assert any(propose(FINE, other).plan != first.plan for other in (4, 5, 6))
    assert any(propose(FINE, 3, seed=other).plan != first.plan for other in (1, 2))


def test_without_noise_the_largest_gates_are_kept(propose: Any, target: Target) -> None:
    favour(target, [1, 6, 8, 19, 20, 21, 22, 35])
    for round_ in range(5):
        kept = propose(STILL, round_, thresholds="common").plan.kept
        assert {1, 6} <= set(kept["stem"])
        assert {0, 11} <= set(kept["wide"])
        assert {0, 1, 2, 15} <= set(kept["last"])


def test_noise_lets_small_gates_in(propose: Any, target: Target) -> None:
    favour(target, [0, 1, 2, 3, *range(8, 14), *range(20, 28)])
    still = {propose(STILL, round_, thresholds="common").plan.hash for round_ in range(8)}
    noisy = [
        propose(NOISY, round_, thresholds="common", noise_period=1).plan.kept["stem"] for round_ in range(60)
    ]
    assert len(still) == 1
    assert {channel for kept in noisy for channel in kept} == set(range(8))
    often = [sum(channel in kept for kept in noisy) for channel in range(8)]
    assert min(often[:4]) > max(often[4:])


def test_importance_by_magnitude_looks_at_the_weights(propose: Any, target: Target) -> None:
    favour(target, [0, 1, 2, 3])
    large = [5, 6, 7]
    with torch.no_grad():
        target.network.wide.weight[large] *= 10
    kept = propose(STILL, importance="magnitude").plan.kept["wide"]
    assert set(large) <= set(kept)
    before = propose(STILL, importance="magnitude").plan
    favour(target, [8, 9, 10])
    assert propose(STILL, importance="magnitude").plan == before


def test_weighted_importance_is_the_gate_times_the_norm(propose: Any, target: Target) -> None:
    favour(target, [])
    with torch.no_grad():
        target.network.wide.weight[[5, 6, 7]] *= 10
    assert propose(STILL, importance="weighted").plan == propose(STILL, importance="magnitude").plan
    assert {5, 6, 7} <= set(propose(STILL, importance="weighted").plan.kept["wide"])
    wide = next(group for group in target.channels.groups if group.name == "wide")
    with torch.no_grad():
        target.alpha[wide.start + 6] = 0.0
    kept = propose(STILL, importance="weighted").plan.kept["wide"]
    assert {5, 7} <= set(kept) and 6 not in kept


def test_taylor_importance_is_what_would_be_lost(propose: Any, target: Target) -> None:
    favour(target, [])
    wide = next(group for group in target.channels.groups if group.name == "wide")
    target.sensitivity[[wide.start + 5, wide.start + 6, wide.start + 7]] = 3.0
    kept = propose(STILL, importance="taylor").plan.kept["wide"]
    assert {5, 6, 7} <= set(kept)
    assert propose(STILL, importance="weighted_taylor").plan.kept["wide"] == kept
    target.alpha[wide.start + 6] = 0.0
    assert propose(STILL, importance="taylor").plan.kept["wide"] == kept
    kept = propose(STILL, importance="weighted_taylor").plan.kept["wide"]
    assert {5, 7} <= set(kept) and 6 not in kept


def test_random_importance_is_drawn_once(propose: Any, target: Target) -> None:
    plans = {
        propose(STILL, round_, importance="random", thresholds="common").plan.hash for round_ in range(4)
    }
    favour(target, [0, 1, 2, 3])
    again = propose(STILL, importance="random", thresholds="common").plan
    assert plans == {again.hash}
    assert propose(STILL, importance="random", thresholds="common", seed=1).plan != again


def leaning(by: dict[int, float]) -> Choice:
    """What a policy over three groups would have chosen to make some, by number, wider or narrower."""
    own = np.zeros(3)
    own[list(by)] = list(by.values())
    return Choice(np.zeros(13), own)


@pytest.mark.parametrize("now", [COARSE, dataclasses.replace(COARSE, below=True)])
def test_in_coarse_rounds_the_policy_explores_nothing(
    channels: ChannelMap, target: Target, make_recipe: Any, now: Phase
) -> None:
    proposer = proposer_of(channels, make_recipe())
    policy_of(proposer.thresholds).settle(leaning({1: 0.5}))
    proposals = [only for round_ in range(5) for only in proposer.candidates(target, now, round_)]
    assert [proposal.choice for proposal in proposals] == [None] * 5
    thresholds = {tuple(proposal.thresholds) for proposal in proposals}
    assert thresholds == {tuple(proposer.final(target).thresholds)}


def test_in_fine_rounds_it_draws_around_what_it_has_learnt(
    channels: ChannelMap, target: Target, make_recipe: Any
) -> None:
    proposer = proposer_of(channels, make_recipe({"search.candidates": 1}))
    policy_of(proposer.thresholds).settle(leaning({2: 2.0}))
    drawn = [only.thresholds for round_ in range(60) for only in proposer.candidates(target, NOISY, round_)]
    likeliest = np.log(proposer.final(target).thresholds)
    logs = np.log(drawn) - np.log(drawn).mean(1, keepdims=True)
    assert logs.mean(0) == pytest.approx(likeliest - likeliest.mean(), abs=0.1)
    assert (logs.std(0) > 0.05).all()


def test_the_policy_makes_groups_wider_and_narrower(
    channels: ChannelMap, target: Target, make_recipe: Any
) -> None:
    favour(target, [])
    proposer = proposer_of(channels, make_recipe({"channels.round_to": 1}))
    start = proposer.of(target, 0, None).plan.counts
    for number, name in enumerate(start):
        for by, sign in ((0.7, 1), (-0.7, -1)):
            counts = proposer.of(target, 0, leaning({number: by})).plan.counts
            assert sign * (counts[name] - start[name]) > 0
    assert channels.cost(proposer.of(target, 0, leaning({0: 0.7})).plan).flops <= 0.5 * channels.cost().flops


@pytest.mark.parametrize(
    ("budget", "even"), [({"flops": 0.5}, False), ({"flops": None, "params": 0.5}, True)]
)
def test_a_policy_begins_tapered_and_evenly_where_parameters_are_the_budget(
    channels: ChannelMap, target: Target, make_recipe: Any, budget: dict[str, Any], even: bool
) -> None:
    stem, wide, last = proposer_of(channels, make_recipe(budget)).final(target).thresholds
    assert (stem == wide == last) is even
    assert even or last < min(stem, wide)


def test_it_is_told_what_the_channels_of_groups_are_worth_and_begins_anew(
    channels: ChannelMap, target: Target, make_recipe: Any
) -> None:
    found = []
    for worth in (1.0, 5.0):
        proposer = proposer_of(channels, make_recipe())
        policy_of(proposer.thresholds).settle(leaning({0: 3.0}))
        target.sensitivity.fill_(1.0)
        target.sensitivity[8:20] = worth
        proposer.begin(target, 0)
        policy = policy_of(proposer.thresholds)
        assert not policy.likeliest.own.any()
        found.append(policy.offsets(policy.draw(1, np.random.default_rng(0), sigma=1.0)[0]))
    assert np.abs(found[0] - found[1]).max() > 0.01


def test_a_common_threshold_stays_common(propose: Any) -> None:
    proposal = propose(FINE, thresholds="common")
    assert len(set(proposal.thresholds)) == 1
    assert proposal.choice is None


def test_fixed_thresholds_are_those_of_the_recipe(propose: Any, channels: ChannelMap) -> None:
    common = propose(STILL, thresholds="common")
    low = propose(STILL, thresholds="fixed", fixed_thresholds={"wide": 0.2})
    assert low.thresholds == [common.thresholds[0], 0.2, common.thresholds[0]]
    assert low.choice is None
    assert low.plan.counts["wide"] < common.plan.counts["wide"]


def test_a_fixed_threshold_of_an_unknown_group_is_refused(propose: Any) -> None:
    with pytest.raises(UnknownNameError, match="unknown channel group 'wid'; did you mean 'wide'"):
        propose(FINE, thresholds="fixed", fixed_thresholds={"wid": 0.5})


def test_only_the_policy_learns_and_only_from_its_own_choice(
    channels: ChannelMap, target: Target, make_recipe: Any
) -> None:
    proposer = proposer_of(channels, make_recipe({"search.candidates": 1}))
    coarse = proposer.candidates(target, COARSE, 0)
    assert proposer.learn(coarse, [0.5], 0) is None
    fine = proposer.candidates(target, FINE, 1)
    assert proposer.learn(fine, [0.5], 1) == 0.0
    before = policy_of(proposer.thresholds).offsets()
    assert proposer.learn(fine, [0.7], 2) > 0  # type: ignore[operator]
    assert (policy_of(proposer.thresholds).offsets() != before).all()


def test_without_perturbation_nothing_is_drawn(
    channels: ChannelMap, target: Target, make_recipe: Any
) -> None:
    proposer = proposer_of(channels, make_recipe({"search.perturbation": False, "search.candidates": 8}))
    [only] = proposer.candidates(target, STILL, 3)
    assert only.choice is None
    assert only.plan == proposer.propose(target, STILL, 3).plan


def test_the_final_plan_has_no_noise_and_the_likeliest_thresholds(
    channels: ChannelMap, target: Target, make_recipe: Any
) -> None:
    proposer = proposer_of(channels, make_recipe())
    favour(target, [1, 6, 9, 19, 20, 22])
    policy = policy_of(proposer.thresholds)
    before = np.array(proposer.final(target).thresholds)
    policy.settle(leaning({1: 0.5}))
    final = proposer.final(target)
    change = np.log(final.thresholds) - np.log(before)
    assert change - change[0] == pytest.approx([0, 0.5, 0])
    assert max(final.thresholds) == pytest.approx(COMMON_THRESHOLD)
    assert (final.phase.sigma, final.phase.tau) == (0.0, 0.5)
    assert {1, 6} <= set(final.plan.kept["stem"])
    assert final.plan == proposer.final(target).plan


@pytest.mark.parametrize("thresholds", ["common", "threshnet"])
def test_lasting_noise_makes_successive_plans_overlap_more(propose: Any, thresholds: str) -> None:
    def overlap(period: int) -> float:
        settings = {"thresholds": thresholds, "noise_period": period}
        plans = [propose(NOISY, round_, **settings).plan for round_ in range(30)]
        return float(np.mean([one.overlap(next_one) for one, next_one in itertools.pairwise(plans)]))

    assert overlap(1) + 0.1 < overlap(10)
    assert overlap(3) < overlap(10) < 1


def test_lasting_noise_lets_every_channel_in_sooner_or_later(propose: Any, target: Target) -> None:
    target.alpha.fill_(1.0)
    plans = [propose(NOISY, round_, noise_period=5).plan for round_ in range(40)]
    for name, width in plans[0].widths.items():
        assert {channel for plan in plans for channel in plan.kept[name]} == set(range(width))


def test_a_phase_below_the_budget_gives_a_smaller_plan(propose: Any, channels: ChannelMap) -> None:
    whole = channels.cost().flops
    for share in (0.4, 0.7, 1.0):
        below = dataclasses.replace(COARSE, below=share < 1)
        used = channels.cost(propose(below, coarse_budget=share).plan).flops / whole
        assert 0.9 * 0.5 * share < used <= 0.5 * share


def test_budgets_take_turns(channels: ChannelMap, target: Target, make_recipe: Any) -> None:
    proposer = proposer_of(channels, make_recipe({"flops": [0.4, 0.6, 0.8]}))
    whole = channels.cost().flops
    for round_ in range(6):
        number = round_ % 3
        amount = (0.8, 0.6, 0.4)[number]
        assert proposer.budget(round_) == number
        plans = [proposer.propose(target, FINE, round_).plan, proposer.final(target, number).plan]
        for plan in plans:
            assert 0.9 * amount < channels.cost(plan).flops / whole <= amount


def test_each_budget_has_a_policy_of_its_own(channels: ChannelMap, target: Target, make_recipe: Any) -> None:
    proposer = proposer_of(channels, make_recipe({"flops": [0.4, 0.6], "search.candidates": 4}))
    before = [proposer.final(target, number).thresholds for number in range(2)]
    assert before[0] == before[1]
    candidates = proposer.candidates(target, NOISY, 1)
    proposer.learn(candidates, [float(n) for n in range(len(candidates))], 1)
    assert proposer.final(target, 0).thresholds == before[0]
    assert proposer.final(target, 1).thresholds != before[1]


def test_inertia_keeps_the_channels_that_were_trained(propose: Any, target: Target) -> None:
    """As if their weights were larger; the most trained count most."""
    favour(target, [])
    target.trained[[2, 5, 9, 10, 30]] = 4.0
    without, some = (propose(STILL, thresholds="common", recency_bonus=each).plan for each in (0.0, 2.0))
    for group, trained in (("stem", {2, 5}), ("wide", {1, 2}), ("last", {10})):
        assert trained <= set(some.kept[group])
    assert some != without


def test_inertia_keeps_the_widths_that_were_trained(
    channels: ChannelMap, target: Target, make_recipe: Any
) -> None:
    """Noise that would move channels from group to group does not, as long as the budget stays."""
    counts: dict[float, set[tuple[int, ...]]] = {}
    for inertia in (0.0, 4.0):
        target.trained.zero_()
        made = counts.setdefault(inertia, set())
        recipe = make_recipe(
            {"search.candidates": 1, "search.recency_bonus": inertia, "search.noise_period": 1}
        )
        proposer = proposer_of(channels, recipe)
        for round_ in range(8):
            plan = proposer.propose(target, COARSE, round_).plan
            made.add(tuple(plan.counts.values()))
            target.trained *= 0.5
            target.trained[target.index(plan)] += 0.5
    assert len(counts[4.0]) == 1 < len(counts[0.0])


@pytest.mark.parametrize("inertia", [0.0, 3.0, 12.0, 50.0])
def test_in_fine_rounds_thresholds_decide_however_large_the_inertia(
    propose: Any, target: Target, inertia: float
) -> None:
    """Half a unit of a logit."""
    target.alpha.fill_(1.0)
    target.trained[target.index(propose(STILL, thresholds="common").plan)] = 1.0
    counts = set()
    for threshold in (0.7, 0.8):
        settings = {"thresholds": "fixed", "fixed_thresholds": {"stem": threshold}, "recency_bonus": inertia}
        counts.add(tuple(propose(STILL, tau=[8.0, 8.0], **settings).plan.counts.values()))
    assert len(counts) == 2


def test_inertia_keeps_what_was_trained_last(propose: Any, target: Target) -> None:
    favour(target, [0, 1, 2, 3])
    before = propose(STILL, recency_bonus=0.0, thresholds="common").plan.kept["stem"]
    target.trained.zero_()
    target.trained[[4, 5, 6, 7]] = 1.0
    assert set(before) >= {0, 1, 2, 3}
    assert set(propose(STILL, recency_bonus=9.0, thresholds="common").plan.kept["stem"]) >= {4, 5, 6, 7}
    target.trained.zero_()
    assert propose(STILL, recency_bonus=1.0).plan == propose(STILL, recency_bonus=0.0).plan


@pytest.mark.parametrize("now", [STILL, COARSE])
def test_residual_streams_keep_more_where_they_lead(
    propose: Any, target: Target, channels: ChannelMap, now: Phase
) -> None:
    assert channels.streams == {"stem"}
    quiet = {"thresholds": "common", "recency_bonus": 0.0, "tau": [50.0, 50.0]}
    widths = [
        propose(now, residual_threshold_offset=lead, **quiet).plan.counts["stem"] for lead in (0.0, 1.0, 4.0)
    ]
    assert widths[0] < widths[1] < widths[2]


def test_residual_streams_keep_more_under_a_policy_too(propose: Any) -> None:
    widths = [propose(STILL, residual_threshold_offset=lead).plan.counts["stem"] for lead in (0.0, 1.0)]
    assert widths[0] < widths[1]


def test_thresholds_that_are_given_are_not_raised(propose: Any) -> None:
    given = {"thresholds": "fixed", "fixed_thresholds": {"stem": 0.4}}
    assert (
        propose(FINE, residual_threshold_offset=3.0, **given).thresholds
        == propose(FINE, residual_threshold_offset=0.0, **given).thresholds
    )


def test_below_the_budget_streams_do_not_lead(propose: Any) -> None:
    below = dataclasses.replace(COARSE, below=True)
    assert (
        propose(below, residual_threshold_offset=3.0).plan
        == propose(below, residual_threshold_offset=0.0).plan
    )
