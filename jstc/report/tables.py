"""The target network beside the slim one, as text cells: for the report and for the terminal."""

from __future__ import annotations

from typing import Any, NamedTuple

from jstc.report.figures import bytesize, count, milliseconds, percent, points, ratio, share

__all__ = ["TableRow", "slim_rows", "table", "target_row"]


class TableRow(NamedTuple):
    """One figure of both networks, and what became of it."""

    label: str
    target: str
    slim: str
    change: str


def table(summary: dict[str, Any]) -> list[TableRow]:
    """FLOPs, parameters, accuracy, file size and latencies; a dash for what is not known."""
    target, slim = summary["target"], summary["slim"]
    rows = [
        TableRow(label, count(target[key]), count(slim[key]), share(slim[key], target[key]))
        for label, key in (("FLOPs", "flops"), ("Parameters", "params"))
    ]
    accuracy = points(slim["accuracy"], target["accuracy"])
    rows.append(
        TableRow("Top-1, test split", percent(target["accuracy"]), percent(slim["accuracy"]), accuracy)
    )
    rows += _size(summary)
    return rows + [_latency(summary, row) for row in slim_rows(summary)]


def slim_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The measured rows of the run's first ONNX file, one per batch size."""
    others = [row for row in summary["bench"] if row["file"] != _target_label(summary)]
    return [row for row in others if row["file"] == others[0]["file"]]


def target_row(summary: dict[str, Any], batch: int) -> dict[str, Any]:
    """The target network's measured row at a batch size; empty when there is none."""
    label = _target_label(summary)
    rows = [row for row in summary["bench"] if (row["file"], row["batch"]) == (label, batch)]
    return rows[0] if rows else {}


def _target_label(summary: dict[str, Any]) -> str | None:
    return summary["bench"][0]["file"] if summary["bench"] else None  # bench measures it first


def _size(summary: dict[str, Any]) -> list[TableRow]:
    if not summary["onnx"]:
        return []
    slim = summary["onnx"][0]["bytes"]
    target = summary["bench"][0].get("bytes") if summary["bench"] else None
    return [TableRow("ONNX file", bytesize(target), bytesize(slim), share(slim, target))]


def _latency(summary: dict[str, Any], row: dict[str, Any]) -> TableRow:
    before = target_row(summary, row["batch"]).get("median_ms")
    label = f"Latency, batch {row['batch']}, {row['provider']}"
    change = f"{ratio(row['speedup_vs_target'])} the speed"
    return TableRow(label, milliseconds(before), milliseconds(row["median_ms"]), change)
