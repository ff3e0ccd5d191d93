"""The target network beside the slim one, as text cells: for the report and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from jstc.report.figures import bytesize, count, milliseconds, percent, points, ratio, share

__all__ = ["TableRow", "file_rows", "ideal_share", "ideal_speedup", "is_compared", "is_target"]
__all__ += ["network_files", "share_of_ideal", "slim_rows", "table", "target_bytes", "target_row"]


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


def network_files(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of the ONNX files that hold the network alone; not their companions with preprocessing."""
    return [file for file in summary["onnx"] if not file.get("preprocess")]


def slim_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The measured rows of the run's first ONNX file, one per provider and batch size."""
    others = [row for row in summary["bench"] if is_compared(summary, row)]
    names = [file["file"] for file in network_files(summary)]
    first = min((row["file"] for row in others), key=lambda file: _place(names, file), default=None)
    return [row for row in others if row["file"] == first]


def file_rows(summary: dict[str, Any], file: str) -> list[dict[str, Any]]:
    """The measured rows of one ONNX file, by its place in the run directory."""
    return [row for row in summary["bench"] if row["file"] == file]


def is_target(summary: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether a measured row is the target network's."""
    return bool(row["file"] == _target_label(summary))


def is_compared(summary: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether a measured row is of another network, timed beside the target."""
    return not is_target(summary, row) and row.get("verdict") != "no target"


def target_row(summary: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """The target network's row that was measured with `row`; empty when there is none."""
    place = _measured_with(row)
    rows = [one for one in summary["bench"] if is_target(summary, one) and _measured_with(one) == place]
    return rows[0] if rows else {}


def ideal_speedup(summary: dict[str, Any]) -> float | None:
    """What the FLOPs alone would suggest."""
    slim, target = summary["slim"]["flops"], summary["target"]["flops"]
    return target / slim if slim and target else None


def ideal_share(summary: dict[str, Any], row: dict[str, Any]) -> float | None:
    """The part of the ideal speed-up that was reached; None for the target itself."""
    return share_of_ideal(row, ideal_speedup(summary)) if is_compared(summary, row) else None


def share_of_ideal(row: Mapping[str, Any], ideal: float | None) -> float | None:
    """As the measurement says, or by the ratio of the FLOPs `ideal`."""
    given: float | None = row.get("ideal_share")
    return given if given is not None else row["speedup_vs_target"] / ideal if ideal else None


def _measured_with(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["provider"], row["batch"], row.get("threads")


def _place(names: list[str], file: str) -> int:
    return names.index(file) if file in names else len(names)


def _target_label(summary: dict[str, Any]) -> str | None:
    bench = summary["bench"]
    named = (row["file"] for row in bench if row.get("verdict") == "target")
    # Without verdicts, which old files do not have, it is the one measured first.
    return next(named, bench[0]["file"] if bench and bench[0].get("verdict") is None else None)


def target_bytes(summary: dict[str, Any]) -> float | None:
    """The size of the target network's file; None where it was not timed."""
    sizes = (row.get("bytes") for row in summary["bench"] if is_target(summary, row))
    return next(sizes, None)


def _size(summary: dict[str, Any]) -> list[TableRow]:
    if not network_files(summary):
        return []
    slim = network_files(summary)[0]["bytes"]
    target = target_bytes(summary)
    return [TableRow("ONNX file", bytesize(target), bytesize(slim), share(slim, target))]


def _latency(summary: dict[str, Any], row: dict[str, Any]) -> TableRow:
    before = target_row(summary, row).get("median_ms")
    label = f"Latency, batch {row['batch']}, {row['provider']}"
    change = f"{ratio(row['speedup_vs_target'])} the speed"
    return TableRow(label, milliseconds(before), milliseconds(row["median_ms"]), change)
