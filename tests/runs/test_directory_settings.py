"""Other settings of the last stages: these run again, nothing is trained again, and the recipe says it."""

from __future__ import annotations

import pytest

from jstc.errors import RunDirectoryError
from jstc.recipe import loading
from jstc.runs import commands
from jstc.runs.directory import read_recipe

FLAGS = {"model": "resnet20", "dataset": "digits", "flops": "0.5"}


def recipe(*settings):
    return loading.from_flags(FLAGS, ["baseline=true", *settings])


def export(house, *settings):
    house.ran.clear()
    commands.run_stage(house.path, "export", recipe=recipe(*settings), progress=house.messages)
    return house.ran


def run(house, *settings, only=()):
    house.ran.clear()
    commands.run(recipe(*settings), out=house.path, only=only, progress=house.messages)
    return house.ran


def test_an_export_with_other_settings_leaves_the_training_alone(house):
    house.run()
    assert export(house, "export.opset=20") == ["export"]
    assert house.messages.texts == [
        "export.opset: 18 -> 20: running export again",
        "removed with the old export: the results of bench, report",
    ]
    states = house.states()
    assert (states["slim"], states["export"], states["bench"], states["report"]) == (
        "done", "done", "pending", "pending",
    )  # fmt: skip
    assert read_recipe(house.path).export.opset == 20
    assert export(house, "export.opset=20") == []


def test_the_whole_run_with_other_settings_repeats_the_last_stages(house):
    house.run()
    assert run(house, "bench.seconds=1") == ["bench", "report"]
    assert run(house, "bench.seconds=1", "export.opset=19") == ["export", "bench", "report"]
    assert run(house, "bench.seconds=1", "export.opset=19") == []


def test_a_command_about_earlier_stages_leaves_the_late_settings_alone(house):
    house.run()
    export(house, "export.opset=20")
    assert run(house, only=["search"]) == []
    assert read_recipe(house.path).export.opset == 20
    assert house.states()["export"] == "done"


def test_free_settings_are_on_file_for_commands_that_only_name_the_run(house):
    house.run()
    export(house, "export.opset=20")
    assert run(house, "input.max_corrupt=500", "checkpoint.keep=3", only=["search"]) == []
    stored = read_recipe(house.path)
    assert (stored.input.max_corrupt, stored.checkpoint.keep, stored.export.opset) == (500, 3, 20)


def test_settings_of_another_late_stage_are_not_taken_up(house):
    house.run()
    assert export(house, "bench.seconds=1") == []
    assert read_recipe(house.path).bench.seconds == 2


def test_how_images_are_read_may_change(house):
    """Workers and limits, which change no image that the network sees; what does is refused."""
    house.run()
    assert run(house, "input.workers=7", "input.prefetch=3", "input.max_corrupt=0") == []
    with pytest.raises(RunDirectoryError, match=r"input\.augment"):
        run(house, "input.workers=7", "input.augment=false")


def test_other_settings_are_refused_beside_late_ones(house):
    house.run()
    with pytest.raises(RunDirectoryError, match=r"train\.lr: 0\.1 -> 0\.2\n(?!.*opset)"):
        run(house, "export.opset=20", "train.lr=0.2")
    assert house.states()["export"] == "done"


def test_a_stage_that_has_not_run_is_not_announced(house):
    house.run(only=["search"])
    assert run(house, "export.opset=20", only=["search"]) == []
    assert read_recipe(house.path).export.opset == 18
    assert export(house, "export.opset=20") == ["finetune", "slim", "export"]
    assert [text for text in house.messages.texts if "again" in text] == []


def test_how_often_a_run_is_saved_may_change_at_any_time(house):
    house.run()
    assert run(house, "checkpoint.every_seconds=5", "checkpoint.keep=3") == []
