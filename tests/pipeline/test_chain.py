"""The chain: order, skipping, repair, resumption, interruption. The stages here only leave traces."""

from __future__ import annotations

import json
import os
import re
import signal

import pytest

from jstc import recipe_file
from jstc.errors import Interrupted, RunDirectoryError, StageError
from jstc.pipeline import chain, preflight, stages
from jstc.pipeline.stages import Stage
from jstc.progress import Silent

INPUTS = {
    "baseline": (), "search": (), "finetune": ("search",), "slim": ("finetune",), "export": ("slim",),
    "bench": ("export", "baseline"), "report": ("bench",),
}  # fmt: skip
ORDER = list(INPUTS)
RECIPE = recipe_file.from_flags({"model": "resnet20", "dataset": "digits", "flops": "0.5"}, ["baseline=true"])


class Messages(Silent):
    def __init__(self):
        self.texts = []

    def message(self, text):
        self.texts.append(text)


class House:
    """A run directory whose stages write one file each, and go wrong on demand."""

    def __init__(self, path):
        self.path = path
        self.ran = []
        self.faults = {}
        self.messages = Messages()

    def table(self, recipe):
        return [
            Stage(name, self.function(name), inputs, ("summary.json",) if name == "report" else ())
            for name, inputs in INPUTS.items()
        ]

    def function(self, name):
        def run(context):
            self.ran.append(name)
            context.folder.mkdir(exist_ok=True)
            (context.folder / "work").write_text(name)
            context.progress.start(name, 1, "step")
            context.progress.update(1)
            if name in self.faults:
                self.faults.pop(name)()
            if name == "report":
                (context.path / "summary.json").write_text("{}")
                return None
            return {"figure": 1}

        return run

    def run(self, **options):
        self.ran.clear()
        chain.run(RECIPE, out=self.path, command="jstc run x.yaml", progress=self.messages, **options)
        return self.ran

    def stage(self, name, **options):
        self.ran.clear()
        chain.run_stage(self.path, name, recipe=RECIPE, progress=self.messages, **options)
        return self.ran

    def states(self):
        manifest = json.loads((self.path / "manifest.json").read_text())
        return {name: record["state"] for name, record in manifest["stages"].items()}


def fault(error):
    def fail():
        raise error

    return fail


@pytest.fixture
def house(tmp_path, monkeypatch):
    house = House(tmp_path / "run")
    monkeypatch.setattr(stages, "table", house.table)
    monkeypatch.setattr(preflight, "check", lambda workspace, path: None)
    return house


def test_all_stages_run_in_order_and_are_on_record(house):
    assert house.run() == ORDER
    manifest = json.loads((house.path / "manifest.json").read_text())
    assert set(house.states().values()) == {"done"}
    assert set(manifest["stages"]["search"]["artifacts"]) == {"search/work", "search/result.json"}
    assert set(manifest["stages"]["report"]["artifacts"]) == {"report/work", "summary.json"}
    result = json.loads((house.path / "search" / "result.json").read_text())
    assert result["figure"] == 1
    assert result["seconds"] >= 0


def test_the_same_command_again_does_nothing(house):
    house.run()
    assert house.run() == []


@pytest.mark.parametrize(
    ("damaged", "again"),
    [
        ("search/work", ["search", "finetune", "slim", "export", "bench", "report"]),
        ("export/result.json", ["export", "bench", "report"]),
        ("baseline/work", ["baseline", "bench", "report"]),
        ("summary.json", ["report"]),
    ],
)
def test_a_damaged_artifact_makes_its_stage_and_all_that_build_on_it_run_again(house, damaged, again):
    house.run()
    (house.path / damaged).write_text("{}   ")
    assert house.run() == again
    assert any(damaged in text and "running it again" in text for text in house.messages.texts)
    assert house.run() == []


def test_a_stage_that_runs_again_starts_from_an_empty_folder(house):
    house.run()
    (house.path / "search" / "checkpoint").write_text("of the damaged stage")
    (house.path / "search" / "work").unlink()
    house.run()
    assert not (house.path / "search" / "checkpoint").exists()


def test_a_failed_stage_keeps_its_files_and_its_seconds_and_goes_on(house):
    house.faults["slim"] = fault(StageError("no"))
    with pytest.raises(StageError, match="no"):
        house.run()
    assert house.states()["slim"] == "failed"
    assert house.states()["export"] == "pending"
    assert (house.path / "slim" / "work").exists()
    assert house.run() == ["slim", "export", "bench", "report"]


