from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jstc.channels import ChannelMap
from jstc.jst.state import BudgetTrack, State
from jstc.jst.subnetwork import Target
from jstc.plan import Plan
from jstc.train import checkpoint
from tests.helpers.tiny_search import policy_of, proposer_of

# Ten rounds, of which three are coarse.
SETTLING = {"search.rounds": 10, "search.coarse_share": 0.3, "search.early_stop_window": 2}


@pytest.fixture
def make_state(channels: ChannelMap, network: Any, make_recipe: Any) -> Any:
    def make(changes: dict[str, Any] | None = None) -> State:
        recipe = make_recipe(changes)
        return State.new(network, channels, proposer_of(channels, recipe), recipe)

    return make


def advance(state: State, plan: Plan, overlaps: list[float | None]) -> list[bool]:
    """Whether the state was settled after each round."""
    settled = []
    for overlap in overlaps:
        track = state.tracks[state.round % len(state.tracks)]
        state.advance(plan, 0.5, images=10, seconds=0.1)
        track.overlaps[-1:] = [] if overlap is None else [overlap]
        settled.append(state.settled)
    return settled


def test_plans_settle_when_a_window_of_fine_rounds_hardly_differs(make_state: Any, plan: Plan) -> None:
    """Rounds 0 to 2 are coarse; the first overlaps between fine rounds are those of rounds 4 and 5."""
    assert advance(make_state(SETTLING), plan, [None] + [1.0] * 5) == [False] * 5 + [True]


def test_the_mean_over_the_window_decides(make_state: Any, plan: Plan) -> None:
    state = make_state(SETTLING | {"search.early_stop_overlap": 0.9})
    overlaps = [None, 0.5, 0.5, 0.5, 0.5, 1.0, 0.78, 0.99, 0.85]
    assert advance(state, plan, overlaps) == [False] * 8 + [True]


def test_a_search_has_not_settled_before_its_window_is_full(make_state: Any, plan: Plan) -> None:
    state = make_state({"search.coarse_to_fine": False, "search.early_stop_window": 3})
    assert advance(state, plan, [None, 1.0, 1.0, 1.0]) == [False, False, False, True]
    assert not make_state({"search.coarse_to_fine": False}).settled


def test_rounds_images_and_seconds_add_up(make_state: Any, plan: Plan) -> None:
    state = make_state()
    advance(state, plan, [None, 0.5])
    assert (state.round, state.images) == (2, 20)
    assert (state.tracks[0].overlaps, state.tracks[0].plan) == ([0.5], plan)
    assert state.seconds == pytest.approx(0.2)


def facts(track: BudgetTrack) -> tuple[Any, ...]:
    return track.plan, track.overlaps, track.archive.entries


def test_everything_is_restored(
    make_state: Any, target: Target, plan: Plan, snapshot: Any, tmp_path: Path
) -> None:
    state = make_state()
    state.target = target
    state.thresholds.see(0, np.array([0.5, 2.0, 1.0]))
    learning, random = policy_of(state.thresholds), np.random.default_rng(0)
    for reward in (0.5, 0.7, 0.6):
        learning.learn(learning.draw(1, random, sigma=1.0), [reward])
    advance(state, plan, [None, 0.25])
    state.widths_found = True
    checkpoint.save(tmp_path / "checkpoint.safetensors", state.tensors(), state.document())
    expected, policy = snapshot(target), policy_of(state.thresholds).state()
    other = make_state()
    for tensor in [*other.target.network.state_dict().values(), other.target.alpha]:
        tensor.fill_(3)
    tensors, meta = checkpoint.load(tmp_path / "checkpoint.safetensors")
    other.restore(tensors, meta)
    restored = snapshot(other.target)
    assert all(torch.equal(restored[name], tensor) for name, tensor in expected.items())
    assert (other.round, other.images, other.seconds) == (2, 20, state.seconds)
    assert other.widths_found
    assert [facts(track) for track in other.tracks] == [facts(track) for track in state.tracks]
    assert other.tracks[0].overlaps == [0.25]
    assert policy_of(other.thresholds).state()[1] == policy[1]
    assert all(
        torch.equal(policy_of(other.thresholds).state()[0][name], tensor)
        for name, tensor in policy[0].items()
    )
    drawn = (policy_of(s.thresholds).draw(1, np.random.default_rng(1), sigma=1.0)[0] for s in (state, other))
    offsets = [policy_of(s.thresholds).offsets(c) for s, c in zip((state, other), drawn, strict=True)]
    assert (offsets[0] == offsets[1]).all()  # so their states are the same, too


