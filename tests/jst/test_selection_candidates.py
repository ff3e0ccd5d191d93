"""Several plans for one round, judged against each other before the best is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jstc.channels import ChannelMap
from jstc.data import Dataset
from jstc.jst.phases import Phase
from jstc.jst.proposer import Proposer
from jstc.jst.round import judge
from jstc.jst.state import State
from jstc.jst.subnetwork import Target, cut
from jstc.jst.turns import choose
from tests.helpers.tiny_search import policy_of, proposer_of

FINE = Phase(sigma=0.5, tau=1.0, coarse=False)
WIDE = Phase(sigma=4.0, tau=1.0, coarse=False)
STILL = Phase(sigma=0.0, tau=1.0, coarse=False)
COARSE = Phase(sigma=0.5, tau=1.0, coarse=True)


def test_candidates_are_different_plans_and_the_first_is_the_one_without_others(
    channels: ChannelMap, target: Target, make_recipe: Any
) -> None:
    proposer, numbers = proposer_of(channels, make_recipe({"search.candidates": 8})), []
    for round_ in range(5):
        candidates = proposer.candidates(target, FINE, round_)
        hashes = [candidate.plan.hash for candidate in candidates]
        assert len(set(hashes)) == len(hashes)
        numbers.append(len(hashes))
        assert candidates[0].plan == proposer.propose(target, FINE, round_).plan
        assert candidates[0].thresholds == proposer.final(target).thresholds
        assert all(candidate.choice is not None for candidate in candidates)
    assert max(numbers) > 2


def test_candidates_depend_on_seed_and_round_only(
    channels: ChannelMap, target: Target, make_recipe: Any
) -> None:
    def hashes(round_: int, **changes: Any) -> list[str]:
        proposer = proposer_of(channels, make_recipe({"search.candidates": 3} | changes))
        return [candidate.plan.hash for candidate in proposer.candidates(target, FINE, round_)]

    assert hashes(3) == hashes(3)
    assert set(hashes(3)) != set(hashes(4))
    assert set(hashes(3)) != set(hashes(3, seed=1))


@pytest.mark.parametrize(
    ("now", "changes"),
    [
        (COARSE, {}),
        (FINE, {"search.candidates": 1}),
        (STILL, {"search.thresholds": "common"}),
        (STILL, {"search.thresholds": "fixed"}),
        (STILL, {"search.perturbation": False}),
        (FINE, {"weights": "given.safetensors"}),
    ],
)
def test_there_is_one_candidate_where_all_would_be_alike(
    channels: ChannelMap, target: Target, make_recipe: Any, now: Phase, changes: dict[str, Any]
) -> None:
    proposer = proposer_of(channels, make_recipe({"search.candidates": 4} | changes))
    assert len(proposer.candidates(target, now, 2)) == 1


def test_choices_are_drawn_again_until_plans_are_different(
    channels: ChannelMap, target: Target, make_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small differences between offsets change nothing where channels join in steps."""
    proposer = proposer_of(channels, make_recipe({"search.candidates": 3, "channels.round_to": 4}))

    def numbers() -> list[int]:
        return [len(proposer.candidates(target, FINE, round_)) for round_ in range(12)]

    drawn_again = numbers()
    monkeypatch.setattr("jstc.jst.proposer._DRAWS", 1)
    once = numbers()
    assert max(drawn_again) == 3
    assert sum(drawn_again) >= sum(once) + 4


