from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jstc.channels import ChannelMap
from jstc.core.progress import Silent
from jstc.data import Dataset
from jstc.jst.round import judge, train_round
from jstc.jst.selection import Selection, choose_best, save, with_plan
from jstc.jst.state import State
from jstc.jst.subnetwork import cut, put_back
from jstc.plan import Plan
from jstc.train import handover
from jstc.train.checkpoint import load
from tests.helpers.tiny_search import proposer_of


@pytest.fixture
def ended(channels: ChannelMap, network: Any, make_context: Any, dataset: Dataset) -> Any:
    """A search after four rounds, with plans in its archive whose scores there are all wrong."""

    def make(data: Dataset = dataset, changes: dict[str, Any] | None = None) -> SimpleNamespace:
        context = make_context({"search.archive_size": 4, "search.coarse_budget": 1} | (changes or {}), data)
        proposer = proposer_of(channels, context.recipe)
        state = State.new(network, channels, proposer, context.recipe)
        for round_ in range(4):
            plan = channels.random_plan(flops=0.5, seed=round_)
            sub = cut(state.target, plan, context.recipe.train)
            train_round(sub, context, round_)
            put_back(sub, state.target)
            state.advance(plan, 1.0 - 0.1 * round_, images=0, seconds=0.0)
        return SimpleNamespace(state=state, proposer=proposer, context=context)

    return make


def scores(ended: Any) -> dict[str, float]:
    """Accuracy of every candidate on the whole search-validation split, by plan."""
    state, context = ended.state, ended.context
    plans = [ended.proposer.final(state.target).plan, *(e.plan for e in state.tracks[0].archive.entries)]
    return {
        p.hash: judge(cut(state.target, p, context.recipe.train), context, limit=None).accuracy for p in plans
    }


def finished(now: Any, directory: Path) -> Selection:
    """The selection of a search that has ended, saved."""
    found = choose_best(now.state, now.proposer, now.context, Silent())
    save(found, now.state, now.context, directory)
    return found


def test_the_best_of_all_candidates_wins_by_its_accuracy_now(ended: Any) -> None:
    now = ended()
    expected = scores(now)
    best = choose_best(now.state, now.proposer, now.context, Silent())
    assert len(expected) == 5
    assert len(set(expected.values())) > 1
    assert best.entry.accuracy == expected[best.plan.hash] == max(expected.values())


def test_the_ranking_is_by_the_importance_in_use(ended: Any) -> None:
    """Not by the gates alone, which are alike where the weights were given."""
    now = ended(changes={"search.importance": "weighted"})
    target = now.state.target
    target.alpha.fill_(1.0)
    with torch.no_grad():
        target.network.wide.weight[[3, 9]] *= 100
    found = choose_best(now.state, now.proposer, now.context, Silent())
    groups = [group.name for group in target.channels.groups]
    order, kept = found.ranking[groups.index("wide")].tolist(), found.plan.kept["wide"]
    for part in (order[: len(kept)], order[len(kept) :]):
        large = [channel for channel in (3, 9) if channel in part]
        assert set(part[: len(large)]) == set(large)
    assert sorted(order[: len(kept)]) == list(kept)


def test_another_plan_is_judged_as_the_winner_was(ended: Any, channels: ChannelMap) -> None:
    now = ended()
    found = choose_best(now.state, now.proposer, now.context, Silent())
    assert with_plan(found, found.plan, now.state, now.context) is found
    other = channels.random_plan(flops=0.4, seed=9)
    mixed = Plan(dict(reversed([*other.kept.items()])), dict(reversed([*other.widths.items()])))
    changed = with_plan(found, mixed, now.state, now.context)
    judged = judge(cut(now.state.target, other, now.context.recipe.train), now.context, limit=None)
    assert (changed.entry.accuracy, changed.entry.round) == (judged.accuracy, found.entry.round)
    assert changed.plan == other and list(changed.plan.kept) == list(channels.widths)
    assert changed.ranking is found.ranking


