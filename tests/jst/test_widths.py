"""The width search: what a trained network says of plans, before anything is trained."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jstc.channels import ChannelMap
from jstc.core.progress import Silent
from jstc.core.signals import interruptible
from jstc.data import Dataset
from jstc.errors import ChannelError, StageError
from jstc.jst.plan_judge import Judge
from jstc.jst.round import train_round
from jstc.jst.state import State
from jstc.jst.subnetwork import Target
from jstc.train.metrics import TrainingMonitor
from tests.helpers.tiny_search import (
    GIVEN,
    LEAN,
    LEFT_OUT,
    Run,
    TinyNet,
    context_of,
    proposer_of,
    tiny_recipe,
    tiny_search,
)


class PowerCutError(Exception):
    pass


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """A network that was trained: all of it, for as long as the others are searched."""
    whole = {"flops": 1.0, "search.rounds": 10, "search.importance": "magnitude", "search.coarse_budget": 1.0}
    run = tiny_search(tmp_path_factory.mktemp("given"), whole)
    assert run.result["accuracy"] > 0.7
    return run.target


@pytest.fixture
def search_widths(given: nn.Module) -> Any:
    """A search of given weights with `changes`, in a directory; `others` as `tiny_search` has them."""

    def run(directory: Path, changes: dict[str, Any] | None = None, **others: Any) -> Run:
        others = {"network": copy.deepcopy(given)} | others
        return tiny_search(directory, GIVEN | (changes or {}), **others)

    return run


@pytest.fixture(scope="session")
def found(given: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The search of `GIVEN` that was not broken off: change no file of it."""
    return tiny_search(tmp_path_factory.mktemp("found"), GIVEN, network=copy.deepcopy(given))


def candidates(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "candidates.jsonl").read_text().splitlines()]


def facts(run: Run) -> dict[str, Any]:
    """What must not depend on when a search ran, or how often it was broken off."""
    lines = [{key: v for key, v in line.items() if key != "seconds"} for line in candidates(run.directory)]
    files = run.files
    about = files["result"].pop("candidates")
    return {**files, "lines": lines, "candidates": {**about, "seconds": 0}}


# What is judged


def test_every_candidate_is_within_the_budget_and_costs_what_is_written(
    found: Run, channels: ChannelMap
) -> None:
    lines, whole = candidates(found.directory), channels.cost()
    assert [line["candidate"] for line in lines] == list(range(40))
    for line in lines:
        cost = channels.cost_of_counts(torch.tensor(line["counts"]).numpy())
        assert (line["flops"], line["params"]) == (cost.flops, cost.params)
        assert cost.flops <= 0.3 * whole.flops
        assert line["budget"] == "flops0.3"
        assert line["seconds"] >= 0
        assert 0 < line["images"] <= 36
        assert (line["loss"] is None) == (line["accuracy"] is None)
    assert sum(line["flops"] for line in lines) > 0.9 * 40 * 0.3 * whole.flops
    assert len({tuple(line["counts"]) for line in lines}) > 5


def test_generations_are_coarse_and_then_fine_and_draw_less_and_less(found: Run) -> None:
    lines = candidates(found.directory)
    assert [line["generation"] for line in lines] == sorted(line["generation"] for line in lines)
    phases = [line["phase"] for line in lines]
    assert phases == sorted(phases) and set(phases) == {"coarse", "fine"}
    sigmas = [line["sigma"] for line in lines]
    assert sigmas == sorted(sigmas, reverse=True)
    assert (sigmas[0], sigmas[-1]) == pytest.approx((1.0, 0.3))


def test_candidates_that_begin_badly_are_left_there(found: Run) -> None:
    lines = candidates(found.directory)
    ended = [line["loss"] is None for line in lines]
    assert 0 < sum(ended) < 20
    assert not any(ended[:6])  # there is nothing to compare them with
    assert all((line["images"] < 36) is early for line, early in zip(lines, ended, strict=True))
    best = min(line["first"] for line in lines)
    assert all(line["first"] > best for line, early in zip(lines, ended, strict=True) if early)


