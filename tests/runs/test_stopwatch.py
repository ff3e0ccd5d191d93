"""The time that is left of a whole run: known once a step was timed, from images and FLOPs; never before."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from jstc.core.progress import LEFT_IN_ALL, Silent
from jstc.recipe.schema import Recipe
from jstc.runs.stopwatch import Stopwatch, Work, expected_work

FLOPS = 1000.0
DOCUMENT = {
    "model": "m",
    "dataset": "d",
    "flops": 0.5,
    "train": {"batch_size": 10},
    "search": {"rounds": 4, "steps_per_round": 5},
    "finetune": {"epochs": 3, "steps_per_epoch": 2},
    "export": {"precisions": ["fp32", "int8"]},
    "bench": {"batch_sizes": [1, 8], "seconds": 30.0},
}


def workspace(*shares: float, **changes: object) -> SimpleNamespace:
    split = SimpleNamespace(num_images=100, steps=lambda batch: 10)
    labels = ["flops0.5"] if not shares else [f"flops{share}" for share in shares]
    return SimpleNamespace(
        recipe=Recipe.model_validate(DOCUMENT | changes),
        dataset=SimpleNamespace(test=split, train=split, train_full=split),
        channels=SimpleNamespace(cost=lambda: SimpleNamespace(flops=FLOPS)),
        budgets={
            label: SimpleNamespace(share=share) for label, share in zip(labels, shares or (0.5,), strict=True)
        },
        pace={},
    )


class Seen(Silent):
    def __init__(self) -> None:
        self.left: list[float | None] = []

    def update(self, done: int, **figures: float) -> None:
        self.left.append(figures.get(LEFT_IN_ALL))


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("jstc.runs.stopwatch.time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def seen():
    return Seen()


def watch(stage, seen, where, to_come):
    run = SimpleNamespace(spend=lambda stage, seconds: None)
    return Stopwatch(run, stage, seen, workspace=where, to_come=to_come)


def test_work_is_images_times_flops():
    work = expected_work(workspace())
    assert work["search"].flops == 3 * 4 * 5 * 10 * 500
    assert work["finetune"].flops == 3 * 3 * 2 * 10 * 500 + 100 * 500
    assert work["export"] == Work(2 * 100 * 500)
    assert work["bench"] == Work(seconds=60)
    taught = expected_work(workspace(finetune=DOCUMENT["finetune"] | {"teacher": "target"}))["finetune"]
    assert taught.flops == work["finetune"].flops + 3 * 2 * 10 * 1000


def test_of_several_budgets_each_has_the_work_of_its_own_stages():
    work = expected_work(workspace(0.7, 0.3, flops=[0.7, 0.3]))
    assert work["search"] == expected_work(workspace())["search"]
    assert work["flops0.7"].flops > 2 * work["flops0.3"].flops
    assert work["flops0.3"].seconds == 60


def test_nothing_is_known_before_the_data_are_there():
    where = workspace()
    del where.dataset
    assert expected_work(where) == {}


def test_nothing_is_said_before_a_step_was_timed(clock, seen):
    one = watch("search", seen, workspace(), ["finetune", "bench", "report"])
    one.start("search", 4, "round")
    one.update(0)
    assert seen.left == [None]
    clock[0] = 10.0
    one.update(1, flops=500)
    # Three more rounds, finetune by its FLOPs, and the bench, which lasts as long as it is told to.
    work = expected_work(workspace())
    pace = 10 / (work["search"].flops / 4)
    assert seen.left[1] == pytest.approx(30 + pace * work["finetune"].flops + 60)


def test_rounds_of_a_smaller_network_count_as_what_they_are(clock, seen):
    one = watch("search", seen, workspace(), ["finetune"])
    one.start("search", 4, "round")
    one.update(0)
    clock[0] = 10.0
    one.update(1, flops=250)
    assert seen.left[1] > 3 * 20


def test_a_later_stage_knows_from_its_first_step_by_the_pace_of_an_earlier_one(clock, seen):
    where = workspace()
    where.pace["seconds_per_flop"] = 1e-3
    one = watch("finetune", seen, where, ["bench"])
    one.start("finetune", 3, "epoch")
    one.update(0)
    assert seen.left == [pytest.approx(1e-3 * expected_work(where)["finetune"].flops + 60)]


def test_the_run_of_a_budget_adds_to_what_the_whole_has_to_come(clock, seen):
    where = workspace(0.7, 0.3, flops=[0.7, 0.3])
    where.pace["seconds_per_flop"] = 1e-3
    whole = watch("flops0.7", seen, where, ["flops0.3"])
    alone = workspace()
    alone.pace = where.pace
    one = watch("finetune", whole, alone, ["bench"])
    one.start("finetune", 3, "epoch")
    one.update(0)
    own = 1e-3 * expected_work(alone)["finetune"].flops + 60
    assert seen.left == [pytest.approx(own + 1e-3 * expected_work(where)["flops0.3"].flops + 60)]


def test_a_command_of_one_stage_says_only_that_stage_is_left(clock, seen):
    one = watch("finetune", seen, workspace(), [])
    one.start("finetune", 3, "epoch")
    for done in range(3):
        clock[0] += 1
        one.update(done)
    assert seen.left == [None] * 3


def test_a_pass_over_images_after_the_training_is_not_taken_for_it(clock, seen):
    stopwatch = watch("finetune", seen, workspace(), ["bench"])
    stopwatch.start("finetune", 3, "epoch")
    for epoch in range(4):
        clock[0] = 100.0 * epoch
        stopwatch.update(epoch)
    stopwatch.start("finetune", 10, "test batch")
    for batch in (1, 2):
        clock[0] += 1.0
        stopwatch.update(batch)
    assert seen.left[-2:] == [None, pytest.approx(8 * 1.0 + 60)]
