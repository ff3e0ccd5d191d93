from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from jstc.recipe.schema import Recipe
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


@pytest.mark.parametrize(("images", "per_round"), [(80_000, 20_000), (800, 800)])
def test_a_long_run_has_short_rounds(images: int, per_round: int) -> None:
    mine = recipe(search={"rounds": 4}, finetune={"epochs": 3}, train={"batch_size": 1})
    assert schedule.steps_per_round(mine, dataset(images, images)) == per_round


@pytest.mark.parametrize(("epochs", "long"), [(31, False), (32, True)])
def test_a_run_is_long_by_the_images_that_it_sees(epochs: int, long: bool) -> None:
    mine = recipe(search={"rounds": 1, "steps_per_round": 1}, finetune={"epochs": epochs})
    assert schedule.is_long(mine, dataset(10_000, 10_000)) is long


def test_the_length_that_decides_counts_short_rounds() -> None:
    mine = recipe(search={"rounds": 100}, finetune={"epochs": 5})
    data = dataset(40_000, 40_000)  # 30 epochs of 4,000 steps of 10 with short rounds, 105 with whole ones
    assert schedule.is_long(mine, data)
    assert schedule.total_steps(mine, data) == 30 * 4_000
    data = dataset(10_000, 10_000)
    assert not schedule.is_long(mine, data)
    assert schedule.total_steps(mine, data) == 105 * 1_000


def test_step_counts_override_epochs_and_the_warmup_stays_short() -> None:
    mine = recipe(search={"rounds": 3, "steps_per_round": 2}, finetune={"epochs": 2, "steps_per_epoch": 3})
    assert schedule.run_schedule(mine, dataset(80, 100)) == Schedule(0.1, total=12, warmup=3)


def test_the_baseline_gets_the_epochs_of_the_whole_run() -> None:
    mine = recipe(search={"rounds": 3, "epochs_per_round": 0.5}, finetune={"epochs": 2})
    data = dataset(train=80, full=100)
    assert schedule.baseline_epochs(mine, data) == 2 + 2  # 12 steps are 1.5 epochs of 8
    assert schedule.baseline_schedule(mine, data) == Schedule(0.1, total=4 * 10, warmup=8)


def of_torch(scheduler: Any, steps: int) -> list[float]:
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
    made, rates = scheduler(torch.optim.lr_scheduler, optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step()
    return rates


def test_steps_are_those_of_torch() -> None:
    mine = Schedule(base=0.8, total=20, milestones=(0.3, 0.5), gamma=0.25)
    theirs = of_torch(lambda kinds, o: kinds.MultiStepLR(o, milestones=[6, 10], gamma=0.25), 20)
    assert [mine.at(step) for step in range(20)] == pytest.approx(theirs)
    assert mine.at(20) == 0.0


def test_the_cosine_is_that_of_torch() -> None:
    theirs = of_torch(lambda kinds, o: kinds.CosineAnnealingLR(o, T_max=20), 20)
    assert [Schedule(base=0.8, total=20).at(step) for step in range(20)] == pytest.approx(theirs)


def test_steps_warm_up_too_and_a_milestone_in_the_warmup_counts() -> None:
    mine = Schedule(base=0.8, total=20, warmup=4, milestones=(0.1, 0.5), gamma=0.5)
    assert [mine.at(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.3, 0.4, 0.4])
    assert mine.at(10) == pytest.approx(0.2)


def test_the_recipe_chooses_the_schedule_of_run_and_baseline() -> None:
    stepped = {"batch_size": 10, "schedule": "step", "milestones": [0.25], "gamma": 0.5, "warmup_epochs": 0.0}
    mine = recipe(train=stepped, search={"rounds": 3, "epochs_per_round": 0.5}, finetune={"epochs": 2})
    data = dataset(train=80, full=100)
    for found in (schedule.run_schedule(mine, data), schedule.baseline_schedule(mine, data)):
        assert (found.milestones, found.gamma) == ((0.25,), 0.5)
        assert found.at(found.total // 4 - 1) == 0.1
        assert found.at(found.total // 4) == found.at(found.total - 1) == 0.05


def test_a_longer_finetune_leaves_the_steps_of_the_search_as_they_were() -> None:
    """Also where the run is a long one by it, whose rounds would have been shorter."""
    data = dataset(800, 1000)
    settings = {"search": {"rounds": 4}, "train": {"batch_size": 1}}
    searched, longer = (recipe(**settings, finetune={"epochs": epochs}) for epochs in (10, 400))
    assert (schedule.is_long(searched, data), schedule.is_long(longer, data)) == (False, True)
    run = schedule.run_schedule(searched, data)
    assert schedule.finetune_schedule(searched, data, searched=searched) == run
    found = schedule.finetune_schedule(longer, data, searched=searched)
    assert found.total == 4 * 800 + 400 * 1000
    assert found.total != schedule.run_schedule(longer, data).total
    assert found.at(4 * 800) > run.at(4 * 800)
