"""The networks of several budgets side by side, as text cells: for the report and for the terminal."""

from __future__ import annotations

import statistics
from typing import Any

from jstc.report.figures import UNKNOWN, bytesize, count, milliseconds, percent, points, ratio, share

__all__ = ["sweep_table"]

_DOUBTS = ("no gain", "unclear")


def sweep_table(summary: dict[str, Any], *, shares: bool = False) -> tuple[list[str], list[list[str]]]:
    """The header, and a row for the target network and for every budget; a dash for what is not known.

    With `shares`, counts are followed by their share of the target network's.
    """
    batches = sorted({(row["batch"], row["provider"]) for one in summary["sweep"] for row in one["bench"]})
    latencies = [f"batch {batch}, {provider}" for batch, provider in batches]
    header = ["budget", "FLOPs", "parameters", "top-1", "change", "ONNX file", *latencies]
    rows = [_slim(summary, one, [batch for batch, _ in batches], shares) for one in summary["sweep"]]
    return header, [_target(summary, [batch for batch, _ in batches]), *rows]


def _target(summary: dict[str, Any], batches: list[int]) -> list[str]:
    target = summary["target"]
    timed = [_timed(one, batch)[0] for one in summary["sweep"] for batch in batches]
    sizes = [row.get("bytes") for row in timed if row]
    # Every budget was timed beside the target network: the middle one of its latencies.
    latencies = [
        [row["median_ms"] for one in summary["sweep"] if (row := _timed(one, batch)[0])] for batch in batches
    ]
    return [
        "target",
        count(target["flops"]),
        count(target["params"]),
        percent(target["accuracy"]),
        "",
        bytesize(sizes[0] if sizes else None),
        *[milliseconds(statistics.median(found)) if found else UNKNOWN for found in latencies],
    ]


def _slim(summary: dict[str, Any], one: dict[str, Any], batches: list[int], shares: bool) -> list[str]:
    slim, target = one["slim"], summary["target"]
    counts = [
        count(slim[key]) + (f" ({share(slim[key], target[key])})" if shares and slim[key] else "")
        for key in ("flops", "params")
    ]
    accuracies = [percent(slim["accuracy"]), points(slim["accuracy"], target["accuracy"])]
    size = bytesize(one["onnx"][0]["bytes"] if one["onnx"] else None)
    return [one["label"], *counts, *accuracies, size, *[_latency(one, batch) for batch in batches]]


def _latency(one: dict[str, Any], batch: int) -> str:
    row = _timed(one, batch)[1]
    if not row:
        return UNKNOWN
    doubt = f", {row['verdict']}" if row.get("verdict") in _DOUBTS else ""
    return f"{milliseconds(row['median_ms'])} ({ratio(row['speedup_vs_target'])}{doubt})"


def _timed(one: dict[str, Any], batch: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The target network's measured row and the slim one's; the first file that was timed is the target."""
    rows = [row for row in one["bench"] if row["batch"] == batch]
    target = [row for row in rows if row["file"] == one["bench"][0]["file"]]
    slim = [row for row in rows if row["file"] != one["bench"][0]["file"]]
    return (target or [{}])[0], (slim or [{}])[0]