def test_the_result_says_what_was_judged_and_what_each_part_added(found: Run, channels: ChannelMap) -> None:
    result = found.result
    about = result["candidates"]
    assert (about["judged"], about["images"]) == (40, 36)
    assert about["seconds"] == pytest.approx(
        sum(line["seconds"] for line in candidates(found.directory)), abs=0.1
    )
    parts = [line["part"] for line in result["contributions"]]
    assert parts[0] == "evenly narrow, by norms"
    assert len(set(parts)) == len(parts) >= 5
    assert {"policy, coarse", "policy, fine"} <= set(parts)
    for line in result["contributions"]:
        assert 0 <= line["accuracy"] <= 1 and 0 < line["loss"] < 9 and line["params"] > 0
    assert result["rounds"] == result["steps"] == result["images_seen"] == 0


def lost(run: Run) -> dict[str, float]:
    """Losses of the parts' plans, on the images that candidates are judged on."""
    return {line["part"]: line["loss"] for line in run.result["contributions"]}


def test_what_comes_of_it_is_better_than_an_evenly_narrow_network(found: Run) -> None:
    losses = lost(found)
    # It is chosen on all images of the split, these are some of them.
    assert losses["best of all"] < 1.1 * min(losses.values())
    assert losses["best of all"] < min(losses["evenly narrow, by norms"], losses["channel weights"]) - 0.05
    known = [line["loss"] for line in candidates(found.directory) if line["loss"] is not None]
    assert losses["best of all"] < 1.1 * min(known)


def judge_of(network: nn.Module, channels: ChannelMap, dataset: Dataset, **changes: Any) -> Judge:
    recipe = tiny_recipe(GIVEN | changes)
    state = State.new(network, channels, proposer_of(channels, recipe), recipe)
    return Judge(state, context_of(recipe, dataset))


def test_the_winner_is_the_plan_that_the_policy_gives_afterwards(
    found: Run, given: nn.Module, channels: ChannelMap, dataset: Dataset
) -> None:
    """The search has no rounds, so what it ends with is the policy's likeliest plan."""
    winner = found.result["contributions"][-1]
    again = judge_of(given, channels, dataset)(found.plan)
    assert (again.loss, again.accuracy) == (winner["loss"], winner["accuracy"])
    assert channels.cost(found.plan).params == winner["params"]


def test_nothing_is_trained_and_the_given_weights_stay(found: Run, given: nn.Module) -> None:
    before = given.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in found.target.state_dict().items())


def test_neither_the_test_split_nor_shuffled_images_are_asked_for(
    search_widths: Any, found: Run, dataset: Dataset, watched: Any, tmp_path: Path
) -> None:
    asked: list[str] = []
    data = watched(
        dataset,
        train=asked.append,
        search_val=asked.append,
        test=lambda method: pytest.fail("the test split was read"),
    )
    assert facts(search_widths(tmp_path, dataset=data)) == facts(found)
    assert set(asked) == {"ordered"}


# The judge


def test_a_plan_is_judged_as_it_would_be_after_a_cut_on_images_that_are_read_once(
    given: nn.Module, channels: ChannelMap, dataset: Dataset, watched: Any
) -> None:
    asked: list[str] = []
    judge = judge_of(given, channels, watched(dataset, search_val=asked.append, train=asked.append))
    read = len(asked)
    plans = [channels.random_plan(flops=0.3, seed=seed) for seed in range(3)]
    judged = [judge(plan) for plan in plans]
    assert len(asked) == read
    assert len({each.loss for each in judged}) == 3
    assert {each.images for each in judged} == {36}
    assert [judge_of(given, channels, dataset)(plan) for plan in reversed(plans)] == judged[::-1]


