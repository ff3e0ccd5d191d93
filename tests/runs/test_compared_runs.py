"""Two runs compared from where they lie: which files are taken, and which are refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from jstc.core import files
from jstc.errors import InputError
from jstc.gate import GateReport, Place, Settings
from jstc.recipe import loading
from jstc.runs import compared_runs
from jstc.runs.directory import RunDirectory
from jstc.summary import to_document

RECIPE = loading.from_flags({"model": "resnet20", "dataset": "digits", "flops": "0.5"})
TARGET = {"flops": 100, "params": 100, "budget": {"metric": "flops", "limit": 50, "share": 0.5}}
FILES = {"fp32": "export/model.onnx", "int8": "export/model.int8.onnx"}


def classifier(path: Path, layers: int) -> None:
    weight = np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float32)
    names = ["x", *(f"c{index}" for index in range(layers))]
    nodes = [
        onnx.helper.make_node("Conv", [before, "w"], [after], pads=[1, 1, 1, 1])
        for before, after in itertools.pairwise(names)
    ]
    nodes += [onnx.helper.make_node("GlobalAveragePool", [names[-1]], ["p"])]
    nodes += [onnx.helper.make_node("Flatten", ["p"], ["y"])]
    info, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [info("x", kind, ["n", 3, 16, 16])],
        [info("y", kind, ["n", 3])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))


def run(path: Path, *, layers: int = 1, accuracy: float = 0.9) -> Path:
    """A run as far as compare looks at it; its summary.json says something older."""
    with RunDirectory.open(path, RECIPE, stages=["slim", "export"], command="jstc run") as opened:
        for file in FILES.values():
            classifier(path / file, layers)
        entries = [
            {"file": file, "precision": of, "accuracy": accuracy, "bytes": (path / file).stat().st_size}
            for of, file in FILES.items()
        ]
        files.write_json(path / "target.json", TARGET)
        files.write_json(path / "slim" / "result.json", {"flops": 50, "params": 50, "accuracy": accuracy})
        files.write_json(path / "export" / "result.json", {"files": entries})
        opened.finish("export", [path / file for file in FILES.values()])
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return run(tmp_path / "base")


def compared(base: Path, new: Path, **options: Any) -> GateReport:
    settings = options.pop("settings", Settings())
    return compared_runs.compare_runs(base, new, settings=settings, seconds=0.01, **options)


def summary(run: Path) -> Path:
    from jstc import report

    files.write_json(run / "summary.json", to_document(report.summarise(run)))
    return run / "summary.json"


def latencies(found: GateReport) -> dict[str, Any]:
    return {gate.of: gate for gate in found.gates if gate.kind == "latency"}


def test_two_run_directories_have_their_files_timed(base: Path, tmp_path: Path) -> None:
    found = latencies(compared(base, run(tmp_path / "new")))
    assert set(found) == {"fp32, cpu batch 1", "int8, cpu batch 1"}
    assert all("in turns, here" in gate.reason and gate.base > 0 for gate in found.values())


def test_a_network_that_does_more_work_is_found_slower(base: Path, tmp_path: Path) -> None:
    found = compared(base, run(tmp_path / "new", layers=40), settings=Settings(places=(Place("cpu", 4),)))
    assert [gate.of for gate in found.failures if gate.kind == "latency"] == [
        "fp32, cpu batch 4",
        "int8, cpu batch 4",
    ]


def test_summaries_alone_are_not_timed(base: Path, tmp_path: Path) -> None:
    new = run(tmp_path / "new", layers=40)
    assert not latencies(compared(summary(base), summary(new)))
    assert not latencies(compared(base, new, measured=False))
    assert latencies(compared(summary(base), summary(new), measured=True))


def test_timing_needs_files(base: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone" / "summary.json"
    alone.parent.mkdir()
    alone.write_bytes(summary(base).read_bytes())
    with pytest.raises(InputError, match=r"--measure needs ONNX files, and there are none with .*alone"):
        compared(base, alone, measured=True)
    assert not latencies(compared(base, alone.parent))  # a folder with a summary.json and nothing else


def test_what_the_stages_left_counts_and_not_an_old_summary(base: Path, tmp_path: Path) -> None:
    new = run(tmp_path / "new")
    summary(new)
    files.write_json(new / "slim" / "result.json", {"flops": 50, "params": 50, "accuracy": 0.5})
    assert [gate.of for gate in compared(base, new, measured=False).failures] == ["slim"]


def test_a_file_that_vanished_from_the_new_run_is_a_failure(base: Path, tmp_path: Path) -> None:
    new = run(tmp_path / "new")
    (new / FILES["int8"]).unlink()
    [gate] = compared(base, new, measured=False).failures
    assert (gate.kind, gate.of) == ("file", "int8")
    with pytest.raises(InputError, match=r"model\.int8\.onnx is gone, and is in the summary"):
        compared(new, base)


@pytest.mark.parametrize("text", [b"", b"\0" * 500], ids=["empty", "other"])
def test_a_file_that_was_changed_is_refused(base: Path, tmp_path: Path, text: bytes) -> None:
    new = run(tmp_path / "new")
    path = new / FILES["fp32"]
    path.write_bytes(text.ljust(path.stat().st_size, b"\0") if text else text)
    with pytest.raises(
        InputError, match=r"new/export/model\.onnx is damaged: it is not the file that the run wrote"
    ):
        compared(base, new)


def test_a_broken_file_that_no_manifest_knows_is_refused_when_it_is_timed(base: Path, tmp_path: Path) -> None:
    new = run(tmp_path / "new")
    summary(new)
    (new / "manifest.json").unlink()
    path = new / FILES["fp32"]
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(InputError, match="is not an ONNX model that onnxruntime can run"):
        compared(base, new)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "no run directory or summary.json at"),
        (lambda path: path.mkdir(), "is not a run directory: it has neither"),
        (lambda path: path.write_text("{"), "is damaged or no JSON"),
        (lambda path: path.write_text(json.dumps({"rows": []})), "is not a summary.json of jstc"),
    ],
    ids=["nothing", "an empty folder", "damaged", "another document"],
)
def test_what_is_no_run_is_refused(base: Path, tmp_path: Path, make: Any, said: str) -> None:
    make(tmp_path / "x")
    for pair in ((base, tmp_path / "x"), (tmp_path / "x", base)):
        with pytest.raises(InputError, match=said):
            compared(*pair)


def test_places_come_from_options() -> None:
    assert compared_runs.places(None, None) == ()
    assert compared_runs.places("cpu", None) == (Place("cpu", 1),)
    assert compared_runs.places(None, ["1,8", "2"]) == (Place("cpu", 1), Place("cpu", 8), Place("cpu", 2))


@pytest.mark.parametrize(
    ("provider", "batch", "said"),
    [("abacus", None, "--provider abacus: expected one or more of auto, cpu, cuda, tensorrt"),
     ("cpu", ["0"], "--batch 0: expected batch sizes from 1 on"), (None, ["1,x"], "--batch x: expected")],
)  # fmt: skip
def test_other_words_are_no_places(provider: str | None, batch: list[str] | None, said: str) -> None:
    with pytest.raises(InputError, match=said):
        compared_runs.places(provider, batch)


def test_an_unknown_provider_is_no_fault_of_the_run() -> None:
    assert compared_runs.unusable("cpu") is None
    assert compared_runs.unusable("abacus") == "this version of jstc knows no provider 'abacus'"
