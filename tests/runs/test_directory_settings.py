"""Other settings of the last stages: these run again, nothing is trained again, and the recipe says it."""

from __future__ import annotations

import pytest

from jstc.errors import RunDirectoryError, StageError
from jstc.recipe import loading
from jstc.runs import commands
from jstc.runs.directory import read_recipe
from jstc.runs.manifest import Manifest
from jstc.runs.settings import READ_BY, read_by

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


def test_settings_of_another_stage_are_refused_with_the_command_that_they_are_for(house):
    house.run()
    before = house.states()
    with pytest.raises(RunDirectoryError) as refused:
        export(house, "bench.seconds=1", "train.lr=0.2", "search.rounds=3", "seed=1")
    assert refused.value.details == (
        "seed: 0 -> 1: the stage baseline has read it",
        "train.lr: 0.1 -> 0.2: the stage baseline has read it",
        "search.rounds: 40 -> 3: the stage baseline has read it",
        f"bench.seconds: 2.0 -> 1.0, for `jstc bench {house.path} --set bench.seconds=1.0`",
    )
    assert "--fresh" in refused.value.advice
    assert "--out" in refused.value.advice
    assert (house.ran, house.states(), read_recipe(house.path).bench.seconds) == ([], before, 2)


def test_what_is_only_for_another_command_needs_no_other_run(house):
    house.run()
    with pytest.raises(RunDirectoryError, match=r"jstc export .* --set export\.opset=20") as refused:
        commands.run_stage(house.path, "slim", recipe=recipe("export.opset=20"))
    assert not refused.value.advice


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


# A finetune that is longer, or otherwise another one.


def finetune(house, *settings):
    house.ran.clear()
    commands.run_stage(house.path, "finetune", recipe=recipe(*settings), progress=house.messages)
    return house.ran


def begun_with(house):
    return Manifest.load(house.path).begun_with


def test_finetune_runs_again_and_what_was_built_on_it_is_removed(house):
    house.run()
    assert finetune(house, "finetune.epochs=80", "finetune.teacher=target") == ["finetune"]
    assert house.messages.texts == [
        'finetune.epochs: 50 -> 80; finetune.teacher: "none" -> "target": running finetune again',
        "removed with the old finetune: the results of slim, export, bench, report",
    ]
    states = house.states()
    assert [states[name] for name in ("baseline", "search", "finetune")] == ["done"] * 3
    assert {states[name] for name in ("slim", "export", "bench", "report")} == {"pending"}
    assert read_recipe(house.path).finetune.epochs == 80
    assert begun_with(house) == {"finetune.epochs": 50, "finetune.teacher": "none"}
    assert finetune(house, "finetune.epochs=80", "finetune.teacher=target") == []


def test_back_at_what_the_run_began_with_nothing_is_remembered(house):
    house.run()
    before = (house.path / "manifest.json").read_text().count("begun_with")
    finetune(house, "finetune.epochs=80")
    finetune(house, "finetune.epochs=90")
    assert begun_with(house) == {"finetune.epochs": 50}
    assert finetune(house, "finetune.epochs=50") == ["finetune"]
    assert begun_with(house) == {}
    assert before == (house.path / "manifest.json").read_text().count("begun_with") == 0


def test_the_command_of_the_run_goes_on_with_the_longer_finetune(house):
    """The recipe that the run began with is still its own: nothing long is lost by running it again."""
    house.run()
    finetune(house, "finetune.epochs=80")
    assert run(house) == ["slim", "export", "bench", "report"]
    assert run(house, only=["search"]) == []
    assert read_recipe(house.path).finetune.epochs == 80


def test_another_finetune_needs_its_own_command(house):
    house.run()
    with pytest.raises(RunDirectoryError) as refused:
        run(house, "finetune.epochs=80")
    assert refused.value.details == ("finetune.epochs: 50 -> 80",)
    assert f"`jstc finetune {house.path} --set finetune.epochs=80`" in refused.value.advice
    with pytest.raises(RunDirectoryError) as refused:
        run(house, "finetune.epochs=80", "train.lr=0.2")
    assert "jstc finetune" not in refused.value.advice


def test_no_other_finetune_before_the_search_is_done(house):
    house.faults["search"] = fail
    with pytest.raises(StageError):
        house.run()
    with pytest.raises(RunDirectoryError, match="finetune needs the search first"):
        finetune(house, "finetune.epochs=80")
    assert read_recipe(house.path).finetune.epochs == 50
    assert run(house)[:2] == ["search", "finetune"]


def test_a_search_that_runs_again_reads_what_is_on_file(house):
    house.run()
    finetune(house, "finetune.epochs=80")
    (house.path / "search" / "work").write_text("damaged")
    assert run(house)[0] == "search"
    assert begun_with(house) == {}


def fail():
    raise StageError("no")


# The table.


def test_every_key_has_its_readers():
    keys = changes_of_all_keys()
    found = {key: next(iter(read_by(key)), None) for key in keys}
    assert {key for key, reader in found.items() if reader is None} == {
        "checkpoint.every_seconds", "checkpoint.every_steps", "checkpoint.keep", "tensorboard",
        "input.workers", "input.prefetch", "input.max_corrupt", "input.cache",
    }  # fmt: skip
    assert (found["model"], found["train.lr"], found["latency_on.batch"]) == ("given", "baseline", "search")
    assert (found["finetune.teacher"], found["finetune.ema_decay"]) == ("finetune", "baseline")
    assert {found[key] for key in keys if key.startswith("export.")} == {"export"}


def test_the_table_names_keys_and_stages_that_there_are():
    keys = changes_of_all_keys()
    for name, readers in READ_BY.items():
        assert not name or any(key == name or key.startswith(f"{name}.") for key in keys), name
        assert set(readers) <= {"given", "baseline", "search", "finetune", "slim", "export", "bench"}


def changes_of_all_keys():
    document = recipe().model_dump(mode="json")
    return {
        key if not isinstance(value, dict) or not value else f"{key}.{inner}"
        for key, value in document.items()
        for inner in (value if isinstance(value, dict) and value else [""])
    }