def test_an_archived_plan_can_win(ended: Any, tmp_path: Path) -> None:
    """All channels outside one archived plan are spoilt, so that no other candidate works."""
    now = ended()
    chosen = now.state.tracks[0].archive.entries[2].plan
    removed = torch.ones(36, dtype=torch.bool)
    removed[now.state.target.index(chosen)] = False
    target = now.state.target
    with torch.no_grad():
        for name, group in (("stem", 0), ("wide", 8), ("last", 20)):
            norm = getattr(target.network, f"{name}_bn")
            norm.bias[removed[group : group + norm.num_features]] = 50.0
    best = finished(now, tmp_path)
    assert best.plan == chosen
    assert best.entry.round == now.state.tracks[0].archive.entries[2].round
    assert Plan.load(tmp_path / "plan.json") == chosen


def test_of_equal_candidates_the_unperturbed_plan_wins(ended: Any, tmp_path: Path) -> None:
    now = ended()
    with torch.no_grad():
        now.state.target.network.fc.weight.zero_()
    best = finished(now, tmp_path)
    assert best.plan == now.proposer.final(now.state.target).plan
    assert best.entry.round == now.state.round


def test_every_candidate_sees_the_whole_validation_split_and_no_other_is_judged_by(
    ended: Any, dataset: Dataset, watched: Any, tmp_path: Path
) -> None:
    now, asked = ended(), []
    data = watched(
        dataset,
        search_val=asked.append,
        train_full=lambda method: pytest.fail("train_full was read"),
        test=lambda method: pytest.fail("test was read"),
    )
    now.context = dataclasses.replace(now.context, dataset=data)
    finished(now, tmp_path)
    assert asked == ["ordered"] * 4 * 5  # 54 images in batches of 16, five candidates


def test_what_is_written_is_what_won(ended: Any, channels: ChannelMap, tmp_path: Path) -> None:
    now = ended()
    best = finished(now, tmp_path)
    saved = handover.load_subnetwork(tmp_path / "subnetwork.safetensors", plan=best.plan)
    expected = cut(now.state.target, best.plan, now.context.recipe.train)
    judge(expected, now.context, limit=None)
    tensors = expected.gated.network.state_dict()
    assert saved.step == 16
    assert all(torch.equal(saved.network[name], tensor) for name, tensor in tensors.items())
    assert all(torch.equal(saved.gates[name], gate) for name, gate in expected.gated.gates.items())
    momentum = channels.take(now.state.target.optimizer["momentum"], best.plan)
    assert all(torch.equal(saved.optimizer["momentum"][name], tensor) for name, tensor in momentum.items())


def test_choosing_changes_nothing_in_the_target(ended: Any, snapshot: Any, tmp_path: Path) -> None:
    now = ended(changes={"finetune.teacher": "target"})
    before = snapshot(now.state.target)
    finished(now, tmp_path)
    after = snapshot(now.state.target)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_the_teacher_is_the_whole_target_with_its_gates_folded(
    ended: Any, dataset: Dataset, channels: ChannelMap, tmp_path: Path
) -> None:
    now = ended(changes={"finetune.teacher": "target"})
    now.state.target.alpha.mul_(torch.linspace(0.5, 1.5, 36))
    finished(now, tmp_path)
    teacher = copy.deepcopy(now.state.target.network)
    teacher.load_state_dict(load(tmp_path / "target.safetensors")[0])
    whole = cut(now.state.target, channels.full_plan, now.context.recipe.train)
    judge(whole, now.context, limit=None)
    images, _ = next(dataset.search_val.ordered(54))
    with torch.no_grad():
        expected, found = whole.gated.eval()(images), teacher.eval()(images)
    assert torch.allclose(found, expected, atol=1e-5)
    assert found.std() > 0.1


@pytest.mark.parametrize("changes", [{}, {"finetune.teacher": "target", "weights": "given.safetensors"}])
def test_no_teacher_is_written_where_none_is_asked_for_or_another_is_given(
    ended: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    now = ended(changes=changes)
    finished(now, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"plan.json", "subnetwork.safetensors"}
