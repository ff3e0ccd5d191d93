"""Verdicts and sizes at their edges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jstc import report
from jstc.report.page.verdicts import tiles, verdicts
from jstc.report.tables import is_target, table, target_bytes


@pytest.fixture
def summary(finished: Path) -> dict[str, Any]:
    return report.build(finished)


@pytest.mark.parametrize(("accuracy", "state"), [(0.9212, "good"), (0.9211, "bad")])
def test_a_file_that_loses_just_what_it_may_has_passed(
    summary: dict[str, Any], accuracy: float, state: str
) -> None:
    summary["slim"]["accuracy"] = 0.9312  # 100 * (0.9312 - 0.9212) is a little more than 1
    summary["onnx"] = [summary["onnx"][0] | {"accuracy": accuracy}]
    found = verdicts(summary, {"export": {"max_accuracy_drop": 1.0}})
    assert [one.state for one in found if one.label == "fp32 file"] == [state]


def test_without_the_target_no_other_file_stands_in_its_place(summary: dict[str, Any]) -> None:
    file = summary["onnx"][0]
    row = {
        "file": file["file"],
        "provider": "cpu",
        "batch": 1,
        "bytes": file["bytes"],
        "verdict": "no target",
    }
    summary["bench"] = [row | {"median_ms": 1.0, "p95_ms": 1.0, "speedup_vs_target": 1.0}]
    assert not is_target(summary, summary["bench"][0])
    assert target_bytes(summary) is None
    assert {line.label: line.change for line in table(summary)}["ONNX file"] == "-"
    assert [tile.lines for tile in tiles(summary) if tile.label == "ONNX file, fp32"] == [()]
