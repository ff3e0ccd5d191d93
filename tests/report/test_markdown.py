from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jstc import report
from jstc.report.collect import read_run


@pytest.fixture
def text(finished: Path) -> str:
    return report.markdown(report.read(finished))


@pytest.mark.parametrize("preprocess", [False, True])
def test_differences_of_companions_are_said_to_be_of_probabilities(finished: Path, preprocess: bool) -> None:
    export = finished / "export/result.json"
    result = json.loads(export.read_text())
    result["files"][0]["preprocess"] = preprocess
    export.write_text(json.dumps(result))
    assert ("; of probabilities where" in report.markdown(report.read(finished))) is preprocess


def test_findings_come_first(text: str) -> None:
    lines = text.splitlines()
    assert lines[0] == "# resnet20 on digits at 49.9 % of its FLOPs"
    assert lines[2:11] == [
        "- **FLOPs: 20.4 M.** 49.9 % of the target network's 41.0 M.",
        "- **Parameters: 132 k.** 48.3 % of the target network's 272 k.",
        "- **Accuracy: 99.33 %.** Top-1 on the test split, -0.07 points against the 99.40 % of the target "
        "network trained alone for as many epochs.",
        "- ✓ **Budget: met.** 99.8 % of 20.5 M FLOPs is used.",
        "- **ONNX file: 560 kB.** The fp32 file, 51.4 % of the target network's 1.09 MB.",
        "- ✓ **Parity: same.** Logits of the fp32 file are within 4.2e-06 of torch's (1.0e-04 allowed).",
        "- ✓ **fp32 file: 99.33 %.** model.onnx scores 99.33 %, 0.00 points from torch.",
        "- ! **Speed, fp32: 1.02x to 1.46x.** Faster in 1 of 2: 1.46x at batch 1 and 1.02x at batch 8 "
        "(no gain) on cpu, beside the target network in onnxruntime; the FLOPs alone would suggest 2.00x.",
        "",
    ]
    assert "- ! No gain in speed: model.onnx at batch 8 on cpu measures 1.02x (0.97 to 1.06)." in lines


@pytest.mark.parametrize(
    "line",
    [
        "| FLOPs | 41.0 M | 20.4 M | 49.9 % |",
        "| ONNX file | 1.09 MB | 560 kB | 51.4 % |",
        "| Latency, batch 1, cpu | 1.24 ms | 0.850 ms | 1.46x the speed |",
        "The target network is the original, at its full size. One multiply-add is one FLOP (fvcore's count).",  # noqa: E501
        "| `model.onnx` | fp32 | 99.33 % | 0.00 points | 4.2e-06 | 100.00 % | 560 kB |",
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
    text = report.markdown(report.read(tmp_path))
    assert text.startswith("# resnet20 on digits\n\n- **Accuracy: not known.** The slim network has not been")
    assert "\n- There is no slim network yet.\n" in text
    assert "## Latency" not in text
    assert "None" not in text


def test_without_a_baseline_no_accuracy_is_compared(finished: Path) -> None:
    (finished / "baseline/result.json").unlink()
    text = report.markdown(report.read(finished))
    assert (
        "- **Accuracy: 99.33 %.** Top-1 on the test split; there is no accuracy of the target network" in text
    )
    assert "- ! The baseline has not run: the target network's accuracy is not known." in text
    assert "| Top-1, test split | - | 99.33 % | - |" in text


def test_long_lists_are_folded(finished: Path) -> None:
    target = finished / "target.json"
    document = json.loads(target.read_text())
    document["groups"] = document["groups"] * 10
    target.write_text(json.dumps(document))
    text = report.markdown(report.read(finished))
    assert "<details><summary>30 groups</summary>\n\n| group |" in text
    assert text.count("<details>") == text.count("\n\n</details>\n") == 2


def test_the_terminal_table_has_the_same_figures(finished: Path) -> None:
    rows = {row.label: row for row in report.table(read_run(finished).summary)}
    assert rows["Top-1, test split"][1:] == ("99.40 %", "99.33 %", "-0.07 points")
    assert rows["Latency, batch 8, cpu"].change == "1.02x (no gain)"


def test_reporting_does_not_load_torch() -> None:
    code = "import sys, jstc.report, jstc.ort.bench; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_rich_run_has_every_precision_provider_and_what_is_missing(rich: Path) -> None:
    text = report.markdown(report.read(rich))
    assert "| `export/model.int8.onnx` | int8 | 98.69 % | -0.64 points | 6.1e-01 | 99.10 % | 171 kB |" in text
    assert "| `export/model.int8.preprocess.onnx` | int8, with preprocessing |" in text
    assert "about 1.5x to 1.93x at batch 1 to 32 (no gain, or none beyond" in text
    assert "- Not measured: all files on tensorrt: the provider is not installed." in text
    rows = [line for line in text.splitlines() if line.startswith("| `export/model.fp16.onnx` | cuda ")]
    assert [row.split(" | ")[6] for row in rows] == ["1.92x", "2.05x", "2.51x"]


def test_tables_come_before_what_is_folded(rich: Path) -> None:
    text = report.markdown(report.read(rich))
    folded = text.index("<details>")
    assert text.index("## ONNX files") < text.index("## Latency") < folded < text.index("## How to reproduce")