def test_seconds_add_up_over_interruptions(house, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("jstc.pipeline.timing.time.monotonic", lambda: now[0])
    for error in (StageError("no"), None):

        def work(error=error):
            now[0] += 7.0
            if error:
                raise error

        house.faults["search"] = work
        try:
            house.run()
        except StageError:
            assert error
    assert json.loads((house.path / "search" / "result.json").read_text())["seconds"] == 14.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_with_the_command_that_continues(house, number):
    house.faults["finetune"] = lambda: os.kill(os.getpid(), number)
    with pytest.raises(Interrupted, match=r"interrupted during finetune.*saved.*\n  jstc run x.yaml"):
        house.run()
    assert house.states()["finetune"] == "failed"
    assert house.run() == ["finetune", "slim", "export", "bench", "report"]


def test_the_handler_of_sigterm_is_put_back(house):
    before = signal.getsignal(signal.SIGTERM)
    house.run()
    assert signal.getsignal(signal.SIGTERM) is before


def test_running_out_of_gpu_memory_names_the_way_out(house):
    house.faults["search"] = fault(type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory\nmore"))
    with pytest.raises(StageError, match=r"out of GPU memory; lower train.batch_size"):
        house.run()


def test_any_other_exception_passes_as_it_is(house):
    house.faults["search"] = fault(ZeroDivisionError("x"))
    with pytest.raises(ZeroDivisionError):
        house.run()
    assert house.states()["search"] == "failed"


def test_only_one_stage_can_be_asked_for(house):
    assert house.run(only=["search"]) == ["search"]
    assert house.run() == ["baseline", *ORDER[2:]]


def test_fresh_runs_everything_again(house):
    house.run()
    assert house.run(fresh=True) == ORDER


def test_stages_one_by_one(house):
    house.run(only=["search"])
    assert house.stage("finetune") == ["finetune"]
    assert house.stage("slim") == ["slim"]
    assert house.stage("slim") == []


def test_a_fresh_stage_makes_the_later_ones_pending(house):
    house.run()
    assert house.stage("slim", fresh=True) == ["slim"]
    assert house.states()["export"] == house.states()["report"] == "pending"
    assert not (house.path / "export").exists()
    assert house.states()["baseline"] == "done"


def test_a_fresh_stage_forgets_what_a_failure_left(house):
    house.run(only=["search"])
    house.faults["finetune"] = fault(StageError("no"))
    with pytest.raises(StageError):
        house.stage("finetune")
    (house.path / "finetune" / "checkpoint").write_text("x")
    assert house.stage("finetune", fresh=True) == ["finetune"]
    assert not (house.path / "finetune" / "checkpoint").exists()


def test_a_missing_stage_is_named_with_its_command(house):
    house.faults["search"] = fault(StageError("no"))
    with pytest.raises(StageError):
        house.run(only=["search"])
    with pytest.raises(
        RunDirectoryError, match=r"slim needs the search stage first, which is failed: .*x.yaml"
    ):
        house.stage("slim")
    house.run(only=["search"])
    with pytest.raises(
        RunDirectoryError, match=r"export needs the finetune stage first.*`jstc finetune .*run`"
    ):
        house.stage("export")


def test_a_baseline_that_the_search_command_left_out_is_named_with_what_trains_it(house):
    house.run(only=["search"])
    for name in ("finetune", "slim", "export"):
        house.stage(name)
    again = re.escape(f"run `jstc run {house.path}/recipe.yaml --out {house.path}`")
    with pytest.raises(RunDirectoryError, match=f"bench needs the baseline stage first.*{again}"):
        house.stage("bench")


def test_a_damaged_input_of_a_stage_is_refused(house):
    house.run()
    (house.path / "finetune" / "work").write_text("other")
    with pytest.raises(RunDirectoryError, match=r"finetune/work .* missing or changed: run `jstc finetune"):
        house.stage("slim", fresh=True)
    assert house.states()["slim"] == "done"


def test_the_real_table_has_the_documented_order():
    with_baseline = [stage.name for stage in stages.table(RECIPE)]
    assert with_baseline == ORDER
    without = RECIPE.model_copy(update={"baseline": False})
    assert [stage.name for stage in stages.table(without)] == ORDER[1:]
    for stage in stages.table(RECIPE):
        assert set(stage.inputs) <= set(ORDER[: ORDER.index(stage.name)])