def test_restored_plans_have_their_groups_in_the_order_of_the_network(
    make_state: Any, plan: Plan, tmp_path: Path
) -> None:
    """The order decides the bytes of plan.json, and in which order overlaps are summed."""
    state, other = make_state({"search.coarse_budget": 1}), make_state()
    advance(state, plan, [None])
    checkpoint.save(tmp_path / "checkpoint.safetensors", state.tensors(), state.document())
    other.restore(*checkpoint.load(tmp_path / "checkpoint.safetensors"))
    for restored in (other.tracks[0].plan, other.tracks[0].archive.entries[0].plan):
        assert list(restored.kept) == list(restored.widths) == ["stem", "wide", "last"]


TWO = {"flops": [0.4, 0.6]}


def test_each_budget_has_its_own_track(make_state: Any, channels: ChannelMap) -> None:
    """Rounds take turns; overlaps and archives are those of the same budget."""
    state = make_state(TWO | {"search.coarse_budget": 1})
    plans = [channels.random_plan(flops=0.4 + 0.2 * (n % 2), seed=n) for n in range(5)]
    overlaps = [state.advance(plan, 0.1 * n, images=1, seconds=0.0) for n, plan in enumerate(plans)]
    assert overlaps[:2] == [None, None]
    assert overlaps[2:] == [plans[n - 2].overlap(plans[n]) for n in (2, 3, 4)]
    assert [track.overlaps for track in state.tracks] == [[overlaps[2], overlaps[4]], [overlaps[3]]]
    assert [track.plan for track in state.tracks] == [plans[4], plans[3]]
    rounds = [{entry.round for entry in track.archive.entries} for track in state.tracks]
    assert rounds == [{0, 2, 4}, {1, 3}]


def test_several_budgets_settle_when_each_of_them_has(make_state: Any, plan: Plan) -> None:
    """Rounds 0 and 1 are coarse; a window of two takes three fine rounds of each of two budgets."""
    settings = TWO | {"search.rounds": 20, "search.coarse_share": 0.1, "search.early_stop_window": 2}
    alike = [None, None, *[1.0] * 10]
    assert advance(make_state(settings), plan, alike) == [False] * 7 + [True] * 5
    unrest = [None, None, *[1.0, 0.5] * 3, 1.0, 1.0, 1.0, 1.0]
    assert advance(make_state(settings), plan, unrest) == [False] * 11 + [True]


def test_all_tracks_are_restored(make_state: Any, channels: ChannelMap, tmp_path: Path) -> None:
    state, other = make_state(TWO), make_state(TWO)
    for n in range(3):
        state.advance(channels.random_plan(flops=0.4, seed=n), 0.5, images=1, seconds=0.0)
        checkpoint.save(tmp_path / "checkpoint.safetensors", state.tensors(), state.document())
        other.restore(*checkpoint.load(tmp_path / "checkpoint.safetensors"))
        assert [facts(track) for track in other.tracks] == [facts(track) for track in state.tracks]
    assert other.tracks[0].plan != other.tracks[1].plan


def test_plans_below_the_budget_are_no_candidates(make_state: Any, plan: Plan) -> None:
    """Three coarse rounds at half of the budget, then fine ones; the coarse ones have the best scores."""
    state = make_state(SETTLING | {"search.coarse_budget": 0.5})
    for round_ in range(5):
        state.advance(plan, 0.9 - 0.1 * round_, images=1, seconds=0.0)
        assert [entry.round for entry in state.tracks[0].archive.entries] == [[], [], [], [3], [4]][round_]
