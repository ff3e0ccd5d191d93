from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jstc import report


@pytest.fixture
def text(finished: Path) -> str:
    return report.markdown(report.build(finished))


@pytest.mark.parametrize("preprocess", [False, True])
def test_differences_of_companions_are_said_to_be_of_probabilities(finished: Path, preprocess: bool) -> None:
    summary = report.build(finished)
    summary["onnx"] = [summary["onnx"][0] | {"preprocess": preprocess}]
    assert ("; of probabilities where" in report.markdown(summary)) is preprocess


def test_the_headline_says_what_came_out(text: str) -> None:
    lines = text.splitlines()
    assert lines[0] == "# resnet20 on digits at 49.9 % of its FLOPs"
    assert lines[2] == (
        "The slim network keeps **20.4 M of 41.0 M FLOPs** (49.9 %) and 132 k of 272 k parameters (48.3 %). "
        "It reaches **99.33 %** top-1 on the test split, -0.07 points against the 99.40 % of the target "
        "network trained alone for as many epochs. Run beside the target in onnxruntime (cpu), its speed-up "
        "is **1.46x** at batch 1 and **1.02x** at batch 8 (no gain); the FLOPs alone would suggest 2.00x. "
        "The budget was 20.5 M FLOPs: 99.8 % of it is used."
    )


@pytest.mark.parametrize(
    "line",
    [
        "| FLOPs | 41.0 M | 20.4 M | 49.9 % |",
        "| ONNX file | 1.09 MB | 560 kB | 51.4 % |",
        "| Latency, batch 1, cpu | 1.24 ms | 0.850 ms | 1.46x the speed |",
        "One multiply-add is one FLOP (fvcore's count).",
        "| `model.onnx` | fp32 | 99.33 % | ±0.00 points | 4.2e-06 | 100.00 % | 560 kB |",
        "| `target` | cpu | 1 | 1.24 ms | 1.90 ms | 806 | 1.00x | - | - | 420 |",
        "| `model.onnx` | cpu | 8 | 9.90 ms | 1.90 ms | 806 | 1.02x (no gain) | 0.97 to 1.06 | 50.9 % | 420 |",  # noqa: E501
        "Measured on Example CPU 9000, 2 cores, 25.3 GB; Linux-6.",
        "| `stem` | 16 | 8 | `████████········` 50.0 % | 31.0 % |",
        "| `fc\\|out` | 10 | the network's outputs, as &lt;lambda> \\| told |",
        "jstc run recipes/digits.yaml --out runs/r",
        "Versions: jstc 0.1.0, torch 2.15.0.",
    ],
)
def test_the_report_has_the_line(text: str, line: str) -> None:
    assert line in text.splitlines()


def test_every_table_is_rectangular(text: str) -> None:
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 5
    for table in tables:
        columns = {line.replace("\\|", "").count("|") for line in table.splitlines()}
        assert len(columns) == 1, table


def test_blank_lines_never_double(text: str) -> None:
    assert "\n\n\n" not in text
    assert text.endswith(".\n")
    assert text == "\n".join(line.rstrip() for line in text.split("\n"))


def test_a_run_without_results_reads_well(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: resnet20\ndataset: digits\nseed: 0\n")
    text = report.markdown(report.build(tmp_path))
    assert text.startswith("# resnet20 on digits\n\nThere is no slim network yet.\n")
    assert "## Latency" not in text
    assert "None" not in text


def test_without_a_baseline_no_accuracy_is_compared(finished: Path) -> None:
    (finished / "baseline/result.json").unlink()
    text = report.markdown(report.build(finished))
    assert "It reaches **99.33 %** top-1 on the test split. Run beside" in text
    assert "| Top-1, test split | - | 99.33 % | - |" in text


def test_long_lists_are_folded(finished: Path) -> None:
    summary = report.build(finished)
    summary["groups"] = summary["groups"] * 10
    text = report.markdown(summary)
    assert "<details><summary>30 groups</summary>\n\n| group |" in text
    assert text.count("<details>") == text.count("\n\n</details>\n") == 2


def test_the_terminal_table_has_the_same_figures(finished: Path) -> None:
    summary: dict[str, Any] = report.build(finished)
    rows = {row.label: row for row in report.table(summary)}
    assert rows["Top-1, test split"][1:] == ("99.40 %", "99.33 %", "-0.07 points")
    assert rows["Latency, batch 8, cpu"].change == "1.02x the speed"


def test_reporting_does_not_load_torch() -> None:
    code = "import sys, jstc.report, jstc.ort.bench; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_rich_run_has_every_precision_provider_and_what_is_missing(rich: Path) -> None:
    text = report.markdown(report.build(rich))
    assert "| `export/model.int8.onnx` | int8 | 98.69 % | -0.64 points | 6.1e-01 | 99.10 % | 171 kB |" in text
    assert "| `export/model.int8.preprocess.onnx` | int8, with preprocessing |" in text
    assert "is **1.47x to 1.93x** at batch 1 to 32 (no gain, or none beyond" in text
    assert "- Not measured: all files on tensorrt: the provider is not installed." in text
    rows = [line for line in text.splitlines() if line.startswith("| `export/model.fp16.onnx` | cuda ")]
    assert [row.split(" | ")[6] for row in rows] == ["1.92x", "2.05x", "2.51x"]


def test_tables_come_before_what_is_folded(rich: Path) -> None:
    text = report.markdown(report.build(rich))
    folded = text.index("<details>")
    assert text.index("## ONNX files") < text.index("## Latency") < folded < text.index("## How to reproduce")
