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
from jstc.jst.final import choose_best
from jstc.jst.proposer import Proposer
from jstc.jst.round import judge, train_round
from jstc.jst.state import State
from jstc.jst.subnetwork import cut, put_back
from jstc.plan import Plan
from jstc.train import handover
from jstc.train.checkpoint import load


@pytest.fixture
def ended(channels: ChannelMap, network: Any, make_work: Any, dataset: Dataset) -> Any:
    """A search after four rounds, with plans in its archive whose scores there are all wrong."""

    def make(data: Dataset = dataset, changes: dict[str, Any] | None = None) -> SimpleNamespace:
        work = make_work({"search.archive_size": 4, "search.coarse_budget": 1} | (changes or {}), data)
        proposer = Proposer(channels, work.recipe)
        state = State.new(network, channels, proposer.threshnet, work.recipe)
        for round_ in range(4):
            plan = channels.random_plan(flops=0.5, seed=round_)
            sub = cut(state.target, plan, work.recipe.train)
            train_round(sub, work, round_)
            put_back(sub, state.target)
            state.advance(plan, 1.0 - 0.1 * round_, images=0, seconds=0.0)
        return SimpleNamespace(state=state, proposer=proposer, work=work)

    return make


def scores(ended: Any) -> dict[str, float]:
    """Accuracy of every candidate on the whole search-validation split, by plan."""
    state, work = ended.state, ended.work
    plans = [ended.proposer.final(state.target).plan, *(e.plan for e in state.courses[0].archive.entries)]
    return {p.hash: judge(cut(state.target, p, work.recipe.train), work, limit=None).accuracy for p in plans}


def test_the_best_of_all_candidates_wins_by_its_accuracy_now(ended: Any, tmp_path: Path) -> None:
    now = ended()
    expected = scores(now)
    best = choose_best(now.state, now.proposer, now.work, tmp_path, Silent())
    assert len(expected) == 5
    assert len(set(expected.values())) > 1
    assert best.accuracy == expected[best.plan.hash] == max(expected.values())


def test_who_adjusts_the_plan_is_told_the_importance_in_use(ended: Any, tmp_path: Path) -> None:
    """Not the gates alone, which are alike where the weights were given."""
    now = ended(changes={"search.importance": "weighted"})
    target = now.state.target
    target.alpha.fill_(1.0)
    with torch.no_grad():
        target.network.wide.weight[[3, 9]] *= 100
    told: list[Any] = []

    def adjust(plan: Plan, ranks: Any, budget: int) -> Plan:
        told.append((plan, ranks))
        return plan

    choose_best(now.state, now.proposer, now.work, tmp_path, Silent(), adjust=adjust)
    [(plan, ranks)] = told
    groups = [group.name for group in target.channels.groups]
    order, kept = ranks[groups.index("wide")].tolist(), plan.kept["wide"]
    for part in (order[: len(kept)], order[len(kept) :]):
        large = [channel for channel in (3, 9) if channel in part]
        assert set(part[: len(large)]) == set(large)
    assert sorted(order[: len(kept)]) == list(kept)


def test_an_archived_plan_can_win(ended: Any, tmp_path: Path) -> None:
    """All channels outside one archived plan are spoilt, so that no other candidate works."""
    now = ended()
    chosen = now.state.courses[0].archive.entries[2].plan
    removed = torch.ones(36, dtype=torch.bool)
    removed[now.state.target.index(chosen)] = False
    target = now.state.target
    with torch.no_grad():
        for name, group in (("stem", 0), ("wide", 8), ("last", 20)):
            norm = getattr(target.network, f"{name}_bn")
            norm.bias[removed[group : group + norm.num_features]] = 50.0
    best = choose_best(now.state, now.proposer, now.work, tmp_path, Silent())
    assert best.plan == chosen
    assert best.round == now.state.courses[0].archive.entries[2].round
    assert Plan.load(tmp_path / "plan.json") == chosen


def test_of_equal_candidates_the_unperturbed_plan_wins(ended: Any, tmp_path: Path) -> None:
    now = ended()
    with torch.no_grad():
        now.state.target.network.fc.weight.zero_()
    best = choose_best(now.state, now.proposer, now.work, tmp_path, Silent())
    assert best.plan == now.proposer.final(now.state.target).plan
    assert best.round == now.state.round


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
    now.work = dataclasses.replace(now.work, dataset=data)
    choose_best(now.state, now.proposer, now.work, tmp_path, Silent())
    assert asked == ["ordered"] * 4 * 5  # 54 images in batches of 16, five candidates


def test_what_is_written_is_what_won(ended: Any, channels: ChannelMap, tmp_path: Path) -> None:
    now = ended()
    best = choose_best(now.state, now.proposer, now.work, tmp_path, Silent())
    saved = handover.load_subnetwork(tmp_path / "subnetwork.safetensors", plan=best.plan)
    expected = cut(now.state.target, best.plan, now.work.recipe.train)
    judge(expected, now.work, limit=None)
    tensors = expected.gated.network.state_dict()
    assert saved.step == 16
    assert all(torch.equal(saved.network[name], tensor) for name, tensor in tensors.items())
    assert all(torch.equal(saved.gates[name], gate) for name, gate in expected.gated.gates.items())
    momentum = channels.take(now.state.target.optimizer["momentum"], best.plan)
    assert all(torch.equal(saved.optimizer["momentum"][name], tensor) for name, tensor in momentum.items())


def test_choosing_changes_nothing_in_the_target(ended: Any, snapshot: Any, tmp_path: Path) -> None:
    now = ended(changes={"finetune.teacher": "target"})
    before = snapshot(now.state.target)
    choose_best(now.state, now.proposer, now.work, tmp_path, Silent())
    after = snapshot(now.state.target)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_the_teacher_is_the_whole_target_with_its_gates_folded(
    ended: Any, dataset: Dataset, channels: ChannelMap, tmp_path: Path
) -> None:
    now = ended(changes={"finetune.teacher": "target"})
    now.state.target.alpha.mul_(torch.linspace(0.5, 1.5, 36))
    choose_best(now.state, now.proposer, now.work, tmp_path, Silent())
    teacher = copy.deepcopy(now.state.target.network)
    teacher.load_state_dict(load(tmp_path / "target.safetensors")[0])
    whole = cut(now.state.target, channels.full_plan, now.work.recipe.train)
    judge(whole, now.work, limit=None)
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
    choose_best(now.state, now.proposer, now.work, tmp_path, Silent())
    assert {path.name for path in tmp_path.iterdir()} == {"plan.json", "subnetwork.safetensors"}