def test_a_plan_is_judged_once_and_wholly_where_it_was_left(
    given: nn.Module, channels: ChannelMap, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, plan = judge_of(given, channels, dataset), channels.random_plan(flops=0.3, seed=0)
    left = judge(plan, bound=0.0)
    assert (left.loss, left.accuracy) == (None, None) and left.images < 36
    assert judge(plan, bound=0.0) is left
    whole = judge(plan)
    assert whole.loss is not None and whole.first == left.first and whole.images == 36
    monkeypatch.setattr(Judge, "_cut", None)
    assert judge(plan) is judge(plan, bound=0.0) is whole


def test_a_network_that_gives_no_numbers_has_lost_most(
    given: nn.Module, channels: ChannelMap, dataset: Dataset
) -> None:
    broken = copy.deepcopy(given)
    with torch.no_grad():
        broken.fc.weight.mul_(1e39)
    judge, plan = judge_of(broken, channels, dataset), channels.random_plan(flops=0.3, seed=0)
    whole = judge_of(given, channels, dataset)(plan)
    found, thorough = judge(plan), judge.thoroughly(plan)
    assert whole.loss is not None and found.loss is not None
    assert whole.loss < found.first == found.loss == thorough < float("inf")


def test_a_search_of_weights_that_give_no_numbers_ends(
    search_widths: Any, given: nn.Module, tmp_path: Path
) -> None:
    broken = copy.deepcopy(given)
    with torch.no_grad():
        broken.fc.weight.mul_(1e39)
    run = search_widths(tmp_path, {"search.candidates": 8}, network=broken)
    assert len(candidates(tmp_path)) == 8 and run.result["candidates"]["judged"] == 8


class InPlace(TinyNet):
    def forward(self, images: Tensor) -> Tensor:
        images -= 0.5
        return super().forward(images)


@pytest.mark.parametrize("images", [0, 24])
def test_images_stay_as_they_were_read_whatever_a_forward_does(
    given: nn.Module, channels: ChannelMap, dataset: Dataset, images: int
) -> None:
    network = InPlace()
    network.load_state_dict(given.state_dict())
    settings = {"search.reconstruction_images": images, "train.channels_last": False}
    plans = [channels.random_plan(flops=0.3, seed=seed) for seed in range(3)]
    judge, again = (judge_of(network, channels, dataset, **settings) for _ in range(2))
    assert [judge(plan) for plan in plans] == [again(plan) for plan in reversed(plans)][::-1]


class OtherCalls(TinyNet):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images if len(images) < 3 else images * 1.0)


def test_a_network_that_cannot_be_fitted_is_refused_with_the_way_out(
    search_widths: Any, given: nn.Module, tmp_path: Path
) -> None:
    network = OtherCalls()
    network.load_state_dict(given.state_dict())
    few = {"search.candidates": 4}
    with pytest.raises(ChannelError, match="fitted one after the other") as caught:
        search_widths(tmp_path / "fitted", few | {"search.reconstruction_images": 24}, network=network)
    assert caught.value.advice.startswith("search.reconstruction_images: 0 ")
    search_widths(tmp_path / "as cut", few, network=network)


# The same twice, broken off, of other settings


def test_the_same_seed_gives_the_same_candidates_whatever_the_surroundings(
    search_widths: Any, found: Run, tmp_path: Path
) -> None:
    torch.manual_seed(12345)
    assert facts(search_widths(tmp_path)) == facts(found)


@pytest.mark.parametrize("after", [3, 13, 33, 40])
def test_broken_off_among_the_candidates_it_judges_what_is_missing(
    search_widths: Any, power_cut: Any, found: Run, tmp_path: Path, after: int
) -> None:
    with power_cut(after) as progress:
        search_widths(tmp_path, progress=progress)
    before = (tmp_path / "candidates.jsonl").read_text()
    assert len(before.splitlines()) == after
    assert facts(search_widths(tmp_path)) == facts(found)
    assert (tmp_path / "candidates.jsonl").read_text().startswith(before)  # with the seconds that they took


