"""`jstc compare`: exit codes, and where its outcome goes."""

from __future__ import annotations

import copy
import json
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.helpers.onnx_files import encoder

FILE = {"file": "export/model.onnx", "precision": "fp32", "accuracy": 0.98, "max_abs_diff": 2e-6,
        "top1_agreement": 1.0, "bytes": 611_245}  # fmt: skip
TIMING = {"provider": "cpu", "batch": 1, "median_ms": 1.0, "p95_ms": 1.0}
BASE = {
    "schema": 1, "model": "resnet20", "dataset": "digits", "seed": 0,
    "budget": {"metric": "flops", "limit": 20_500_000, "share": 0.5},
    "target": {"flops": 41_000_000, "params": 270_000, "accuracy": 0.985},
    "slim": {"flops": 20_000_000, "params": 150_000, "accuracy": 0.98, "max_abs_diff_fold": 0.0},
    "onnx": [FILE, {**FILE, "file": "export/model.int8.onnx", "precision": "int8", "bytes": 170_000}],
    "bench": [{"file": "bench/target.onnx", "speedup_vs_target": 1.0, **TIMING},
              {"file": "export/model.onnx", "speedup_vs_target": 1.6, **TIMING}],
}  # fmt: skip
REGRESSIONS = {
    "FLOPs, slim": ("slim", "flops", 22_000_000),
    "parameters, slim": ("slim", "params", 170_000),
    "accuracy, slim": ("slim", "accuracy", 0.97),
    "accuracy, fp32": ("onnx", "accuracy", 0.97),
    "max difference, fp32": ("onnx", "max_abs_diff", 0.01),
    "top-1 agreement, fp32": ("onnx", "top1_agreement", 0.99),
    "bytes, fp32": ("onnx", "bytes", 700_000),
    "latency, fp32, cpu batch 1": ("bench", "speedup_vs_target", 1.0),
    "file, int8": ("onnx", None, None),
}


@pytest.fixture(autouse=True)
def outside_of_actions(monkeypatch):
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def base(tmp_path):
    return written(tmp_path / "base.json", BASE)


@pytest.fixture
def worse(tmp_path):
    return spoilt(tmp_path, "accuracy, fp32")


def written(path, document):
    path.write_text(json.dumps(document))
    return path


def spoilt(tmp_path, name):
    document: Any = copy.deepcopy(BASE)
    part, key, value = REGRESSIONS[name]
    if key is None:
        document[part].pop()
    else:
        place = document[part]
        place = place if isinstance(place, dict) else place[1 if part == "bench" else 0]
        place[key] = value
    return written(tmp_path / "new.json", document)


@pytest.mark.parametrize("option", ["--markdown", "--junit"])
def test_a_file_that_cannot_be_written_is_wrong_input(jstc_command, base, tmp_path, option):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "x"):
        called = jstc_command("compare", base, base, option, path)
        assert called.code == 2
        assert f"cannot write {path}" in called.err


def test_a_timing_ends(jstc_command, base):
    assert jstc_command("compare", base, base, "--seconds", "inf").code == 2


def test_the_same_is_0_ten_times_in_a_row(jstc_command, base, tmp_path):
    same = written(tmp_path / "same.json", BASE)
    called = [jstc_command("compare", base, same) for _ in range(10)]
    assert {call.code for call in called} == {0}
    assert "all 12 gates passed, 1 of them unclear" in called[0].err
    assert "error" not in called[0].err


@pytest.mark.parametrize("name", REGRESSIONS)
def test_every_kind_of_regression_is_3(jstc_command, base, tmp_path, name):
    called = jstc_command("compare", base, spoilt(tmp_path, name))
    assert called.code == 3
    assert f"gates say no\n  {name}: " in called.err
    [row] = [line for line in called.out.splitlines() if line.split("  ")[0].strip() == name]
    assert row.endswith("fails")


OFF = {
    "FLOPs, slim": "--max-flops-increase",
    "parameters, slim": "--max-params-increase",
    "accuracy, slim": "--max-accuracy-drop",
    "max difference, fp32": "--max-diff-increase",
    "top-1 agreement, fp32": "--max-agreement-drop",
    "bytes, fp32": "--max-bytes-increase",
    "latency, fp32, cpu batch 1": "--max-slowdown",
}


@pytest.mark.parametrize("name", OFF)
def test_every_gate_can_be_switched_off_or_widened(jstc_command, base, tmp_path, name):
    new = spoilt(tmp_path, name)
    assert jstc_command("compare", base, new, OFF[name], "off").code == 0
    assert jstc_command("compare", base, new, OFF[name], "1000000%").code == 0


