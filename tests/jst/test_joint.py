from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from jstc.channels import ChannelMap
from jstc.data import Dataset
from jstc.errors import BudgetError, StageError
from jstc.plan import Plan
from jstc.train import handover
from jstc.train.device import Numerics
from jstc.train.loop import evaluate
from tests.helpers.tiny_search import CPU, LEAN


class Untouchable:
    """Stands for a split that must not even be asked how many images it has."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the test split was asked for {name}")


class Told:
    """A progress that keeps what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def start(self, stage: str, total: int, unit: str) -> None:
        self.calls.append((stage, total, unit))

    def update(self, done: int, **figures: float) -> None:
        self.calls.append((done, figures.get("accuracy")))

    def message(self, text: str) -> None:
        self.calls.append((text,))

    def finish(self) -> None:
        self.calls.append(("finish",))


def test_a_search_learns(searched: Any) -> None:
    """To tell three classes apart, far better than by chance, and at half the FLOPs."""
    run = searched({"search.rounds": 10})
    assert run.result["accuracy"] > 0.7
    assert run.history[-1]["loss"] < run.history[0]["loss"] - 0.2


def test_every_plan_is_within_the_budget_and_costs_what_is_written(
    searched: Any, channels: ChannelMap
) -> None:
    for run in (searched(), searched({"flops": None, "params": 0.4})):
        [(metric, amount)] = run.recipe.budget.items()
        limit = amount * getattr(channels.cost(), metric)
        for record in run.history:
            cost = channels.cost_of_counts(torch.tensor(record["counts"]).numpy())
            assert (record["flops"], record["params"]) == (cost.flops, cost.params)
            share = 0.7 if record["phase"] == "coarse" else 1.0
            assert 0.9 * share * limit < record[metric] <= share * limit
        cost = channels.cost(run.plan)
        assert (run.result["flops"], run.result["params"]) == (cost.flops, cost.params)
        assert getattr(cost, metric) <= limit


def test_the_history_has_a_line_for_each_round(searched: Any) -> None:
    run = searched({"search.noise_period": 1})  # so that plans change in every round
    assert [record["round"] for record in run.history] == list(range(6))
    for record in run.history:
        assert record["seconds"] > 0
        assert len(record["thresholds"]) == len(record["counts"]) == 3
    overlaps = [record["overlap"] for record in run.history]
    assert overlaps[0] is None
    assert {record["budget"] for record in run.history} == {"flops0.5"}
    assert {record["images"] for record in run.history} == {(4 + 2) * 16}
    assert all(0 < overlap < 1 for overlap in overlaps[1:])
    assert run.history[-1]["lr"] < run.history[2]["lr"]


def test_rounds_below_the_budget_are_judged_now_and_then_and_those_at_the_budget_always(
    searched: Any, run_search: Any, tmp_path: Path
) -> None:
    """Rounds 0 and 2 of four coarse ones at 0.7 of the budget, and both fine ones."""
    changed = {"search.coarse_share": 0.6, "search.eval_every": 2}
    told = Told()
    run = run_search(tmp_path, changed, progress=told)
    judged = [record["accuracy"] is not None for record in run.history]
    assert judged == [True, False, True, False, True, True]
    assert all(0 <= record["accuracy"] <= 1 for record in run.history if record["accuracy"] is not None)
    assert [call[1] for call in told.calls[2:8]] == [record["accuracy"] for record in run.history]
    at_budget = searched(changed | {"search.coarse_budget": 1.0}).history
    assert all(record["accuracy"] is not None for record in at_budget)


def test_coarse_rounds_keep_the_profile_and_fine_ones_draw_their_own(searched: Any) -> None:
    history = searched({"search.rounds": 8, "search.candidates": 1}).history
    assert [record["phase"] for record in history] == ["coarse"] * 3 + ["fine"] * 5
    assert len({tuple(record["thresholds"]) for record in history[:3]}) == 1
    assert len({tuple(record["thresholds"]) for record in history[2:]}) == 6
    assert [record["advantage"] for record in history[:4]] == [None, None, None, 0.0]
    rewards = [record["accuracy"] for record in history[3:5]]
    assert math.copysign(1, history[4]["advantage"]) == math.copysign(1, rewards[1] - rewards[0])


def test_lean_is_one_threshold_norms_and_no_perturbation(searched: Any) -> None:
    run = searched(LEAN)
    assert all(len(set(record["thresholds"])) == 1 for record in run.history)
    assert {record["sigma"] for record in run.history} == {0.0}
    assert {record["advantage"] for record in run.history} == {None}
    off = {"search.importance": "magnitude", "search.thresholds": "common", "search.perturbation": False}
    assert searched(LEAN | {"search.method": "joint"} | off).files == run.files


