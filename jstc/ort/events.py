"""The file of events that onnxruntime's profiler writes: runs, nodes, kernels and what they took."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["Event", "by_node", "by_operator", "last_runs", "providers", "read"]

Event = dict[str, Any]
_SUFFIX = "_kernel_time"


def read(path: Path) -> list[Event]:
    """The events of a trace."""
    events: list[Event] = json.loads(path.read_text(encoding="utf-8"))
    return events


def providers(events: Sequence[Event]) -> Counter[str]:
    """How many different nodes each provider ran, by onnxruntime's name of it."""
    nodes = {(_index(event), event["args"].get("provider", "unknown")) for event in _kernels(events)}
    return Counter(provider for _, provider in nodes)


def last_runs(events: Sequence[Event], count: int) -> list[tuple[Event, list[Event]]]:
    """The last `count` calls of the session, each with the events of its nodes."""
    runs = sorted((e for e in events if e.get("name") == "model_run"), key=lambda e: e["ts"])[-count:]
    nodes = _kernels(events)
    return [(run, [e for e in nodes if run["ts"] <= e["ts"] < run["ts"] + run["dur"]]) for run in runs]


def by_node(runs: Sequence[tuple[Event, list[Event]]]) -> list[dict[str, Any]]:
    """Nodes with the median of their milliseconds and share of all nodes' time, the slowest first."""
    durations: dict[str, list[float]] = defaultdict(list)
    example: dict[str, Event] = {}
    for _, events in runs:
        for event in events:
            durations[_index(event)].append(event["dur"] / 1e3)
            example[_index(event)] = event
    rows = [_described(example[index]) | {"ms": median(values)} for index, values in durations.items()]
    return sorted(_with_shares(rows), key=lambda row: -row["ms"])


def by_operator(nodes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `by_node` summed by type of operator, the slowest first."""
    names = dict.fromkeys(node["operator"] for node in nodes)
    of = {name: [node for node in nodes if node["operator"] == name] for name in names}
    rows = [{"operator": n, "nodes": len(own), "ms": sum(o["ms"] for o in own)} for n, own in of.items()]
    return sorted(_with_shares(rows), key=lambda row: -row["ms"])


def _kernels(events: Sequence[Event]) -> list[Event]:
    return [e for e in events if e.get("cat") == "Node" and e["name"].endswith(_SUFFIX)]


def _index(event: Event) -> str:
    # Names of nodes may be empty or the same; the number is onnxruntime's own.
    return f"{event['args'].get('node_index', '')}:{event['name']}"


def _described(event: Event) -> dict[str, Any]:
    known = event["args"]
    return {
        "node": event["name"].removesuffix(_SUFFIX),
        "operator": known.get("op_name", "?"),
        "provider": known.get("provider"),
        "inputs": _shapes(known.get("input_type_shape")),
        "outputs": _shapes(known.get("output_type_shape")),
    }


def _shapes(found: list[dict[str, list[int]]] | None) -> list[list[int]]:
    return [shape for item in found or [] for shape in item.values()]


def _with_shares(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    total = sum(row["ms"] for row in rows) or 1.0
    return [row | {"share": row["ms"] / total} for row in rows]
