"""What onnxruntime's profiler writes: events of runs and of nodes, in microseconds."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from jstc.errors import InputError
from jstc.ort import events as event_file
from jstc.ort import sessions, timing
from jstc.ort.sessions import Provider

__all__ = ["RUNS", "profile"]

RUNS = 10
"""Runs that are summed up; as many before them warm up."""

_ASYNCHRONOUS = "times of nodes are those of launching their kernels, which run on by themselves"


def profile(
    label: str, path: Path, *, provider: Provider, batch: int, threads: int, trace_to: Path | None = None
) -> dict[str, Any]:
    """Milliseconds by operator and by node of a run at `batch`, medians over ten runs, as a JSON document.

    `run_ms` is the whole call while it was profiled, which takes longer than without; `trace_to` keeps
    onnxruntime's own trace (for chrome://tracing or Perfetto). Raises `InputError` when the file cannot be
    run.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = sessions.open_session(
            path, provider=provider, threads=threads, profile=Path(folder, "trace")
        )
        opened = timing.Opened(
            label, path, provider, threads, session, sessions.signature(session, path), timing.Facts(), {}
        )
        try:
            run = timing.prepare(opened, batch)
            for _ in range(2 * RUNS):
                run()
        except sessions.ORT_ERRORS as error:
            raise InputError(f"{path}: onnxruntime cannot run it: {sessions.first_line(error)}") from error
        finally:
            recorded = Path(session.end_profiling())
        events = event_file.read(recorded)
        if trace_to is not None:
            shutil.copyfile(recorded, trace_to)
    return _summed(events, label, provider, batch)


def _summed(events: list[dict[str, Any]], label: str, provider: Provider, batch: int) -> dict[str, Any]:
    runs = event_file.last_runs(events, RUNS)
    nodes = event_file.by_node(runs)
    return {
        "file": label,
        "provider": provider,
        "batch": batch,
        "runs": len(runs),
        "run_ms": median([run["dur"] / 1e3 for run, _ in runs]),
        "nodes_ms": sum(node["ms"] for node in nodes),
        "remark": None if provider == "cpu" else _ASYNCHRONOUS,
        "operators": event_file.by_operator(nodes),
        "nodes": nodes,
    }
