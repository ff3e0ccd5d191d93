"""What the commands print of a run: tables for people, one JSON document for programs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from jstc.cli import results
from jstc.core import files
from jstc.errors import GateError
from jstc.plan import Plan
from jstc.recipe import loading
from jstc.runs import preflight
from jstc.runs.directory import RunDirectory, read_recipe
from jstc.runs.stages import export, inputs, slim, train

RECIPE = loading.from_flags({"model": "resnet20", "dataset": "digits", "flops": "0.5"})
STAGES = ["search", "finetune", "slim", "export", "bench", "report"]
ROW = {"provider": "cpu", "bytes": 9, "p95_ms": 2.5, "images_per_second": 1.0, "ratio_low": 1.56,
       "ratio_high": 1.64, "runs": 10}  # fmt: skip
ROWS = [
    {"file": "target", "batch": 1, "median_ms": 2.0, "speedup_vs_target": 1.0, "verdict": "target", **ROW},
    {"file": "slim", "batch": 1, "median_ms": 1.25, "speedup_vs_target": 1.6, "verdict": "gain", **ROW},
]
RESULTS = {
    "search": {"rounds": 3, "settled": True, "accuracy": 0.9, "seconds": 3.0},
    "finetune": {"epochs": 2, "accuracy": 0.95, "seconds": 2.0},
    "slim": {"flops": 20_000_000, "params": 1000, "accuracy": 0.95, "seconds": 1.0,
             "max_abs_diff_fold": 1e-7, "flops_share": {"layer1.0.conv1": 0.123456789},
             "kernels": [{"layers": ["layer1.0.conv2"]}]},
    "export": {"seconds": 1.0, "files": [
        {"file": "export/model.onnx", "precision": "fp32", "accuracy": 0.95, "max_abs_diff": 1e-6,
         "top1_agreement": 1.0, "bytes": 9}]},
    "bench": {"seconds": 1.0},
}  # fmt: skip
TARGET = {"flops": 41_000_000, "params": 2000, "groups": [], "frozen": [],
          "budget": {"metric": "flops", "limit": 20_500_000, "share": 0.5}}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A finished run under runs/ of the current folder."""
    with RunDirectory.open(tmp_path / "runs" / "r", RECIPE, stages=STAGES, command="jstc run x") as opened:
        files.write_json(opened.path / "target.json", TARGET)
        files.write_json(opened.path / "bench" / "bench.json", {"rows": ROWS})
        Plan({"g": (0,)}, {"g": 2}).save(opened.path / "search" / "plan.json")
        for stage, result in RESULTS.items():
            path = opened.path / stage / "result.json"
            files.write_json(path, result)
            opened.finish(stage, [path])
    return tmp_path / "runs" / "r"


@pytest.fixture
def unchecked(monkeypatch):
    """A run whose stages are stood in for: nothing of what they would read is there to be judged."""
    monkeypatch.setattr(preflight, "check", lambda workspace, path: None)
    for stage in ("finetune", "slim", "export"):
        monkeypatch.setattr(inputs, stage, lambda context: None)


def test_report_json_is_the_summary_and_nothing_else(jstc_command, run):
    called = jstc_command("report", "--json")
    document = json.loads(called.out)
    assert called.code == 0
    assert document["slim"]["accuracy"] == 0.95
    assert document == json.loads((run / "summary.json").read_text())
    assert (run / "report.md").exists()


def test_report_markdown_is_the_report(jstc_command, run):
    called = jstc_command("report", run, "--markdown")
    assert called.out == (run / "report.md").read_text()
    assert called.out.startswith("# ")


def test_report_html_is_the_page(jstc_command, run, tmp_path):
    called = jstc_command("report", run, "--html")
    assert called.out == (run / "report.html").read_text()
    assert called.out.startswith("<!doctype html>")
    called = jstc_command("report", run, "--html", "--out", tmp_path / "a" / "x.html")
    assert (called.code, called.out) == (0, "")
    assert (tmp_path / "a" / "x.html").read_bytes() == (run / "report.html").read_bytes()


def test_report_to_a_file_that_cannot_be_written(jstc_command, run, tmp_path):
    (tmp_path / "file").write_text("")
    called = jstc_command("report", run, "--json", "--out", tmp_path / "file" / "x")
    assert called.code == 2
    assert called.err.startswith(f"error: cannot write {tmp_path / 'file' / 'x'}: ")
    called = jstc_command("report", run, "--out", tmp_path / "x")
    assert (called.code, called.out) == (2, "")
    assert "--out needs to know what to write" in called.err


