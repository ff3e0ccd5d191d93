"""The networks of several budgets side by side, as text cells: for the report and for the terminal."""

from __future__ import annotations

import statistics
from typing import Any

from jstc.report.figures import UNKNOWN, bytesize, count, milliseconds, percent, points, ratio, share

__all__ = ["sweep_table"]

_DOUBTS = ("no gain", "unclear")
_FILE = 5  # the column that a terminal has no room for


def sweep_table(summary: dict[str, Any], *, wide: bool = False) -> tuple[list[str], list[list[str]]]:
    """The header, and a row for the target network and for every budget; a dash for what is not known.

    As it stands it fits on a terminal of 80 columns, with a latency for the target and speed-ups for the
    others; when `wide`, it has all latencies, the sizes of the files, the shares of the target network's
    counts, and where a speed-up is in doubt.
    """
    batches = sorted({row["batch"] for one in summary["sweep"] for row in one["bench"]})
    header = ["budget", "FLOPs", "params", "top-1", "change", "ONNX file", *[f"batch {n}" for n in batches]]
    rows = [
        _target(summary, batches),
        *[_slim(summary["target"], one, batches, wide) for one in summary["sweep"]],
    ]
    return (header, rows) if wide else (_narrow(header), [_narrow(row) for row in rows])


def _narrow(cells: list[str]) -> list[str]:
    return cells[:_FILE] + cells[_FILE + 1 :]


def _target(summary: dict[str, Any], batches: list[int]) -> list[str]:
    target, timed = (
        summary["target"],
        [_timed(one, batch)[0] for one in summary["sweep"] for batch in batches],
    )
    sizes = [row.get("bytes") for row in timed if row]
    # Every budget was timed beside the target network: the middle one of its latencies.
    latencies = [[row["median_ms"] for row in timed if row.get("batch") == batch] for batch in batches]
    return [
        "target",
        count(target["flops"]),
        count(target["params"]),
        percent(target["accuracy"]),
        "",
        bytesize(sizes[0] if sizes else None),
        *[milliseconds(statistics.median(found)) if found else UNKNOWN for found in latencies],
    ]


def _slim(target: dict[str, Any], one: dict[str, Any], batches: list[int], wide: bool) -> list[str]:
    slim = one["slim"]
    counts = [
        count(slim[key]) + (f" ({share(slim[key], target[key])})" if wide and slim[key] else "")
        for key in ("flops", "params")
    ]
    change = points(slim["accuracy"], target["accuracy"])
    return [
        one["label"],
        *counts,
        percent(slim["accuracy"]),
        change if wide else change.removesuffix(" points"),
        bytesize(one["onnx"][0]["bytes"] if one["onnx"] else None),
        *[_latency(_timed(one, batch)[1], wide) for batch in batches],
    ]


def _latency(row: dict[str, Any], wide: bool) -> str:
    if not row:
        return UNKNOWN
    if not wide:
        return ratio(row["speedup_vs_target"])
    doubt = f" ({row['verdict']})" if row.get("verdict") in _DOUBTS else ""
    return f"{milliseconds(row['median_ms'])}, {ratio(row['speedup_vs_target'])}{doubt}"


def _timed(one: dict[str, Any], batch: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The target network's measured row and the slim one's; the first file that was timed is the target."""
    rows = [row for row in one["bench"] if row["batch"] == batch]
    target = [row for row in rows if row["file"] == one["bench"][0]["file"]]
    slim = [row for row in rows if row["file"] != one["bench"][0]["file"]]
    return (target or [{}])[0], (slim or [{}])[0]
