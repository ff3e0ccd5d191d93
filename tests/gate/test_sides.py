from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jstc.errors import InputError
from jstc.gate import load_side, parse_side
from jstc.gate.gates import Place


def test_a_summary_is_taken_apart_by_file_and_place(document: dict[str, Any]) -> None:
    [network] = parse_side(document, name="x").parts.values()
    assert list(network.files) == ["fp32", "int8"]
    assert set(network.timings) == {(of, Place("cpu", b)) for of in ("fp32", "int8") for b in (1, 8)}
    assert network.timings["int8", Place("cpu", 8)].speedup_vs_target == 2.4


def test_what_later_versions_add_does_no_harm(document: dict[str, Any]) -> None:
    document["onnx"][0]["colour"] = "blue"
    document["bench"][1]["threads"] = 4
    document["bench"].append({"file": "export/other.onnx", "provider": None, "batch": 1})
    [network] = parse_side(document | {"more": {}}, name="x").parts.values()
    assert ("fp32", Place("cpu", 1, 4)) in network.timings
    assert all(of in ("fp32", "int8") for of, _ in network.timings)


def test_the_file_with_preprocessing_is_a_file_of_its_own(document: dict[str, Any]) -> None:
    document["onnx"] += [
        {**document["onnx"][0], "file": "export/model.preprocess.onnx", "preprocess": True},
        {**document["onnx"][0], "file": "export/again.onnx"},
    ]
    [network] = parse_side(document, name="x").parts.values()
    assert list(network.files) == ["fp32", "int8", "fp32+preprocess", "fp32 again.onnx"]


def test_a_summary_with_nothing_but_the_promised_keys(document: dict[str, Any]) -> None:
    for row in document["bench"]:
        for key in ("ratio_low", "ratio_high", "verdict"):
            del row[key]
    del document["environment"]
    [network] = parse_side(document, name="x").parts.values()
    assert len(network.timings) == 4


def test_every_budget_is_a_network(sweep: dict[str, Any]) -> None:
    assert list(parse_side(sweep, name="x").parts) == ["flops0.5", "flops0.3"]


def test_an_unfinished_run_is_a_summary(document: dict[str, Any]) -> None:
    document |= {"slim": {"flops": None, "params": None, "accuracy": None}, "onnx": [], "bench": []}
    [network] = parse_side(document, name="x").parts.values()
    assert network.network.slim.flops is None
    assert not network.files


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "x has schema 2; this version of jstc reads 1"),
        ({"schema": "1"}, "x has schema '1'"),
        ({"model": None}, "x is not a summary.json of jstc, or damaged: model: "),
        ({"slim": {"flops": "many"}}, "damaged: slim.flops: "),
        ({"slim": {"accuracy": 98.5}}, "damaged: slim.accuracy: "),
        ({"slim": {"accuracy": float("nan")}}, "damaged: slim.accuracy: "),
        ({"onnx": [{"precision": "fp32"}]}, "damaged: onnx.0.file: "),
        ({"bench": [{"file": "a", "speedup_vs_target": 0}]}, "damaged: bench.0.speedup_vs_target: "),
        ({"bench": {}}, "damaged: bench: "),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    document: dict[str, Any], change: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as caught:
        parse_side(document | change, name="x")
    assert said in str(caught.value)


@pytest.mark.parametrize("thing", [[], 3, None, {}, {"rows": []}], ids=str)
def test_other_json_is_no_summary(thing: object) -> None:
    with pytest.raises(InputError, match=r"x is not a summary\.json of jstc"):
        parse_side(thing, name="x")


@pytest.mark.parametrize("text", [b'{"schema": 1, "mod', b"\xff\xfe", b"", b"[" * 100_000])
def test_a_damaged_file_is_named(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "s.json"
    path.write_bytes(text)
    with pytest.raises(InputError, match=r"s\.json is damaged or no JSON"):
        load_side(path)


def test_a_file_is_read(tmp_path: Path, document: dict[str, Any]) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps(document))
    assert load_side(path).name == str(path)
    with pytest.raises(InputError, match=r"none\.json cannot be read: No such file"):
        load_side(tmp_path / "none.json")


@pytest.mark.parametrize("place", [("onnx", 0, "file"), ("onnx", 0, "precision"), ("bench", 1, "provider")])
@pytest.mark.parametrize("end", ["\n", "\r", "\u2028"])
def test_a_name_of_several_lines_is_no_name(document: dict[str, Any], place: Any, end: str) -> None:
    part, index, key = place
    document[part][index][key] = f"x{end}::error::so"
    with pytest.raises(InputError, match=rf"{part}.{index}.{key}"):
        parse_side(document, name="s")
