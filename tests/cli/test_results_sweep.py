"""What the commands print of a run with several budgets."""

from __future__ import annotations

import json
import re

import pytest

from jstc.core import files
from jstc.plan import Plan
from jstc.recipe import loading
from jstc.runs import preflight
from jstc.runs.directory import RunDirectory

LABELS = ["flops0.7", "flops0.5"]
RECIPE = loading.from_flags({"model": "resnet20", "dataset": "digits", "flops": "0.7,0.5"})
ROW = {"provider": "cpu", "bytes": 9, "p95_ms": 2.5, "images_per_second": 1.0, "ratio_low": 1.56,
       "ratio_high": 1.64, "runs": 10}  # fmt: skip
ROWS = [
    {"file": "bench/target.onnx", "batch": 1, "median_ms": 2.0, "speedup_vs_target": 1.0, "verdict": "target",
     **ROW},
    {"file": "export/model.onnx", "batch": 1, "median_ms": 1.25, "speedup_vs_target": 1.6, "verdict": "gain",
     **ROW},
]  # fmt: skip
TARGET = {"flops": 41_000_000, "params": 2000, "groups": [], "frozen": []}
BUDGETS = [{"label": label, "metric": "flops", "limit": 1, "share": 0.5} for label in LABELS]
OWN = {
    "finetune": {"epochs": 2, "accuracy": 0.95, "loss": 0.2, "seconds": 2.0},
    "slim": {"flops": 20_000_000, "params": 1000, "accuracy": 0.95, "seconds": 1.0,
             "max_abs_diff_fold": 1e-7},
    "export": {"seconds": 1.0, "files": [
        {"file": "export/model.onnx", "precision": "fp32", "accuracy": 0.95, "max_abs_diff": 1e-6,
         "top1_agreement": 1.0, "bytes": 9}]},
    "bench": {"seconds": 1.0},
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A run of two budgets under runs/ of the current folder, whose search is done."""
    path = tmp_path / "runs" / "r"
    shared = ["search", *LABELS, "report"]
    with RunDirectory.open(path, RECIPE, stages=shared, command="jstc run x") as opened:
        files.write_json(path / "target.json", TARGET | {"budgets": BUDGETS})
        result = {"rounds": 3, "settled": True, "seconds": 3.0, "budgets": {label: {} for label in LABELS}}
        files.write_json(path / "search" / "result.json", result)
        for label in LABELS:
            Plan({"g": (0,)}, {"g": 2}).save(path / "search" / label / "plan.json")
            own = {"accuracy": 0.9, "flops": 20_000_000, "params": 1000, "round_of_plan": 2}
            files.write_json(path / "search" / label / "result.json", own)
        opened.finish("search", [path / "search" / "result.json"])
    return path


@pytest.fixture
def finished(run, jstc_command, monkeypatch):
    """The same, all stages of both budgets done but for the reports."""
    monkeypatch.setattr(preflight, "check", lambda workspace, path: None)
    words = ["search", "resnet20", "--dataset", "digits", "--flops", "0.5,0.7", "--out", run]
    assert jstc_command(*words).code == 0
    for label in LABELS:
        with RunDirectory.open(run / label, RECIPE.at(label), stages=[], command="") as opened:
            files.write_json(opened.path / "bench" / "bench.json", {"rows": ROWS})
            for stage, result in OWN.items():
                files.write_json(opened.path / stage / "result.json", result)
                opened.finish(stage, [opened.path / stage / "result.json"])
    return run


def test_search_prints_a_line_for_each_budget(jstc_command, run, monkeypatch):
    monkeypatch.setattr(preflight, "check", lambda workspace, path: None)
    words = ["search", "resnet20", "--dataset", "digits", "--flops", "0.5,0.7", "--out", run]
    called = jstc_command(*words)
    assert called.code == 0
    assert "accuracy (search-validation split)" in called.out
    assert re.search(r"^ *flops0\.7 +20\.0 M +1\.00 k +90\.00 % +2$", called.out, re.M)
    document = json.loads(jstc_command(*words, "--json").out)
    assert [one["label"] for one in document["budgets"]] == LABELS
    assert document["budgets"][0]["rounds"] == 3


def test_report_json_is_the_summary_and_nothing_else(jstc_command, finished):
    called = jstc_command("report", "--json")
    document = json.loads(called.out)
    assert [row["slim"]["accuracy"] for row in document["sweep"]] == [0.95, 0.95]
    assert document == json.loads((finished / "summary.json").read_text())
    assert document["command"] == "jstc run x"


def test_report_for_people_and_as_markdown(jstc_command, finished):
    called = jstc_command("report", finished)
    assert re.search(r"^ *target +41\.0 M", called.out, re.M)
    assert re.search(r"^ *flops0\.5 +20\.0 M .* 95\.00 % .* 1\.60x$", called.out, re.M)
    assert f"Everything is in {finished}, each budget's run in flops0.7/, flops0.5/" in called.err
    assert jstc_command("report", finished, "--markdown").out == (finished / "report.md").read_text()
    assert jstc_command("report", finished / "flops0.5").out.count("flops0.7") == 0


@pytest.mark.parametrize("stage", ["finetune", "slim", "export", "bench"])
def test_a_stage_shows_a_line_for_each_budget(jstc_command, finished, stage):
    document = json.loads(jstc_command(stage, "--json").out)
    assert (document["stage"], document["run"]) == (stage, "runs/r")
    assert [one["run"] for one in document["budgets"]] == ["runs/r/flops0.7", "runs/r/flops0.5"]
    assert [one["seconds"] for one in document["budgets"]] == [OWN[stage]["seconds"]] * 2
    called = jstc_command(stage, finished)
    assert len(re.findall(r"^ *flops0\.[57]", called.out, re.M)) == 2


def test_files_are_named_from_the_run(jstc_command, finished):
    exported = json.loads(jstc_command("export", "--json").out)["budgets"][1]
    assert exported["files"][0]["file"] == "flops0.5/export/model.onnx"
    assert re.search(r"flops0\.5/export/model\.onnx +95\.00 %", jstc_command("export", finished).out)
    timed = json.loads(jstc_command("bench", "--json").out)["budgets"][0]
    assert timed["rows"][0]["file"] == "flops0.7/bench/target.onnx"
    called = jstc_command("bench", finished)
    assert re.search(r"flops0\.7 on cpu [^\n]+\n[^\n]*\n *target\.onnx +1 ", called.out)


def test_eval_asks_for_one_of_the_budgets(jstc_command, run):
    called = jstc_command("eval", run)
    assert called.code == 2
    assert (
        f"has a network for each of its budgets; name one of {run / 'flops0.7'}, {run / 'flops0.5'}"
        in called.err
    )


def test_a_budget_that_is_there_twice(jstc_command):
    called = jstc_command("search", "resnet20", "--dataset", "digits", "--flops", "0.5,50%")
    assert (called.code, called.out, called.err) == (2, "", "error: --flops: the budget 0.5 is there twice\n")
