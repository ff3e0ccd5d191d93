"""The comparison of two recordings: what is masked and what is not, renames, and the simulated clock."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from benchmarks import children
from benchmarks.equality import comparison, launch, masks, renames, runs

Renames = renames.Renames


class Pair:
    """Two recordings of one file; `state` compares them."""

    def __init__(self, root: Path) -> None:
        self.folders = (root / "before", root / "after")
        for folder in self.folders:
            folder.mkdir()

    def write(self, name: str, before: str, after: str) -> None:
        for folder, text in zip(self.folders, (before, after), strict=True):
            (folder / name).write_text(text, encoding="utf-8")

    def json(self, before: Any, after: Any, name: str = "a.json") -> None:
        self.write(name, json.dumps(before), json.dumps(after))

    def found(self, **options: Any) -> Any:
        [found] = comparison.compared(*self.folders, Renames(**options))
        return found

    def state(self, **options: Any) -> str:
        return str(self.found(**options).state)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"seconds": 1.5}, {"seconds": 2.25}),
        ({"seconds": {"search": 1, "export": 2.5}}, {"seconds": {"search": 3.5, "export": 4}}),
        ({"created": "2026-01-02T03:04:05+00:00"}, {"created": "2027-01-02T03:04:05+00:00"}),
        ({"versions": {"torch": "2.14.1"}}, {"versions": {"torch": "2.15.0+cu130"}}),
        ({"artifacts": {"a.json": "0" * 64}}, {"artifacts": {"a.json": "1" * 64}}),
    ],
)
def test_times_dates_versions_are_masked(pair: Pair, before: Any, after: Any) -> None:
    pair.json(before, after)
    assert pair.state() == "equal"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"accuracy": 0.5}, {"accuracy": 0.5000000000000001}),
        ({"runs": 1}, {"runs": 1.0}),
        ({"median_ms": 1.5}, {"median_ms": 2.5}),
        ({"plan_hash": "0" * 64}, {"plan_hash": "1" * 64}),
        ({"seconds": {"search": 1}}, {"seconds": {"export": 1}}),
        ({"seconds": 1}, {"seconds": None}),
        ({"created": "now"}, {}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"artifacts": {"a.json": "0" * 64}}, {"artifacts": {"b.json": "0" * 64}}),
        ({"kept": [1, 2]}, {"kept": [1, 2, 3]}),
        ({"empty": []}, {"empty": {}}),
    ],
)
def test_all_else_is_not(pair: Pair, before: Any, after: Any) -> None:
    pair.json(before, after)
    assert pair.state() == "differs"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("- run begun 2026-11-30T04:30:33+00:00", "- run begun 2026-12-01T00:00:00+00:00"),
        ("Time: search 11 s, slim 0.5 s.", "Time: search 2 min 5 s, slim 4.1 s."),
        (" seconds         0.0", " seconds         0.1"),
        ("search 5.6 s, flops0.7 1 min 10 s, flops0.5 52 s.", "search 1 h, flops0.7 27 s, flops0.5 1 min."),
        ("Versions: fvcore 0.1.5.post20221221, torch 2.14.1.", "Versions: fvcore 0.1.6, torch 2.15.0."),
        ("<dt>load average</dt><dd>1.99</dd>", "<dt>load average</dt><dd>2.46</dd>"),
        ('<td class="number">26.4 MB</td>', '<td class="number">26.5 MB</td>'),
    ],
)
def test_lines_of_text_are_masked(before: str, after: str) -> None:
    assert masks.masked_text(before) == masks.masked_text(after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("| Latency, batch 1, cpu | 0.291 ms |", "| Latency, batch 1, cpu | 0.292 ms |"),
        ("speed-up is **1.10x**", "speed-up is **1.11x**"),
        ("| ONNX file | 1.09 MB | 721 kB |", "| ONNX file | 1.08 MB | 721 kB |"),
        ("search: 8 rounds", "search: 9 rounds"),
        ("98.00 % of 599", "98.16 % of 599"),
    ],
)
def test_other_figures_in_text_are_not(before: str, after: str) -> None:
    assert masks.masked_text(before) != masks.masked_text(after)


def test_the_first_difference_is_told(pair: Pair) -> None:
    pair.json({"a": [1, 2, 3], "b": "x" * 200 + "y"}, {"a": [1, 5, 4], "b": "x" * 200 + "z"})
    assert pair.found().first.startswith("/a/1: 2 | 5 (and 2 more)")
    told = pair.found(expected=["a.json#/a/*"]).first
    assert "xxxy'" in told and "xxxz'" in told


def test_a_file_that_is_gone_or_new(pair: Pair) -> None:
    (pair.folders[0] / "a.txt").write_text("x")
    assert pair.state() == "missing"
    assert pair.state(expected=["a.txt"]) == "expected"
    (pair.folders[0] / "a.txt").rename(pair.folders[1] / "a.txt")
    assert pair.state() == "new"


def test_renamed_keys_texts_and_files(pair: Pair) -> None:
    pair.json({"tau": {"sd": 1}, "command": "jstc run --set search.tau=2"}, None)
    (pair.folders[1] / "a.json").rename(pair.folders[1] / "b.json")
    now = {"temperature": {"sd": 1}, "command": "jstc run --set search.temperature=2"}
    (pair.folders[1] / "b.json").write_text(json.dumps(now))
    options: dict[str, Any] = {"keys": {"tau": "temperature"}, "files": {"a.json": "b.json"}}
    assert pair.state(**options) == "differs"
    assert pair.state(**options, recipe={"search.tau": "search.temperature"}) == "equal"


def test_recipe_keys_move_to_other_sections(pair: Pair) -> None:
    pair.write("recipe.yaml", "search: {tau: 1, rounds: 2}", "search: {rounds: 2}\ntrain: {heat: {tau: 1}}")
    assert pair.state() == "differs"
    assert pair.state(recipe={"search.tau": "train.heat.tau"}) == "differs"  # the order of keys
    pair.write("recipe.yaml", "search: {rounds: 2, tau: 1}", "search: {rounds: 2}\ntrain: {heat: {tau: 1}}")
    assert pair.state(recipe={"search.tau": "train.heat.tau"}) == "equal"


def _tensors(path: Path, value: float, meta: dict[str, Any]) -> None:
    save_file({"w": np.array([value], np.float32)}, path, metadata={"jstc": json.dumps(meta)})


def test_tensors_bit_for_bit_and_what_is_said_of_them(pair: Pair) -> None:
    before, after = (folder / "t.safetensors" for folder in pair.folders)
    _tensors(before, 0.0, {"step": 1, "seconds": 2.0})
    _tensors(after, 0.0, {"step": 1, "seconds": 3.0})
    assert pair.state() == "equal"
    _tensors(after, -0.0, {"step": 1, "seconds": 3.0})
    assert pair.found().first.startswith("/tensors/w/2")
    _tensors(after, 0.0, {"step": 2, "seconds": 3.0})
    assert pair.found().first.startswith("/said/jstc/step")


def _network(path: Path, weight: float, *, trace: str, version: str) -> None:
    node = helper.make_node("Mul", ["x", "w"], ["y"], name="scale")
    node.doc_string = trace
    shown = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], [weight])
    graph = helper.make_graph([node], "g", shown[:1], shown[1:], [tensor])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    helper.set_model_props(model, {"jstc_version": version, "flops": "100"})
    onnx.save(model, str(path))


def test_onnx_by_its_graph_and_weights(pair: Pair) -> None:
    before, after = (folder / "m.onnx" for folder in pair.folders)
    _network(before, 1.0, trace="old.py:1", version="0.1.0")
    _network(after, 1.0, trace="new.py:2", version="0.2.0")
    assert before.read_bytes() != after.read_bytes()
    assert pair.state() == "equal"
    _network(after, 1.5, trace="", version="0.1.0")
    assert pair.found().first.startswith("/initializers/w/2")


def test_a_damaged_file_is_compared_as_it_is(pair: Pair) -> None:
    pair.write("a.json", "{", "{")
    assert pair.state() == "equal"
    pair.write("a.json", "{", "{}")
    assert pair.state() == "differs"


def test_exit_codes_of_the_report(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    assert comparison.report(*pair.folders, Renames()) == 1  # nothing was compared
    pair.json({"a": 1}, {"a": 2})
    assert comparison.report(*pair.folders, Renames(expected=["*#/a"])) == 1  # nor was anything equal
    pair.json({}, {}, "b.json")
    assert comparison.report(*pair.folders, Renames(expected=["*#/a"])) == 0
    assert comparison.report(*pair.folders, Renames()) == 1
    assert "2 files: 1 equal, 0 expected, 1 differs, 0 missing, 0 new" in capsys.readouterr().out


def test_options_of_runs_have_the_new_names(tmp_path: Path) -> None:
    recording = runs.Recording(tmp_path, tmp_path, None, Renames(recipe={"search.tau": "search.heat"}))
    words = runs.Run(recording, "case").set({"search.tau": 2, "seed": 1})
    assert words == ["--set", "search.heat=2", "--set", "seed=1"]


def test_the_clock_tells_networks_apart_and_repeats() -> None:
    times = [[launch.ticks_of(weights, 1, run) for run in range(7)] for weights in (1000, 3000)]
    assert sum(times[0]) < sum(times[1])
    ratios = {b / a for a, b in zip(*times, strict=True)}
    assert len(ratios) > 1  # an interval of them has a width
    assert launch.ticks_of(1000, 8, 0) > launch.ticks_of(1000, 1, 0)
    clock = launch.Clock()
    clock.advance(2**29)
    assert clock.seconds() == 0.5


CLOCKED = """
import sys, time
sys.argv[:] = ["jstc", "--version"]
from benchmarks.equality import launch
launch._install(launch.Clock())
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.stdin.read(), providers=["CPUExecutionProvider"])
begin = time.perf_counter()
assert time.perf_counter() == begin
session.run(None, {"x": numpy.ones(1, numpy.float32)})
print(time.perf_counter() - begin == launch.ticks_of(1, 1, 0) * 2**-30)
"""


def test_the_clock_moves_while_a_session_runs_and_only_then(tmp_path: Path) -> None:
    _network(tmp_path / "m.onnx", 1.0, trace="", version="0.1.0")
    done = subprocess.run(
        [sys.executable, "-c", CLOCKED], env=children.environment(),
        input=str(tmp_path / "m.onnx"), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "True"