WRONG = {
    "nothing there": (["nowhere"], "error: no run directory or summary.json at nowhere"),
    "not a limit": (
        ["base.json", "--max-slowdown", "fast"],
        "error: 'fast' is not a limit of the gate on latency",
    ),
    "no files": (["base.json", "--measure"], "error: --measure needs ONNX files, and there are none with"),
    "another schema": (["schema.json"], "error: schema.json has schema 9; this version of jstc reads 1"),
    "damaged": (["damaged.json"], "error: damaged.json is damaged or no JSON"),
    "another document": (["bench.json"], "error: bench.json is not a summary.json of jstc"),
    "another model": (
        ["model.json"],
        "error: the runs have different models: resnet20 in base.json, vgg16_bn in",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_2_with_one_message(jstc_command, base, tmp_path, name):
    written(tmp_path / "schema.json", {**BASE, "schema": 9})
    written(tmp_path / "bench.json", {"rows": []})
    written(tmp_path / "model.json", {**BASE, "model": "vgg16_bn"})
    (tmp_path / "damaged.json").write_text(json.dumps(BASE)[:-20])
    words, message = WRONG[name]
    called = jstc_command("compare", "base.json", *words)
    assert (called.code, called.out) == (2, "")
    assert called.err.startswith(message)
    assert len(called.err.splitlines()) == 1


def test_json_is_one_document_and_nothing_else(jstc_command, base, worse):
    called = jstc_command("compare", base, worse, "--json")
    document = json.loads(called.out)
    assert (called.code, document["verdict"]) == (3, "fails")
    [gate] = [gate for gate in document["gates"] if gate["verdict"] == "fails"]
    assert (gate["kind"], gate["of"], gate["base"], gate["new"]) == ("accuracy", "fp32", 0.98, 0.97)


def test_every_budget_has_a_table(jstc_command, tmp_path):
    one = {key: BASE[key] for key in ("budget", "slim", "onnx", "bench")}
    rows = [{"label": label, **one} for label in ("flops0.5", "flops0.3")]
    several = written(tmp_path / "several.json", {**BASE, "sweep": rows})
    called = jstc_command("compare", several, several)
    heads = [line.split()[0] for line in called.out.splitlines() if line.endswith("verdict")]
    assert (called.code, heads) == (0, ["flops0.5", "flops0.3"])
    assert len([line for line in called.out.splitlines() if line.startswith(" FLOPs, slim ")]) == 2


def test_files_are_written_whatever_the_verdict(jstc_command, base, worse, tmp_path):
    called = jstc_command("compare", base, worse, "--markdown", "a/c.md", "--junit", "a/c.xml", "--quiet")
    assert called.code == 3
    assert "**accuracy, fp32**" in (tmp_path / "a" / "c.md").read_text()
    suite = ElementTree.parse(tmp_path / "a" / "c.xml").getroot()[0]
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("12", "1")


def test_in_actions_the_summary_is_added_to_and_failures_are_annotated(
    jstc_command, base, worse, tmp_path, monkeypatch
):
    steps = tmp_path / "steps.md"
    steps.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(steps))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    called = jstc_command("compare", base, worse, "--json")
    assert steps.read_text().startswith("before\n### jstc compare: 1 of 12 gates say no")
    assert "::error title=jstc compare::accuracy, fp32: 98.00 %25 -> 97.00 %25" in called.err
    assert json.loads(called.out)["verdict"] == "fails"


def test_outside_of_actions_nothing_is_annotated(jstc_command, base, worse):
    called = jstc_command("compare", base, worse)
    assert "::" not in called.out + called.err


def test_help_names_the_defaults(jstc_command):
    from jstc.gate.gates import DEFAULTS

    text = jstc_command("compare", "--help").out
    assert all(f"{100 * limit.amount:g}" in text for limit in DEFAULTS.values())
    assert "exit code 3 where NEW is worse" in " ".join(text.split())


# -- ONNX files without a run ----------------------------------------------------------------------------


def saved(folder, *, flops, width):
    """A folder as `Slim.save` and an export leave it."""
    folder.mkdir()
    (folder / "plan.json").write_text("{}")
    written(folder / "model.json", {"schema": 1, "class": "Net", "cost": {"flops": flops, "params": 7}})
    encoder(folder / "model.onnx", width=width, metadata={"flops": "3", "params": "7"})
    return folder


def gates(called):
    return {(gate["kind"], gate["of"]): gate["verdict"] for gate in json.loads(called.out)["gates"]}


def test_files_of_any_network_are_compared_and_timed(jstc_command, tmp_path):
    wide = encoder(tmp_path / "wide.onnx", width=3000)
    slim = encoder(tmp_path / "slim.onnx", metadata={"flops": "12"})
    options = ("--seconds", "0.01", "--max-slowdown", "90%", "--json")
    called = jstc_command("compare", wide, slim, *options)
    assert called.code == 0
    assert gates(called) == {
        ("flops", "slim"): "new",
        ("bytes", "onnx"): "ok",
        ("latency", "onnx, cpu batch 1"): "ok",
    }
    assert jstc_command("compare", slim, wide, *options[:2], "--no-measure", "--json").code == 3


def test_folders_of_slim_networks_are_compared_by_their_costs_and_files(jstc_command, tmp_path):
    small, large = (saved(tmp_path / n, flops=f, width=f) for n, f in (("small", 4), ("large", 40)))
    assert jstc_command("compare", large, small, "--no-measure").code == 0
    called = jstc_command("compare", small, large, "--no-measure", "--json")
    assert called.code == 3
    assert gates(called) == {("flops", "slim"): "fails", ("params", "slim"): "ok", ("bytes", "onnx"): "fails"}
    for document in ([], {"cost": 3}):
        written(large / "model.json", document)  # the file's own metadata say what it costs
        assert jstc_command("compare", small, large, "--no-measure", "--max-bytes-increase", "off").code == 0
    written(large / "model.json", {"cost": {"flops": "many"}})
    assert jstc_command("compare", large, small, "--no-measure").code == 2
    written(large / "model.json", {})
    (large / "model.onnx").unlink()
    assert gates(jstc_command("compare", small, large, "--json"))[("file", "onnx")] == "fails"
    found = jstc_command("bench", large)
    assert found.code == 2 and "large has no ONNX file to time; write one there" in found.err


def test_a_run_and_a_file_are_not_compared(jstc_command, base, tmp_path):
    called = jstc_command("compare", base, encoder(tmp_path / "a.onnx"))
    assert called.code == 2 and "compare two runs, or two ONNX files, and not one of each" in called.err
    called = jstc_command("bench", encoder(tmp_path / "a.onnx"), tmp_path)
    assert called.code == 2 and "give either one run directory or ONNX files, not both" in called.err
    called = jstc_command("compare", tmp_path / "no.onnx", tmp_path / "a.onnx")
    assert called.code == 2 and "no such ONNX file" in called.err