def test_report_for_people(jstc_command, run):
    assert "To classify" not in jstc_command("report", run).err  # there is nothing to do it with
    (run / "export" / "run.py").write_text("")
    called = jstc_command("report", run)
    assert f"The report is {run / 'report.html'}\n" in called.err
    assert f"To classify an image: python {run / 'export' / 'run.py'} IMAGE\n" in called.err
    assert re.search(r"FLOPs +41\.0 M +20\.0 M", called.out)
    assert "1.60x" in called.out
    assert re.search(rf"Everything is in {re.escape(str(run))}; its stages took \d.* s$", called.err, re.M)


def test_a_run_at_work_is_shown_and_left_alone(jstc_command, run):
    with RunDirectory.open(run, RECIPE, stages=STAGES, command=""):
        called = jstc_command("report", run, "--json")
    assert json.loads(called.out)["model"] == "resnet20"
    assert not (run / "summary.json").exists()


def test_a_search_over_widths_is_two_lines(capsys, run):
    parts = [{"part": "evenly narrow", "loss": 2.52, "accuracy": 0.3}, {"part": "policy", "loss": 2.152}]
    judged = {"candidates": {"judged": 160, "seconds": 44.2, "images": 9}, "contributions": parts}
    results.stage(run, "search", as_json=False)
    before = _rows(capsys.readouterr().out)
    files.write_json(run / "search" / "result.json", RESULTS["search"] | judged)
    results.stage(run, "search", as_json=False)
    assert [row for row in _rows(capsys.readouterr().out) if row not in before] == [
        ["plans judged without training", "160 in 44 s"],
        ["loss of the plan found, untrained", "2.152 (evenly narrow: 2.520)"],
    ]
    results.stage(run, "search", as_json=True)
    assert json.loads(capsys.readouterr().out)["contributions"] == parts


def _rows(table):
    return [re.split(r"\s{2,}", line.strip()) for line in table.splitlines()[2:]]


def test_a_search_shows_what_the_given_network_scored(run, capsys):
    results.stage(run, "search", as_json=True)
    assert "given" not in json.loads(capsys.readouterr().out)
    score = {"accuracy": 0.8104, "loss": 0.7, "test_images": 10_000}
    files.write_json(run / "given" / "result.json", score)
    results.stage(run, "search", as_json=True)
    assert json.loads(capsys.readouterr().out)["given"] == score
    results.stage(run, "search", as_json=False)
    assert re.search(r"accuracy of the given network \(test split\) +81\.04 %", capsys.readouterr().out)


@pytest.mark.parametrize("stage", ["slim", "finetune", "export", "bench"])
def test_a_stage_that_is_done_shows_its_result(jstc_command, run, stage):
    document = json.loads(jstc_command(stage, "--json").out)
    assert (document["stage"], document["run"]) == (stage, "runs/r")
    assert document["seconds"] == RESULTS[stage]["seconds"]
    assert jstc_command(stage, run).out.strip()
    assert jstc_command(stage, run, "--quiet").err == ""