def test_broken_off_again_and_again(search_widths: Any, power_cut: Any, found: Run, tmp_path: Path) -> None:
    for after in (5, 6, 17, 30):
        with power_cut(after) as progress:
            search_widths(tmp_path, progress=progress)
    assert facts(search_widths(tmp_path)) == facts(found)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_candidate_that_it_is_at(
    search_widths: Any, found: Run, tmp_path: Path, number: int
) -> None:
    class Signalling(Silent):
        def update(self, done: int, **figures: float) -> None:
            if done == 10:
                os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with interruptible(), pytest.raises(KeyboardInterrupt):
        search_widths(tmp_path, progress=Signalling())
    signal.signal(signal.SIGINT, before)
    assert len(candidates(tmp_path)) == 10
    assert facts(search_widths(tmp_path)) == facts(found)


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: b"\0" * 9, lambda data: b""])
def test_lines_that_were_not_finished_are_judged_again(
    search_widths: Any, found: Run, tmp_path: Path, damage: Any
) -> None:
    data = (found.directory / "candidates.jsonl").read_bytes()
    (tmp_path / "candidates.jsonl").write_bytes(damage(data))
    assert facts(search_widths(tmp_path)) == facts(found)


OTHERS = [{"seed": 1}, {"search.candidate_images": 18}, {"flops": 0.4}, {"search.candidates": 16}]


