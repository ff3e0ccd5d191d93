"""Several budgets: who does what once, what each budget has of its own, and what is kept when it stops."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest

from jstc.core import files
from jstc.errors import Interrupted, RunDirectoryError, StageError
from jstc.recipe import loading
from jstc.runs import commands, preflight, stages, sweep
from jstc.runs.directory import locked, read_recipe
from jstc.runs.manifest import Manifest
from jstc.runs.stages import Stage

SHARED = {"baseline": (), "search": ()}
OWN = {
    "finetune": ("search",), "slim": ("finetune",), "export": ("slim",), "bench": ("export", "baseline"),
    "report": ("bench",),
}  # fmt: skip
LABELS = ["flops0.7", "flops0.5"]
FLAGS = {"model": "resnet20", "dataset": "digits", "flops": "0.5,0.7"}
RECIPE = loading.from_flags(FLAGS, ["baseline=true"])
ALL = [
    "baseline", "search",
    *[f"{label} {name}" for label in LABELS for name in OWN],
    "report",
]  # fmt: skip


class House:
    """A run of two budgets whose stages write one file each, and go wrong on demand."""

    def __init__(self, path, messages):
        self.path = path
        self.ran = []
        self.faults = {}
        self.messages = messages
        self.found = 0  # what the search finds: another plan each time

    def table(self, recipe):
        inputs = SHARED | OWN
        loose = {"search": ("target.json",), "report": ("summary.json",)}
        return [
            Stage(name, self.function(name), inputs[name], loose.get(name, ()))
            for name in inputs
            if recipe.baseline or name != "baseline"
        ]

    def function(self, name):
        def run(context):
            self.note(context.path, name)
            files.write_text(context.folder / "work", name)
            if name == "search":
                return self.search(context)
            if name == "report":
                (context.path / "summary.json").write_text(json.dumps({"times": len(self.ran)}))
                return None
            return {"figure": 1}

        return run

    def search(self, context):
        assert context.path == self.path, "a budget searched by itself"
        self.found += 1
        for label in context.recipe.labels:
            files.write_json(context.folder / label / "plan.json", [label, self.found])
            files.write_json(context.folder / label / "result.json", {"accuracy": 0.5})
        files.write_text(context.folder / "checkpoint.safetensors", "large")
        budgets = [
            {"label": label, "metric": "flops", "limit": 5, "share": 0.5} for label in context.recipe.labels
        ]
        files.write_json(context.path / "target.json", {"flops": 9, "budgets": budgets})
        return {"rounds": 3, "budgets": {label: {"flops": 5} for label in context.recipe.labels}}

    def report(self, context):
        self.note(context.path, "report")
        for name in ("summary.json", "report.md", "report.html"):
            files.write_text(context.path / name, f"{len(self.ran)}")

    def note(self, path, name):
        entry = name if path == self.path else f"{path.name} {name}"
        self.ran.append(entry)
        if entry in self.faults:
            self.faults.pop(entry)()

    def run(self, recipe=RECIPE, **options):
        self.ran.clear()
        commands.run(recipe, out=self.path, command="jstc run x.yaml", progress=self.messages, **options)
        return self.ran

    def stage(self, name, path=None, **options):
        self.ran.clear()
        path = path or self.path
        own = {"recipe": RECIPE if path == self.path else RECIPE.at(path.name)}
        commands.run_stage(path, name, command="jstc x", progress=self.messages, **(own | options))
        return self.ran

    def states(self, path=None):
        manifest = json.loads(((path or self.path) / "manifest.json").read_text())
        return {name: record["state"] for name, record in manifest["stages"].items()}

    def read(self, name):
        return json.loads((self.path / name).read_text())


@pytest.fixture
def house(tmp_path, monkeypatch, messages):
    house = House(tmp_path / "run", messages)
    monkeypatch.setattr(stages, "table", house.table)
    monkeypatch.setattr("jstc.runs.stages.report.report", house.report)
    monkeypatch.setattr(preflight, "check", lambda workspace, path: None)
    return house


def fault(error):
    def fail():
        raise error

    return fail


def test_what_is_shared_runs_once_and_the_rest_for_each_budget(house):
    assert house.run() == ALL
    assert set(house.states().values()) == {"done"}
    for label in LABELS:
        assert house.states(house.path / label) == dict.fromkeys([*SHARED, *OWN], "done")


def test_each_budget_has_an_ordinary_run_directory(house):
    house.run()
    child = house.path / "flops0.5"
    assert loading.load(child / "recipe.yaml") == RECIPE.at("flops0.5")
    assert house.read("flops0.5/search/plan.json") == ["flops0.5", 1]
    result = house.read("flops0.5/search/result.json")
    assert (result["rounds"], result["flops"], result["accuracy"]) == (3, 5, 0.5)
    assert result["shared_by"] == LABELS
    assert "budgets" not in result
    assert house.read("flops0.5/target.json")["budget"] == {"metric": "flops", "limit": 5, "share": 0.5}
    assert house.read("flops0.5/baseline/result.json") == house.read("baseline/result.json")
    assert not (child / "search" / "checkpoint.safetensors").exists()


def test_the_same_command_again_touches_nothing(house):
    house.run()
    before = {path: path.stat().st_mtime_ns for path in house.path.rglob("*") if path.is_file()}
    assert house.run() == []
    changed = [
        path
        for path, at in before.items()
        if not path.name.startswith(".lock") and path.stat().st_mtime_ns != at
    ]
    assert changed == []
    assert house.messages.texts == ["flops0.7 (1 of 2):", "flops0.5 (2 of 2):"]


def test_a_search_alone_leaves_a_run_directory_for_each_budget(house):
    assert house.run(only=["search"]) == ["search"]
    for label in LABELS:
        states = house.states(house.path / label)
        assert (states["search"], states["baseline"], states["finetune"]) == ("done", "pending", "pending")
    assert house.stage("export", house.path / "flops0.5") == [
        f"flops0.5 {name}" for name in ("finetune", "slim", "export")
    ]
    assert house.stage("finetune") == ["flops0.7 finetune"]
    done = {"search", "flops0.7 finetune", *[f"flops0.5 {name}" for name in ("finetune", "slim", "export")]}
    assert house.run() == [name for name in ALL if name not in done]


@pytest.mark.parametrize(
    "point",
    [
        "baseline",
        "search",
        "flops0.7 finetune",
        "flops0.7 report",
        "flops0.5 export",
        "flops0.5 bench",
        "report",
    ],
)
def test_an_interrupted_run_continues_where_it_stopped(house, point):
    house.faults[point] = fault(KeyboardInterrupt())
    with pytest.raises(
        Interrupted, match=r"interrupted during .* is saved\. Continue with:\n  jstc run"
    ) as e:
        house.run()
    *label, name = point.split()
    assert f"during {name}{f' of {label[0]} (' if label else ';'}" in str(e.value)
    assert e.value.exit_code == 130
    assert house.run() == ALL[ALL.index(point) :]
    assert set(house.states().values()) == {"done"}


@pytest.mark.parametrize("write", [1, 2, 4, 6])
def test_a_process_that_dies_while_it_copies_leaves_nothing_half_done(house, monkeypatch, write):
    count, real = iter(range(1, 99)), files.write_bytes

    def die(path, data):
        if next(count) == write:
            raise KeyboardInterrupt
        real(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(sweep, "files", SimpleNamespace(**vars(files) | {"write_bytes": die}))
        with pytest.raises((Interrupted, KeyboardInterrupt)):
            house.run()
    assert house.run() == ALL[2:]
    assert house.read("flops0.7/search/plan.json") == ["flops0.7", 1]


def test_fresh_starts_all_over(house):
    house.run()
    (house.path / "flops0.7" / "finetune" / "old").write_text("x")
    assert house.run(fresh=True) == ALL
    assert not (house.path / "flops0.7" / "finetune" / "old").exists()
    other = loading.from_flags(FLAGS | {"flops": "0.3,0.5"}, ["baseline=true"])
    house.run(other, fresh=True)
    assert not (house.path / "flops0.7").exists()
    assert house.read("flops0.3/search/plan.json") == ["flops0.3", 3]


def test_one_budget_more_is_another_run(house):
    house.run()
    other = loading.from_flags(FLAGS | {"flops": "0.3,0.5,0.7"}, ["baseline=true"])
    with pytest.raises(RunDirectoryError, match=r"flops: \[0.7, 0.5\] -> \[0.7, 0.5, 0.3\]"):
        house.run(other)


def test_a_damaged_file_of_one_budget_is_made_again_and_nothing_else(house):
    house.run()
    (house.path / "flops0.5" / "export" / "work").write_text("other")
    house.messages.texts.clear()
    assert house.run() == [*[f"flops0.5 {name}" for name in ("export", "bench", "report")], "report"]
    assert house.messages.texts == [
        "flops0.5 (2 of 2):",
        "export: export/work missing or changed; running it again",
    ]


def test_a_damaged_copy_of_the_search_is_copied_again(house):
    house.run()
    (house.path / "flops0.5" / "search" / "plan.json").write_text("[]")
    assert house.run() == ["report"]
    assert house.read("flops0.5/search/plan.json") == ["flops0.5", 1]


def test_a_damaged_shared_search_is_repeated_and_what_was_built_on_it(house):
    house.run()
    (house.path / "search" / "flops0.7" / "plan.json").unlink()
    assert house.run() == ALL[1:]
    assert house.read("flops0.5/search/plan.json") == ["flops0.5", 2]


def test_a_budget_changed_by_its_own_command_is_in_the_report_of_all(house):
    house.run()
    child = house.path / "flops0.7"
    assert house.stage("bench", child, fresh=True) == ["flops0.7 bench"]
    assert house.run() == ["flops0.7 report", "report"]


@pytest.mark.parametrize("name", ["manifest.json", "recipe.yaml"])
def test_a_budget_that_cannot_go_on_is_found_before_any_work(house, name):
    house.run(only=["search"])
    (house.path / "flops0.5" / name).write_text("{")
    with pytest.raises(RunDirectoryError, match=r"flops0\.5 cannot go on .* Delete it, and the same command"):
        house.run()
    assert house.ran == []


def test_of_a_budget_that_cannot_go_on_the_problem_is_told_and_other_advice(house):
    house.run(only=["search"])
    child = house.path / "flops0.5"
    text = (child / "recipe.yaml").read_text()
    (child / "recipe.yaml").write_text(text.replace("seed: 0", "seed: 7"))
    with pytest.raises(RunDirectoryError) as caught:
        house.run()
    problem = f"{child} belongs to a run with other settings"
    assert str(caught.value) == (
        f"{child} cannot go on as the run of a budget: {problem}. "
        "Delete it, and the same command makes it again"
    )


def test_a_budget_without_its_manifest_is_refused_and_made_again_when_it_is_gone(house):
    house.run()
    child = house.path / "flops0.5"
    (child / "manifest.json").unlink()
    with pytest.raises(RunDirectoryError, match="Delete it"):
        house.run()
    shutil.rmtree(child)
    assert house.run() == [*[f"flops0.5 {name}" for name in OWN], "report"]


def test_nobody_deletes_a_budget_that_another_process_is_working_on(house):
    house.run()
    with (
        locked(house.path / "flops0.5"),
        pytest.raises(RunDirectoryError, match=r"flops0\.5 is in use by process"),
    ):
        house.run(fresh=True)
    assert house.run() == []


def test_the_files_that_another_process_is_writing_for_a_budget_stay(house):
    house.run()
    writing = [house.path / "flops0.5" / name for name in (".tmp-1.json", "bench/.tmp-2.json")]
    left = [house.path / name for name in (".tmp-3.json", "search/.tmp-4", "search/flops0.5/.tmp-5")]
    for path in (*writing, *left):
        path.write_text("")
    assert house.run() == []
    assert [path.exists() for path in (*writing, *left)] == [True, True, False, False, False]


def test_one_stage_of_all_budgets(house):
    house.run(only=["search"])
    assert house.stage("finetune") == [f"{label} finetune" for label in LABELS]
    assert house.stage("finetune") == []
    assert house.stage("slim", fresh=True) == [f"{label} slim" for label in LABELS]


def test_a_fresh_stage_that_was_interrupted_goes_on_without_fresh(house):
    house.run()
    house.faults["flops0.7 slim"] = fault(KeyboardInterrupt())
    with pytest.raises(Interrupted):
        house.stage("slim", fresh=True)
    assert house.states()["report"] == "pending"
    assert house.stage("slim") == [f"{label} slim" for label in LABELS]


def test_the_baseline_is_trained_once_for_the_bench_of_all(house):
    house.run(only=["search"])
    house.stage("export")
    house.messages.texts.clear()
    assert house.stage("bench") == ["baseline", *[f"{label} bench" for label in LABELS]]
    assert house.messages.texts[0] == "baseline has not run yet: running it first"


def test_a_stage_before_the_search_is_refused_with_its_command(house):
    house.faults["search"] = fault(StageError("no"))
    with pytest.raises(StageError):
        house.run(only=["search"])
    with pytest.raises(
        RunDirectoryError, match=r"finetune needs the search first, which is failed: .*x.yaml`"
    ):
        house.stage("finetune")
    assert house.ran == []


def test_the_report_is_written_when_the_stages_were_run_one_by_one(house):
    house.run(only=["search"])
    commands.write_report(house.path)
    assert not (house.path / "summary.json").exists()
    house.stage("bench")
    house.ran.clear()
    commands.write_report(house.path)
    assert house.ran == [*[f"{label} report" for label in LABELS], "report"]
    commands.write_report(house.path)
    assert len(house.ran) == 3


def test_a_report_of_all_that_is_out_of_date_goes(house):
    house.run()
    one = house.path / "flops0.5"
    commands.run_stage(one, "slim", recipe=read_recipe(one), fresh=True, progress=house.messages)
    assert house.messages.texts[-1] == "removed with the old slim: the results of export, bench, report"
    commands.write_report(house.path)
    assert not (house.path / "summary.json").exists()
    states = house.states()
    assert (states["flops0.7"], states["flops0.5"], states["report"]) == ("done", "pending", "pending")
    house.ran.clear()
    house.run()
    assert house.ran == [*[f"flops0.5 {name}" for name in ("export", "bench", "report")], "report"]


def test_a_report_trains_nothing(house):
    house.run()
    (house.path / "flops0.5" / "finetune" / "work").unlink()
    house.ran.clear()
    commands.write_report(house.path)
    (house.path / "search" / "flops0.7" / "plan.json").unlink()
    commands.write_report(house.path)
    assert house.ran == []
    assert (house.path / "summary.json").is_file()  # what it says is still so


def test_other_settings_of_the_export_reach_every_budget(house):
    house.run()
    other = RECIPE.model_copy(update={"export": RECIPE.export.model_copy(update={"opset": 20})})
    house.ran.clear()
    commands.run_stage(house.path, "export", recipe=other, command="jstc x", progress=house.messages)
    assert house.ran == [f"{label} export" for label in LABELS]
    for path in (house.path, *(house.path / label for label in LABELS)):
        assert loading.load(path / "recipe.yaml").export.opset == 20
    states = house.states(house.path / LABELS[0])
    assert (states["slim"], states["export"], states["bench"]) == ("done", "done", "pending")
    again = [f"{label} {name}" for label in LABELS for name in ("bench", "report")]
    assert house.run(other) == [*again, "report"]


def test_a_search_repeated_with_older_settings_leaves_the_export_alone(house):
    house.run()
    other = RECIPE.model_copy(update={"export": RECIPE.export.model_copy(update={"opset": 20})})
    commands.run_stage(house.path, "export", recipe=other, command="jstc x", progress=house.messages)
    assert house.run(only=["search"]) == []
    assert loading.load(house.path / "flops0.5" / "recipe.yaml").export.opset == 20


def longer(path, epochs):
    return loading.load(path / "recipe.yaml", [f"finetune.epochs={epochs}"])


def test_a_longer_finetune_reaches_every_budget(house):
    house.run()
    assert house.stage("finetune", recipe=longer(house.path, 80)) == [f"{label} finetune" for label in LABELS]
    assert house.run() == [*[f"{label} {name}" for label in LABELS for name in list(OWN)[1:]], "report"]
    assert {read_recipe(house.path / label).finetune.epochs for label in LABELS} == {80}


def test_a_longer_finetune_that_was_interrupted_goes_on_by_the_command_of_the_run(house):
    house.run()
    house.faults["flops0.5 finetune"] = fault(KeyboardInterrupt())
    with pytest.raises(Interrupted):
        house.stage("finetune", recipe=longer(house.path, 80))
    assert "flops0.5 finetune" in house.run()
    assert {read_recipe(house.path / label).finetune.epochs for label in LABELS} == {80}


def test_one_budget_that_was_given_a_longer_finetune_keeps_it(house):
    house.run()
    child = house.path / "flops0.5"
    house.ran.clear()
    commands.run_stage(child, "finetune", recipe=longer(child, 80), progress=house.messages)
    assert house.ran == ["flops0.5 finetune"]
    assert house.run() == [*[f"flops0.5 {name}" for name in list(OWN)[1:]], "report"]
    assert [read_recipe(house.path / label).finetune.epochs for label in LABELS] == [50, 80]
    assert "flops0.5 keeps the finetune that it was given by itself" in house.messages.texts
    assert Manifest.load(child).begun_with == {"finetune.epochs": 50}
    # Asked for by name, all have the same again.
    assert house.stage("finetune", recipe=longer(house.path, 90)) == [f"{label} finetune" for label in LABELS]
