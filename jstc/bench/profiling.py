"""Where the time of one file goes, operator by operator: onnxruntime's profiler, summed up."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from jstc import ort
from jstc.bench import session as sessions
from jstc.bench import trace
from jstc.errors import InputError
from jstc.ort import Provider

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
        session = ort.open_session(path, provider=provider, threads=threads, profile=Path(folder, "trace"))
        opened = sessions.Opened(
            label, path, provider, threads, session, ort.signature(session, path), sessions.Facts(), {}
        )
        try:
            run = sessions.prepare(opened, batch)
            for _ in range(2 * RUNS):
                run()
        except ort.ORT_ERRORS as error:
            raise InputError(f"{path}: onnxruntime cannot run it: {ort.first_line(error)}") from error
        finally:
            recorded = Path(session.end_profiling())
        events = trace.read(recorded)
        if trace_to is not None:
            shutil.copyfile(recorded, trace_to)
    return _summed(events, label, provider, batch)


def _summed(events: list[dict[str, Any]], label: str, provider: Provider, batch: int) -> dict[str, Any]:
    runs = trace.last_runs(events, RUNS)
    nodes = trace.by_node(runs)
    return {
        "file": label,
        "provider": provider,
        "batch": batch,
        "runs": len(runs),
        "run_ms": median([run["dur"] / 1e3 for run, _ in runs]),
        "nodes_ms": sum(node["ms"] for node in nodes),
        "remark": None if provider == "cpu" else _ASYNCHRONOUS,
        "operators": trace.by_operator(nodes),
        "nodes": nodes,
    }