@pytest.mark.parametrize("changes", OTHERS, ids=str)
def test_lines_of_other_settings_are_not_taken_over(
    search_widths: Any, found: Run, tmp_path: Path, changes: dict[str, Any]
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    shutil.copy(found.directory / "candidates.jsonl", own)
    expected = facts(search_widths(tmp_path / "fresh", changes))
    assert facts(search_widths(own, changes)) == expected
    assert expected["lines"] != facts(found)["lines"]


def test_lines_of_other_weights_are_not_taken_over(
    search_widths: Any, given: nn.Module, found: Run, tmp_path: Path
) -> None:
    other = copy.deepcopy(given)
    with torch.no_grad():
        other.wide.weight.add_(0.05)
    own = tmp_path / "own"
    own.mkdir()
    shutil.copy(found.directory / "candidates.jsonl", own)
    expected = facts(search_widths(tmp_path / "fresh", network=copy.deepcopy(other)))
    assert facts(search_widths(own, network=copy.deepcopy(other))) == expected
    assert expected["lines"] != facts(found)["lines"]


# Its parts


@pytest.mark.parametrize("sign", [1, -1])
def test_the_policy_begins_evenly_where_its_starting_profile_loses_more(
    search_widths: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: int
) -> None:
    profile = sign * np.array([0.6, 0.0, -0.6])
    monkeypatch.setattr("jstc.jst.thresholds.taper", lambda channels: profile)
    run = search_widths(tmp_path, {"search.candidates": 2, "search.sigma": [0.0, 0.0]})
    params = {line["part"]: line["params"] for line in run.result["contributions"]}
    better = min(("channel weights", "starting profile"), key=lost(run).__getitem__)
    assert better == {1: "starting profile", -1: "channel weights"}[sign]
    assert params["channel weights"] != params["starting profile"]
    assert [line["params"] for line in candidates(tmp_path)] == [params[better]] * 2


def test_without_perturbation_one_group_moves_at_a_time(
    search_widths: Any, found: Run, tmp_path: Path
) -> None:
    off = {"search.perturbation": False, "search.sigma": LEFT_OUT, "search.noise_period": LEFT_OUT}
    run = search_widths(tmp_path, off)
    lines = candidates(tmp_path)
    assert len(lines) == 40
    assert [line["counts"] for line in lines] != [line["counts"] for line in candidates(found.directory)]
    assert len({line["plan"] for line in lines[:6]}) > 3
    assert lost(run)["best of all"] < lost(run)["channel weights"] - 0.05


def test_without_coarse_to_fine_all_candidates_are_fine(search_widths: Any, tmp_path: Path) -> None:
    off = {"search.coarse_to_fine": False, "search.coarse_share": LEFT_OUT, "search.coarse_budget": LEFT_OUT}
    run = search_widths(tmp_path, off)
    assert {line["phase"] for line in candidates(tmp_path)} == {"fine"}
    assert "policy, coarse" not in [line["part"] for line in run.result["contributions"]]


OFF = {
    "lean": LEAN | {"search.rounds": 1, "weights": "given.safetensors"},
    "common": {"search.thresholds": "common"},
    "fixed": {"search.thresholds": "fixed", "search.fixed_thresholds": {"wide": 0.3}},
    "from scratch": {"weights": None, "search.rounds": 1},
}


@pytest.mark.parametrize("changes", OFF.values(), ids=OFF)
def test_without_a_policy_or_weights_no_candidate_is_judged(
    search_widths: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run = search_widths(tmp_path, changes)
    assert not (tmp_path / "candidates.jsonl").exists()
    assert not {"candidates", "contributions"} & set(run.result)


def test_each_budget_has_its_own_candidates(
    search_widths: Any, power_cut: Any, channels: ChannelMap, tmp_path: Path
) -> None:
    two = {"flops": [0.6, 0.4], "search.candidates": 16}
    run = search_widths(tmp_path / "whole", two)
    for label, share in (("flops0.6", 0.6), ("flops0.4", 0.4)):
        part = run.at(label)
        lines = candidates(part.directory)
        assert len(lines) == 16 and {line["budget"] for line in lines} == {label}
        assert all(line["flops"] <= share * channels.cost().flops for line in lines)
        assert part.result["candidates"]["judged"] == 16
    assert "candidates" not in run.result
    assert not (run.directory / "candidates.jsonl").exists()
    broken = tmp_path / "broken"
    with power_cut(calls=20) as progress:  # in the second budget's
        search_widths(broken, two, progress=progress)
    again = search_widths(broken, two)
    assert len(candidates(broken / "flops0.4")) == 16
    for label in run.plans:
        assert facts(again.at(label)) == facts(run.at(label))


def test_all_channels_can_be_kept(search_widths: Any, tmp_path: Path, channels: ChannelMap) -> None:
    run = search_widths(tmp_path, {"flops": 1.0})
    assert run.plan == channels.full_plan
    assert len({line["plan"] for line in candidates(tmp_path)}) == 1


# The rounds after it

ROUNDS = {"search.rounds": 3, "search.tau": [8.0, 4.0], "train.lr": 0.02, "search.candidates": 24}


@pytest.fixture(scope="session")
def trained(given: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_search(tmp_path_factory.mktemp("trained"), GIVEN | ROUNDS, network=copy.deepcopy(given))


def test_rounds_train_the_plan_that_was_found(
    search_widths: Any, target: Target, trained: Run, channels: ChannelMap, tmp_path: Path
) -> None:
    """And keep its widths, while the training teaches which channels these are."""
    winner = search_widths(tmp_path, ROUNDS | {"search.rounds": 0}).plan
    counts = list(winner.counts.values())
    start = proposer_of(channels, tiny_recipe(GIVEN)).final(target).plan.counts.values()
    assert sum(abs(a - b) for a, b in zip(start, counts, strict=True)) > 4
    assert trained.history[0]["plan_hash"] == winner.hash
    for record in trained.history:
        assert (record["advantage"], record["sigma"]) == (None, 0.0)
        assert sum(abs(a - b) for a, b in zip(record["counts"], counts, strict=True)) <= 2


MENDED = ROUNDS | {"search.reconstruction_images": 48, "checkpoint.every_steps": 1}


class Messages(Silent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(scope="session")
def mended(given: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_search(tmp_path_factory.mktemp("mended"), GIVEN | MENDED, network=copy.deepcopy(given))


def test_candidates_are_mended_before_they_are_judged(
    search_widths: Any, mended: Run, trained: Run, tmp_path: Path
) -> None:
    told = Messages()
    assert facts(search_widths(tmp_path, MENDED, progress=told)) == facts(mended)
    assert [text.partition(":")[0] for text in told.texts] == ["widths", "reconstruction"]
    same = {line["plan"]: line["loss"] for line in candidates(trained.directory)}
    pairs = [
        (line["loss"], same[line["plan"]]) for line in candidates(mended.directory) if line["plan"] in same
    ]
    both = [(mine, theirs) for mine, theirs in pairs if mine is not None and theirs is not None]
    assert len(both) > 2 and sum(mine < theirs for mine, theirs in both) > len(both) / 2


@pytest.mark.parametrize("images", [0, 48])
def test_the_first_sub_network_is_mended_and_the_others_are_as_they_were_trained(
    search_widths: Any,
    given: nn.Module,
    channels: ChannelMap,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    images: int,
) -> None:
    begun: list[bool] = []

    def watched(sub: Any, *args: Any, **options: Any) -> Any:
        cut = channels.slice(network, sub.plan).state_dict()
        begun.append(torch.equal(sub.gated.network.fc.weight, cut["fc.weight"]))
        return train_round(sub, *args, **options)

    monkeypatch.setattr("jstc.jst.rounds.train_round", watched)
    network = copy.deepcopy(given)
    search_widths(tmp_path, MENDED | {"search.reconstruction_images": images}, network=network)
    assert begun == [not images, True, True]


@pytest.mark.parametrize("steps", [2, 6])
def test_broken_off_in_the_middle_of_its_rounds_it_ends_the_same(
    search_widths: Any, mended: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    calls, after_step = iter(range(1, 1000)), TrainingMonitor.after_step

    def cut_off(monitor: TrainingMonitor, *given: Any) -> None:
        after_step(monitor, *given)
        if next(calls) == steps:
            raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(TrainingMonitor, "after_step", cut_off)
        with pytest.raises(PowerCutError):
            search_widths(tmp_path, MENDED)
    monkeypatch.setattr("jstc.jst.joint.Judge", None)
    assert facts(search_widths(tmp_path, MENDED)) == facts(mended)


@pytest.mark.parametrize("after", [1, 2])
def test_broken_off_in_its_rounds_a_search_keeps_its_candidates(
    search_widths: Any,
    power_cut: Any,
    trained: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    with power_cut(calls=24 + 2 + after) as progress:
        search_widths(tmp_path, ROUNDS, progress=progress)
    before = (tmp_path / "candidates.jsonl").read_bytes()
    assert len(before.splitlines()) == 24
    monkeypatch.setattr("jstc.jst.joint.Judge", None)  # nothing is judged again
    assert facts(search_widths(tmp_path, ROUNDS)) == facts(trained)
    assert (tmp_path / "candidates.jsonl").read_bytes() == before


def test_broken_off_before_the_first_round_it_takes_its_candidates_over(
    search_widths: Any, power_cut: Any, trained: Run, tmp_path: Path
) -> None:
    with power_cut(calls=24 + 2) as progress:
        search_widths(tmp_path, ROUNDS, progress=progress)
    before = (tmp_path / "candidates.jsonl").read_bytes()
    assert facts(search_widths(tmp_path, ROUNDS)) == facts(trained)
    assert (tmp_path / "candidates.jsonl").read_bytes() == before


def test_an_empty_validation_split_is_said(search_widths: Any, dataset: Dataset, tmp_path: Path) -> None:
    nothing = dataclasses.replace(dataset.search_val, members=torch.arange(0))  # type: ignore[type-var]
    with pytest.raises(StageError, match=r"search-validation split is empty; raise input\.val_fraction"):
        search_widths(tmp_path, dataset=dataclasses.replace(dataset, search_val=nothing))
