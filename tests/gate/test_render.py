"""What people and machines get to see of a comparison."""

from __future__ import annotations

import copy
from typing import Any
from xml.etree import ElementTree

import pytest

from jstc.gate import (  # fmt: skip
    GateReport,
    Settings,
    compare,
    headline,
    junit,
    line,
    markdown,
    parse_side,
    remarks,
    rows,
    workflow_commands,
)


@pytest.fixture
def found(document: dict[str, Any]) -> GateReport:
    """Accuracy of int8 fails, fp32 is slower for all that is known, a file is new."""
    new = copy.deepcopy(document)
    new["onnx"][1]["accuracy"] = 0.96
    new["onnx"].append({"file": "export/model.fp16.onnx", "precision": "fp16"})
    return compare(
        parse_side(document, name="a/summary.json"), parse_side(new, name="b"), settings=Settings()
    )


def test_rows_say_which_gate_and_by_how_much(found: GateReport) -> None:
    table = rows(found.gates)
    assert ["accuracy, int8", "98.00 %", "96.00 %", "-2.00", "-0.5", "fails"] in table
    assert ["FLOPs, slim", "5.088 M", "5.088 M", "+0.0 %", "+0 %", "ok"] in table
    assert ["bytes, fp32", "611.2 kB", "611.2 kB", "+0.0 %", "+5 %", "ok"] in table
    assert ["file, fp16", "-", "-", "-", "-", "new"] in table
    assert ["latency, fp32, cpu batch 1", "1.80x", "1.80x", "+0.0 %", "+5 %", "unclear"] in table


def test_shares_that_were_counted_have_sampling_errors(document: dict[str, Any]) -> None:
    base = copy.deepcopy(document)
    base["finetune"] = {"test_images": 599}
    new = copy.deepcopy(base)
    new["onnx"][1]["accuracy"] = 0.96
    found = compare(parse_side(base, name="a"), parse_side(new, name="b"), settings=Settings())
    row = next(row for row in rows(found.gates) if row[0] == "accuracy, int8")
    assert row[:4] == ["accuracy, int8", "98.00 % ±1.5", "96.00 % ±1.9", "-2.00 ±2.1"]
    gate = next(one for one in found.gates if (one.kind, one.of) == ("accuracy", "int8"))
    assert "98.00 % ±1.5 -> 96.00 % ±1.9, -2.00 ±2.1 points (limit -0.5)" in line(gate)


def test_headline_counts_the_gates(found: GateReport, document: dict[str, Any]) -> None:
    assert headline(found) == "1 of 15 gates say no"
    same = parse_side(document, name="a")
    assert headline(compare(same, same, settings=Settings())) == "all 15 gates passed, 4 of them unclear"


def test_a_line_has_figures_and_limit(found: GateReport) -> None:
    [failure] = found.failures
    assert line(failure) == "accuracy, int8: 98.00 % -> 96.00 %, -2.00 points (limit -0.5)"


def test_a_drop_that_is_beyond_the_limit_is_not_shown_as_the_limit(document: dict[str, Any]) -> None:
    base, new = copy.deepcopy(document), copy.deepcopy(document)
    base["onnx"][1]["accuracy"], new["onnx"][1]["accuracy"] = 594 / 599, 591 / 599
    found = compare(parse_side(base, name="a"), parse_side(new, name="b"), settings=Settings())
    assert [line(gate) for gate in found.failures] == [
        "accuracy, int8: 99.17 % -> 98.66 %, -0.501 points (limit -0.5)"
    ]


def test_nor_is_a_growth_that_is_beyond_it(document: dict[str, Any]) -> None:
    new = copy.deepcopy(document)
    new["onnx"][0]["bytes"] = int(1.0504 * document["onnx"][0]["bytes"])
    found = compare(parse_side(document, name="a"), parse_side(new, name="b"), settings=Settings())
    [failure] = found.failures
    assert "+5.04 % (limit +5 %)" in line(failure)


def test_remarks_explain_what_is_neither_good_nor_bad(found: GateReport) -> None:
    told = remarks(found)
    assert any(text.startswith("unclear: latency, fp32, cpu batch 1: 1.80x -> 1.80x") for text in told)
    assert "new: file, fp16: export/model.fp16.onnx is not in the base" in told


def test_markdown_is_a_table_with_the_failures_told(found: GateReport) -> None:
    lines = markdown(found).splitlines()
    assert lines[0] == "### jstc compare: 1 of 15 gates say no"
    table = [text for text in lines if text.startswith("|")]
    assert {text.count("|") for text in table} == {7}
    assert len(table) == 2 + len(found.gates)
    assert "| **accuracy, int8** | 98.00 % | 96.00 % | -2.00 | -0.5 | **fails** |" in table
    assert "- fails: accuracy, int8: 98.00 % -> 96.00 %, -2.00 points (limit -0.5)" in lines


def test_junit_has_a_test_for_every_gate(found: GateReport) -> None:
    root = ElementTree.fromstring(junit(found))
    [suite] = root.findall("testsuite")
    cases = suite.findall("testcase")
    assert suite.attrib == {
        "name": "jstc compare",
        "tests": "16",
        "failures": "1",
        "errors": "0",
        "skipped": "1",
    }
    assert len(cases) == len({case.attrib["name"] for case in cases}) == 16
    [failed] = [case for case in cases if case.find("failure") is not None]
    assert failed.attrib["name"] == "accuracy, int8"
    assert "limit -0.5" in failed.find("failure").attrib["message"]  # type: ignore[union-attr]
    assert [case.attrib["name"] for case in cases if case.find("skipped") is not None] == ["file, fp16"]


def test_junit_of_several_budgets_keeps_them_apart(sweep: dict[str, Any]) -> None:
    same = parse_side(sweep, name="x")
    cases = ElementTree.fromstring(junit(compare(same, same, settings=Settings()))).iter("testcase")
    names = [(case.attrib["classname"], case.attrib["name"]) for case in cases]
    assert len(names) == len(set(names)) == 30
    assert names[0] == ("jstc.compare.flops0.5", "FLOPs, slim")


def test_annotations_are_errors_and_escaped(found: GateReport) -> None:
    [command] = workflow_commands(found)
    assert command == (
        "::error title=jstc compare::accuracy, int8: 98.00 %25 -> 96.00 %25, -2.00 points (limit -0.5)"
    )


def test_what_looks_slower_and_is_not_certain_is_a_warning(document: dict[str, Any]) -> None:
    new = copy.deepcopy(document)
    new["bench"][1] |= {"speedup_vs_target": 1.6, "ratio_low": 1.59, "ratio_high": 1.61}
    same_or_slower = compare(parse_side(document, name="a"), parse_side(new, name="b"), settings=Settings())
    [command] = workflow_commands(same_or_slower)
    assert command.startswith(
        "::warning title=jstc compare::latency, fp32, cpu batch 1: 1.80x -> 1.60x, +12.5 %25"
    )


def test_markdown_has_no_html_of_others(document: dict[str, Any]) -> None:
    new = copy.deepcopy(document)
    new["onnx"][0]["precision"] = "<b>|"
    text = markdown(compare(parse_side(document, name="a"), parse_side(new, name="b"), settings=Settings()))
    assert "<b>" not in text
    assert r"| file, &lt;b>\| |" in text