def test_images_that_were_left_out_are_counted_after_every_stage(jstc_command, run):
    lines = [{"image": name, "reason": "cut off"} for name in ("a.png", "b.png", "a.png")]
    (run / "corrupt.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    note = f"note: 2 images could not be read, named with the reason in {run}/corrupt*.jsonl\n"
    for stage in ("finetune", "slim", "export", "bench"):
        assert note + f"Everything is in {run}; next: " in jstc_command(stage, run).err
    assert jstc_command("finetune", run, "--quiet").err == ""


def test_figures_of_every_channel_group_are_for_the_report(jstc_command, run):
    called = jstc_command("slim", run)
    assert "layer1.0.conv1" not in called.out + called.err
    assert "layer1.0.conv2" not in called.out + called.err
    assert json.loads(jstc_command("slim", run, "--json").out)["flops_share"] == {
        "layer1.0.conv1": 0.123456789
    }


def test_figures_of_every_fitted_layer_are_not_in_the_table(capsys, run):
    path = run / "search" / "result.json"
    fitted = {"accuracy_as_cut": 0.5, "explained": {"layer1.0.conv1": {"before": 0.5, "after": 0.75}}}
    files.write_json(path, files.read_json(path) | {"reconstruction": fitted})
    results.stage(run, "search", as_json=False)
    assert "layer1.0.conv1" not in capsys.readouterr().out
    results.stage(run, "search", as_json=True)
    assert json.loads(capsys.readouterr().out)["reconstruction"] == fitted


def test_the_accuracy_of_a_search_says_which_split_it_is_on(jstc_command, run, monkeypatch):
    monkeypatch.setattr(preflight, "check", lambda workspace, path: None)
    words = ["search", "resnet20", "--dataset", "digits", "--flops", "0.5", "--out", run]
    assert re.search(r"^ *accuracy \(search-validation split\) +90\.00 %", jstc_command(*words).out, re.M)
    assert json.loads(jstc_command(*words, "--json").out)["accuracy"] == 0.9
    slim = jstc_command("slim", run).out
    assert re.search(r"^ *accuracy +95\.00 %", slim, re.M)
    assert re.search(r"^ *largest difference of a logit, folded +1e-07", slim, re.M)


def test_bench_for_people(jstc_command, run):
    called = jstc_command("bench")
    assert re.search(r"on cpu +batch +ms +p95", called.out)
    assert re.search(r"slim +1 +1\.250 +2\.500 +1\.0 +- +1\.60x \(1\.56-1\.64\) +- +gain", called.out)
    assert "slim on cpu: a gain: 1.60x (batch 1)." in called.err


def test_a_stage_whose_search_is_missing(jstc_command, run):
    with RunDirectory.open(run, RECIPE, stages=STAGES, command="") as opened:
        opened.reset("search")
    called = jstc_command("slim", run)
    assert (called.code, called.out) == (2, "")
    assert called.err == "error: slim needs the search first, which is pending: continue with `jstc run x`\n"


FIRST = "finetune has not run yet: running it first\n"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--verbose", FIRST + "Everything is in {run}; next: jstc export {run}\n"),
        ("--json", FIRST),
        ("--quiet", ""),
    ],
)
def test_a_stage_whose_predecessor_is_missing_runs_that_first(
    jstc_command, run, monkeypatch, unchecked, option, said
):
    with RunDirectory.open(run, RECIPE, stages=STAGES, command="") as opened:
        for stage in STAGES[1:]:
            opened.reset(stage)
    monkeypatch.setattr(train, "finetune", lambda context: RESULTS["finetune"])
    monkeypatch.setattr(slim, "slim", lambda context: RESULTS["slim"])
    called = jstc_command("slim", run, option)
    assert (called.code, called.err) == (0, said.format(run=run))
    shown = json.loads(called.out)["stage"] if option == "--json" else called.out.split()[0]
    assert shown == "slim"
    assert json.loads((run / "finetune" / "result.json").read_text())["accuracy"] == 0.95


def test_a_run_with_other_settings_is_refused(jstc_command, run):
    words = ["search", "resnet20", "--dataset", "digits", "--flops", "0.4", "--device", "cpu", "--out", run]
    called = jstc_command(*words)
    assert called.code == 2
    assert "flops: 0.5 -> 0.4" in called.err
    assert "--fresh" in called.err


def test_eval_refuses_a_folder_that_the_run_has_no_use_for(jstc_command, run, classifier):
    (run / "export").mkdir(exist_ok=True)
    shutil.copy(classifier, run / "export" / "model.onnx")
    for target in (run, run / "export" / "model.onnx"):
        called = jstc_command("eval", target, "--data", "d")
        assert (called.code, called.out) == (2, "")
        assert called.err.startswith("error: --data d: dataset 'digits' comes with jstc")


def test_eval_needs_an_exported_network(jstc_command, run):
    called = jstc_command("eval", run)
    assert called.code == 2
    assert "has no exported network yet: run `jstc export" in called.err


@pytest.fixture
def classifier(tmp_path):
    """An ONNX file that finds class 0 everywhere, for images of 8 pixels."""
    import onnx
    from onnx import TensorProto, helper

    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])
    weight = helper.make_tensor("w", TensorProto.FLOAT, [192, 10], [0.0] * 1920)
    bias = helper.make_tensor("b", TensorProto.FLOAT, [10], [1.0] + [0.0] * 9)
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "g", [images], [logits], [weight, bias])
    path = tmp_path / "zero.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_eval_of_any_onnx_file(jstc_command, classifier):
    words = ["eval", classifier, "--dataset", "digits", "--provider", "cpu"]
    document = json.loads(jstc_command(*words, "--json").out)
    assert document["images"] > 500
    assert 0.08 < document["accuracy"] < 0.12
    assert re.search(r"accuracy +\d+\.\d\d %", jstc_command(*words).out)
    assert "on which dataset?" in jstc_command("eval", classifier).err


def test_eval_takes_the_providers_that_bench_takes(jstc_command):
    called = jstc_command("eval", "--help")
    assert "auto|cpu|cuda|tensorrt" in called.out


def test_bench_has_an_end(jstc_command, classifier):
    called = jstc_command("bench", classifier, "--seconds", "inf")
    assert called.code == 2
    assert "--seconds: expected a number above 0" in called.err


def test_bench_of_onnx_files(jstc_command, classifier):
    options = ["--provider", "cpu", "--batch", "2,3", "--seconds", 0.02, "--no-memory", "--quiet"]
    document = json.loads(jstc_command("bench", classifier, *options, "--threads", 1, "--json").out)
    assert [(row["batch"], row["threads"]) for row in document["rows"]] == [(2, 1), (3, 1)]
    assert document["skipped"] == document["profiles"] == []
    assert document["environment"]["providers"]["cpu"] == "usable"
    assert "zero.onnx" in jstc_command("bench", classifier, *options).out