def test_a_round_without_a_choice_teaches_nothing(
    run_search: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it earns after its training is the progress of the weights as much as the thresholds' merit."""
    whole = Proposer.candidates
    monkeypatch.setattr(Proposer, "candidates", lambda *args: whole(*args)[:1])
    run = run_search(tmp_path, ALL_FINE)
    assert [record["advantage"] for record in run.history] == [None] * 3


def test_candidates_of_equal_plans_are_one(channels: ChannelMap, target: Target, make_recipe: Any) -> None:
    """With all channels kept, whatever is drawn is the same plan."""
    proposer = proposer_of(channels, make_recipe({"search.candidates": 6, "flops": 1.0}))
    [only] = proposer.candidates(target, FINE, 2)
    assert only.plan == proposer.propose(target, FINE, 2).plan


def test_the_policy_learns_from_candidates_by_what_each_of_them_earned(
    channels: ChannelMap, target: Target, make_recipe: Any
) -> None:
    proposer = proposer_of(channels, make_recipe({"search.candidates": 4}))
    policy = policy_of(proposer.thresholds)
    candidates = proposer.candidates(target, WIDE, 0)
    rewards = [-1.0] * (len(candidates) - 1) + [-0.5]
    before, best = policy.offsets(), policy.offsets(candidates[-1].choice)
    advantage = proposer.learn(candidates, rewards, 0)
    assert advantage is not None and advantage > 0
    assert policy.offsets() == pytest.approx((before + best) / 2)


ALL_FINE = {"search.coarse_share": 0.0, "search.candidates": 8, "search.rounds": 3}


@pytest.fixture
def choosing(channels: ChannelMap, target: Target, make_context: Any) -> Any:
    """State, proposer and context before a round that chooses among candidates."""

    def make(**changes: Any) -> tuple[State, Proposer, Any]:
        context = make_context(ALL_FINE | changes)
        proposer = proposer_of(channels, context.recipe)
        state = State.new(target.network, channels, proposer, context.recipe)
        state.target = target
        return state, proposer, context

    return make


def chosen_by(state: State, proposer: Proposer, context: Any) -> Any:
    """As the rounds of a search choose."""
    train, images = context.recipe.train, context.recipe.search.candidate_images
    return choose(
        state, proposer, lambda plan: judge(cut(state.target, plan, train), context, limit=images).loss
    )


@pytest.mark.parametrize("round_", [0, 1])
def test_the_candidate_of_the_lowest_loss_is_trained(choosing: Any, round_: int) -> None:
    state, proposer, context = choosing()
    state.round = round_
    now = state.growth.at(round_)
    losses = {
        proposal.plan.hash: judge(
            cut(state.target, proposal.plan, context.recipe.train), context, limit=36
        ).loss
        for proposal in proposer.candidates(state.target, now, round_)
    }
    assert len(set(losses.values())) == len(losses) > 1
    chosen, advantage = chosen_by(state, proposer, context)
    assert losses[chosen.plan.hash] == min(losses.values())
    assert advantage is not None and advantage > 0


def test_judging_candidates_changes_nothing_in_the_target(choosing: Any, snapshot: Any) -> None:
    state, proposer, context = choosing()
    before = snapshot(state.target)
    policy = policy_of(proposer.thresholds).offsets()
    chosen_by(state, proposer, context)
    after = snapshot(state.target)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert (policy_of(proposer.thresholds).offsets() != policy).any()


def test_a_single_candidate_is_not_judged_before_its_training(choosing: Any) -> None:
    state, proposer, context = choosing(**{"search.candidates": 1})
    chosen, advantage = chosen_by(state, proposer, context)
    assert advantage is None
    assert chosen.plan == proposer.propose(state.target, chosen.phase, 0, chosen.choice).plan
    assert chosen.choice is not None  # it is drawn, and teaches after its training


@pytest.mark.parametrize(("candidates", "compared"), [(1, False), (8, True)])
def test_only_single_candidates_wait_for_a_past_to_compare_with(
    searched: Any, candidates: int, compared: bool
) -> None:
    history = searched(ALL_FINE | {"search.candidates": candidates}).history
    assert (history[0]["advantage"] > 0) is compared
    assert all(record["advantage"] is not None for record in history[1:])


def test_candidates_are_judged_on_as_many_images_as_asked_for(
    run_search: Any, dataset: Dataset, watched: Any, tmp_path: Path
) -> None:
    counts = []
    for images in (16, 48):
        asked: list[str] = []
        settings = {"search.candidate_images": images, "search.rounds": 1, "search.coarse_share": 0.0}
        settings |= {"search.sigma": [4.0, 4.0]}  # so that candidates are different plans
        data = watched(dataset, search_val=asked.append)
        run_search(tmp_path / str(images), settings | {"search.archive_size": 1}, dataset=data)
        counts.append(asked.count("ordered"))
    assert counts[1] - counts[0] in (2 * 2, 2 * 3)  # two batches of 16 more for each of up to 3 candidates