def test_the_result_counts_rounds_steps_and_images(searched: Any) -> None:
    """Six rounds of four training batches and two batches for the gates, 16 images each."""
    result = searched().result
    assert (result["rounds"], result["steps"], result["images_seen"]) == (6, 24, 6 * (4 + 2) * 16)
    assert result["settled"] is None  # too few rounds to tell
    assert 0 <= result["round_of_plan"] <= 6


def test_what_is_handed_on_is_as_good_as_reported(
    searched: Any, channels: ChannelMap, dataset: Dataset
) -> None:
    run = searched()
    saved = handover.load_subnetwork(run.directory / "subnetwork.safetensors", plan=run.plan)
    gated = channels.gated(channels.slice(run.target, run.plan), run.plan)
    saved.restore(gated)
    numerics = Numerics.of(run.recipe.train, CPU)
    judged = evaluate(gated, dataset.search_val.ordered(16), numerics)
    assert judged.accuracy == run.result["accuracy"]
    assert Plan.load(run.directory / "plan.json") == run.plan
    assert saved.step == 24
    assert saved.optimizer["momentum"].keys() == {name for name, _ in gated.network.named_parameters()}


def test_the_same_seed_gives_the_same_files_whatever_the_surroundings(
    searched: Any, run_search: Any, tmp_path: Path
) -> None:
    torch.manual_seed(12345)
    before = torch.get_rng_state()
    again = run_search(tmp_path)
    assert again.files == searched().files
    assert torch.equal(torch.get_rng_state(), before)


def test_progress_is_told_of_every_round_and_candidate(run_search: Any, tmp_path: Path) -> None:
    told = Told()
    run = run_search(
        tmp_path,
        {
            "search.rounds": 4, "search.archive_size": 2, "search.coarse_budget": 1,
            "search.noise_period": 1, "search.recency_bonus": 0.0, "seed": 3,  # plans that all differ
        },
        progress=told,
    )  # fmt: skip
    rounds = [(n, record["accuracy"]) for n, record in enumerate(run.history, start=1)]
    assert told.calls[:7] == [("search", 4, "round"), (0, None), *rounds, ("search", 3, "candidate")]
    assert [call[0] for call in told.calls[7:]] == [1, 2, 3, "finish"]
    assert run.result["accuracy"] == max(call[1] for call in told.calls[7:-1])


def test_another_seed_gives_another_search(searched: Any) -> None:
    mine, theirs = searched(), searched({"seed": 1})
    assert mine.plan != theirs.plan
    plans = [[record["plan_hash"] for record in run.history] for run in (mine, theirs)]
    assert not set(plans[0]) & set(plans[1])


def test_the_test_split_is_never_asked_for_anything(
    searched: Any, run_search: Any, dataset: Dataset, tmp_path: Path
) -> None:
    blind = dataclasses.replace(dataset, test=Untouchable())  # type: ignore[arg-type]
    run = run_search(tmp_path, {"finetune.teacher": "target"}, dataset=blind)
    assert run.files == searched().files


def test_weights_are_never_trained_on_search_validation(
    run_search: Any, dataset: Dataset, watched: Any, tmp_path: Path
) -> None:
    asked: list[str] = []
    data = watched(
        dataset,
        train_full=lambda method: asked.append("train_full"),
        search_val=asked.append,
        test=asked.append,
    )
    run_search(tmp_path, {"search.importance": "magnitude"}, dataset=data)
    assert set(asked) == {"ordered"}


def test_a_settled_search_stops_and_leaves_its_steps_to_finetune(run_search: Any, tmp_path: Path) -> None:
    """Without noise and with one threshold, magnitudes change little at a small rate: the plan stays."""
    settling = {
        "search.rounds": 12,
        "search.perturbation": False,
        "search.thresholds": "common",
        "search.importance": "random",
        "search.early_stop_window": 3,
    }
    told = Told()
    run = run_search(tmp_path, settling, progress=told)
    assert any("after 9 of 12 rounds" in str(call[0]) for call in told.calls)
    assert run.result["settled"] is True
    assert run.result["rounds"] == len(run.history) == 9  # coarse rounds 0 to 4, then overlaps of 6, 7, 8
    saved = handover.load_subnetwork(run.directory / "subnetwork.safetensors", plan=run.plan)
    assert saved.step == run.result["steps"] == 9 * 4


def test_a_budget_out_of_reach_is_refused_before_any_training(
    run_search: Any, dataset: Dataset, tmp_path: Path
) -> None:
    blind = dataclasses.replace(dataset, train=Untouchable())  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="smallest reachable"):
        run_search(tmp_path, {"flops": 0.001}, dataset=blind)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_search_that_diverges_says_so(run_search: Any, tmp_path: Path, steps: int) -> None:
    with pytest.raises(StageError, match=r"diverged.*train\.lr"):
        run_search(tmp_path, {"train.lr": 1e30, "search.steps_per_round": steps})


def test_all_channels_can_be_kept(searched: Any, channels: ChannelMap) -> None:
    assert searched({"flops": 1.0, "search.rounds": 2}).plan == channels.full_plan