def test_bench_shows_where_the_time_goes(jstc_command, classifier):
    options = ["--provider", "cpu", "--batch", 2, "--batch", 4, "--seconds", 0.02, "--no-memory", "--quiet"]
    called = jstc_command("bench", classifier, *options, "--trace")
    assert re.search(r"^ *ms, cpu, batch 4 +zero\.onnx$", called.out, re.M)
    assert re.search(r"^ *Gemm +\d\.\d{3} +\d+%$", called.out, re.M)
    assert len(list(Path().glob("trace-*.json"))) == 2


def test_an_export_is_a_line_a_file(jstc_command, run):
    result = RESULTS["export"] | {"torch_accuracy": 0.953}
    int8 = result["files"][0] | {"file": "export/model.int8.onnx", "max_abs_diff": 0.25, "bytes": 2_345_678}
    with RunDirectory.open(run, RECIPE, stages=STAGES, command="") as opened:
        files.write_json(run / "export" / "result.json", result | {"files": [*result["files"], int8]})
        opened.finish("export", [run / "export" / "result.json"])
    shown = jstc_command("export", run).out
    assert re.search(r"^ *model\.onnx +95\.00 % +-0\.30 +100\.0 % +1e-06 +0 kB$", shown, re.M)
    assert re.search(r"^ *model\.int8\.onnx +95\.00 % +-0\.30 +100\.0 % +0\.25 +2\.35 MB$", shown, re.M)


def test_precisions_given_later_are_in_the_recipe_and_make_the_later_stages_pending(
    jstc_command, run, monkeypatch, unchecked
):
    monkeypatch.setattr(export, "export", lambda context: RESULTS["export"])
    called = jstc_command("export", "--precision", "int8", "fp32", run, "--max-accuracy-drop", 2, "--quiet")
    assert (called.code, called.err) == (0, "")
    settings = read_recipe(run).export
    assert (settings.precisions, settings.max_accuracy_drop) == (("fp32", "int8"), 2)
    manifest = json.loads((run / "manifest.json").read_text())["stages"]
    assert [manifest[stage]["state"] for stage in ("slim", "export", "bench", "report")] == [
        "done", "done", "pending", "pending",
    ]  # fmt: skip


def test_a_gate_that_says_no_is_exit_code_3(jstc_command, run, monkeypatch, unchecked):
    def refuse(context):
        raise GateError("model.int8.onnx loses 2.00 percentage points")

    monkeypatch.setattr(export, "export", refuse)
    called = jstc_command("export", run, "--precision", "int8", "--quiet")
    assert (called.code, called.out) == (3, "")
    assert called.err == "error: model.int8.onnx loses 2.00 percentage points\n"
    assert json.loads((run / "manifest.json").read_text())["stages"]["export"]["state"] == "failed"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "train.lr=1"], "train.lr: 0.1 -> 1.0: the stage search has read it\n"),
        (["--batch", "many"], "--batch: expected a whole number above 0, or null"),
        (["--opset", "9"], "--opset: expected a whole number at least 18"),
    ],
)
def test_wrong_options_of_an_export_change_nothing(jstc_command, run, words, said):
    before = (run / "recipe.yaml").read_text()
    called = jstc_command("export", run, *words)
    assert called.code == 2
    assert said in called.err
    assert (run / "recipe.yaml").read_text() == before


def test_a_file_that_is_not_there_is_all_that_is_said(jstc_command, monkeypatch):
    """Not that the machine is busy, which matters to nobody then."""
    monkeypatch.setattr("jstc.ort.machine.environment", lambda: pytest.fail("the machine was looked at"))
    called = jstc_command("bench", "nothing.onnx")
    assert (called.code, called.out, called.err) == (2, "", "error: no such ONNX file: nothing.onnx\n")


@pytest.mark.parametrize(
    ("stage", "images"),
    [("finetune", "test_images"), ("slim", "test_images"), ("search", "validation_images")],
)
def test_accuracies_of_stages_have_sampling_errors(run, capsys, stage, images):
    path = run / stage / "result.json"
    files.write_json(path, files.read_json(path) | {images: 599, "accuracy": 0.95})
    results.stage(run, stage, as_json=False)
    assert re.search(r"accuracy.* 95\.00 % ±2\.1\b", capsys.readouterr().out)


def test_accuracies_of_files_have_sampling_errors(run, capsys):
    path = run / "export" / "result.json"
    result = files.read_json(path)
    result["files"][0]["test_images"] = 599
    files.write_json(path, result)
    results.stage(run, "export", as_json=False)
    assert "95.00 % ±2.1" in capsys.readouterr().out
