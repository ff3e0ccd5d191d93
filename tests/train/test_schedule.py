from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from jstc.recipe import Recipe
from jstc.train import schedule
from jstc.train.schedule import Schedule


def dataset(train: int, full: int) -> Any:
    return SimpleNamespace(
        train=SimpleNamespace(steps=lambda batch: train // batch),
        train_full=SimpleNamespace(steps=lambda batch: full // batch),
    )


def recipe(**changes: Any) -> Recipe:
    document: dict[str, Any] = {"model": "m", "dataset": "d", "flops": 0.5, "train": {"batch_size": 10}}
    return Recipe.model_validate(document | changes)


def test_the_rate_rises_in_a_line_and_falls_in_half_a_cosine() -> None:
    rates = [Schedule(base=2.0, total=12, warmup=4).at(step) for step in range(13)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0
    assert rates[8] == pytest.approx(1.0)
    assert rates[12] == 0.0
    assert all(earlier > later for earlier, later in itertools.pairwise(rates[4:]))


def test_no_warmup_starts_at_the_top_and_after_the_end_the_rate_is_zero() -> None:
    assert Schedule(base=0.1, total=5).at(0) == 0.1
    assert Schedule(base=0.1, total=5).at(99) == 0.0


def test_steps_come_from_epochs_of_the_right_split() -> None:
    mine = recipe(search={"rounds": 3, "epochs_per_round": 0.5}, finetune={"epochs": 2})
    data = dataset(train=80, full=100)
    assert schedule.steps_per_round(mine, data) == 4
    assert schedule.steps_per_finetune_epoch(mine, data) == 10
    assert schedule.run_schedule(mine, data) == Schedule(0.1, total=3 * 4 + 2 * 10, warmup=8)


def test_a_round_has_at_least_one_step() -> None:
    mine = recipe(search={"epochs_per_round": 0.01})
    assert schedule.steps_per_round(mine, dataset(80, 100)) == 1


def test_step_counts_override_epochs_and_the_warmup_stays_short() -> None:
    mine = recipe(search={"rounds": 3, "steps_per_round": 2}, finetune={"epochs": 2, "steps_per_epoch": 3})
    assert schedule.run_schedule(mine, dataset(80, 100)) == Schedule(0.1, total=12, warmup=3)


def test_the_baseline_gets_the_epochs_of_the_whole_run() -> None:
    mine = recipe(search={"rounds": 3, "epochs_per_round": 0.5}, finetune={"epochs": 2})
    data = dataset(train=80, full=100)
    assert schedule.baseline_epochs(mine, data) == 2 + 2  # 12 steps are 1.5 epochs of 8
    assert schedule.baseline_schedule(mine, data) == Schedule(0.1, total=4 * 10, warmup=8)
