from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jstc.errors import InputError
from jstc.ort import bench, opened
from jstc.ort.opened import PROFILED_RUNS, profile
from jstc.recipe.schema import BenchSettings

QUICK = BenchSettings(provider="cpu", batch_sizes=(1,), threads=1, seconds=0.02, memory=False)


def node(
    name: str, start: int, took: int, *, index: int, operator: str = "Conv", provider: str = "A"
) -> dict:
    known = {
        "op_name": operator, "node_index": str(index), "provider": provider,
        "input_type_shape": [{"float": [1, 3]}], "output_type_shape": [{"float": [1, 4]}],
    }  # fmt: skip
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": start, "dur": took, "args": known}


def call(start: int, took: int) -> dict:
    return {"cat": "Session", "name": "model_run", "ts": start, "dur": took, "args": {}}


EVENTS = [
    call(0, 1000), node("a", 10, 900, index=1),
    call(2000, 100), node("a", 2010, 30, index=1), node("", 2050, 10, index=2, operator="Add"),
    call(3000, 100), node("a", 3010, 50, index=1), node("", 3060, 30, index=2, operator="Add", provider="B"),
]  # fmt: skip


def test_only_the_last_runs_count() -> None:
    assert [run["ts"] for run, _ in opened.last_runs(EVENTS, 2)] == [2000, 3000]
    assert [len(nodes) for _, nodes in opened.last_runs(EVENTS, 3)] == [1, 2, 2]


def test_nodes_have_the_median_of_their_runs() -> None:
    slow, fast = opened.by_node(opened.last_runs(EVENTS, 2))
    assert (slow["node"], slow["operator"], slow["outputs"]) == ("a", "Conv", [[1, 4]])
    assert (slow["ms"], fast["ms"]) == pytest.approx((0.040, 0.020))
    assert (slow["share"], fast["share"]) == pytest.approx((2 / 3, 1 / 3))


def test_operators_sum_up_their_nodes() -> None:
    nodes = [{"operator": "Conv", "ms": 1.0}, {"operator": "Add", "ms": 3.0}, {"operator": "Conv", "ms": 4.0}]
    first, second = opened.by_operator(nodes)
    assert (first["operator"], first["nodes"], first["ms"], first["share"]) == ("Conv", 2, 5.0, 0.625)
    assert second["operator"] == "Add"


def test_nodes_are_counted_by_provider() -> None:
    assert opened.providers(EVENTS[:5]) == {"A": 2}
    assert opened.providers(EVENTS)["B"] == 1


def test_a_network_is_profiled_node_by_node(make_classifier: Callable[..., Path]) -> None:
    path = make_classifier(layers=3, shape=("batch", 3, 32, 32))
    found = profile("model.onnx", path, provider="cpu", batch=2, threads=1)
    assert (found["file"], found["batch"], found["runs"], found["remark"]) == (
        "model.onnx",
        2,
        PROFILED_RUNS,
        None,
    )
    by_name = {one["operator"]: one for one in found["operators"]}
    assert by_name["Conv"]["nodes"] == 3
    assert sum(one["share"] for one in found["operators"]) == pytest.approx(1)
    assert sum(one["ms"] for one in found["nodes"]) == pytest.approx(found["nodes_ms"])
    assert found["nodes"][0]["ms"] == max(one["ms"] for one in found["nodes"])


def test_traces_are_kept_by_request_only(make_classifier: Callable[..., Path], tmp_path: Path) -> None:
    path, kept = make_classifier(), tmp_path / "kept"
    kept.mkdir()
    settings = QUICK.model_copy(update={"profile": True})
    found = bench.measure({"target": path, "b/model": path}, settings=settings, traces=kept)
    assert [one["file"] for one in found.profiles] == ["target", "b/model"]
    names = sorted(file.name for file in kept.iterdir())
    assert names == ["trace-00-target-cpu-batch1.json", "trace-01-model-cpu-batch1.json"]
    assert opened.providers(json.loads((kept / names[0]).read_text()))["CPUExecutionProvider"] >= 3


def test_without_the_request_there_is_no_profile(make_classifier: Callable[..., Path]) -> None:
    assert bench.measure({"target": make_classifier()}, settings=QUICK).profiles == []


def test_a_file_that_cannot_be_run_is_told(make_classifier: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="onnxruntime cannot run it"):
        profile("a", make_classifier(shape=(2, 3, 8, 8)), provider="cpu", batch=5, threads=1)
