"""One file in onnxruntime: opened on a provider, fed, and where its nodes run and how long each takes."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime

from jstc.errors import InputError
from jstc.ort import sessions
from jstc.ort.sessions import Provider

__all__ = [
    "PROFILED_RUNS",
    "Event",
    "Facts",
    "Opened",
    "by_node",
    "by_operator",
    "last_runs",
    "open_file",
    "prepare",
    "profile",
    "providers",
    "read_events",
    "read_facts",
]

# Opening and feeding.

_INPUT_SEED = 0
_MOST_DIGITS = 18
_MOST_VALUES = 2**28
"""The most numbers in one image, 1 GiB of them: a file may claim any size."""
_INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True)
class Facts:
    """Things known of a file beforehand: FLOPs for one image, and its precision."""

    flops: int | None = None
    precision: str | None = None


@dataclass(frozen=True)
class Opened:
    """A file in a session of its own. `elsewhere`: how many nodes other providers run, by provider."""

    label: str
    path: Path
    provider: Provider
    threads: int
    session: Any
    signature: sessions.Signature
    facts: Facts
    elsewhere: Mapping[str, int]

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the file takes; None: any."""
        return self.signature.input_shape[0]


def open_file(
    label: str, path: Path, *, provider: Provider, threads: int = 0, facts: Facts | None = None
) -> Opened:
    """The file, ready to be timed; what `facts` does not say is read from the file's metadata.

    Raises `InputError` for a file that cannot be opened or timed, or of which the provider runs nothing.
    """
    if provider == "cpu":
        session = sessions.open_session(path, threads=threads)
        found = _timable(session, path)
        return Opened(label, path, provider, threads, session, found, facts or read_facts(session), {})
    with tempfile.TemporaryDirectory() as folder:
        session = sessions.open_session(
            path, provider=provider, threads=threads, profile=Path(folder, "first")
        )
        found = _timable(session, path)
        opened = Opened(label, path, provider, threads, session, found, facts or read_facts(session), {})
        try:
            prepare(opened, opened.fixed_batch or 1)()
        except sessions.ORT_ERRORS as error:
            raise InputError(f"{path}: onnxruntime cannot run it: {sessions.first_line(error)}") from error
        finally:
            recorded = Path(session.end_profiling())  # from here on the session runs at its full speed
        used = providers(read_events(recorded))
    return Opened(
        label, path, provider, threads, session, found, opened.facts, _elsewhere(used, provider, path)
    )


def read_facts(session: Any) -> Facts:
    """FLOPs and precision, as the metadata of the session's file tells them."""
    known = session.get_modelmeta().custom_metadata_map
    flops = known.get("flops", "")[:_MOST_DIGITS]
    return Facts(int(flops) if flops.isdecimal() and int(flops) > 0 else None, known.get("precision"))


def prepare(opened: Opened, batch: int) -> Callable[[], object]:
    """A call that runs the file once, on the same images for every file, made before the clock starts.

    On the CPU from host memory to host memory; else from and to device memory, and it waits for the device.
    """
    shape = (batch, *(size or 0 for size in opened.signature.input_shape[1:]))
    images = np.random.default_rng(_INPUT_SEED).standard_normal(shape, dtype=np.float32)
    images = images.astype(_INPUT_TYPES[opened.signature.input_type])
    name = opened.signature.input_name
    if opened.provider == "cpu":
        return partial(opened.session.run, None, {name: images})
    binding = opened.session.io_binding()
    binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(images, "cuda", 0))
    for output in opened.session.get_outputs():
        binding.bind_output(output.name, "cuda")
    return partial(_run_bound, opened.session, binding)


def _run_bound(session: Any, binding: Any) -> None:
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()


def _timable(session: Any, path: Path) -> sessions.Signature:
    found = sessions.signature(session, path)
    if found.input_type not in _INPUT_TYPES or None in found.input_shape[1:]:
        size = [size or "?" for size in found.input_shape]
        raise InputError(
            f"{path}: can time float images of a fixed size only, found {found.input_type} {size}"
        )
    if math.prod(size or 1 for size in found.input_shape) > _MOST_VALUES:
        raise InputError(f"{path}: its input {list(found.input_shape)} is too large to be timed")
    return found


def _elsewhere(used: Counter[str], provider: Provider, path: Path) -> dict[str, int]:
    own = sessions.PROVIDER_NAMES[provider]
    short = {name: key for key, name in sessions.PROVIDER_NAMES.items()}
    others = {short.get(name, name): count for name, count in used.items() if name != own}
    if not used[own]:
        raise InputError(f"{path}: none of its nodes run on {provider}; onnxruntime gave them to {others}")
    return others


# Profiling: milliseconds by operator and by node.

PROFILED_RUNS = 10
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
        opened = Opened(
            label, path, provider, threads, session, sessions.signature(session, path), Facts(), {}
        )
        try:
            run = prepare(opened, batch)
            for _ in range(2 * PROFILED_RUNS):
                run()
        except sessions.ORT_ERRORS as error:
            raise InputError(f"{path}: onnxruntime cannot run it: {sessions.first_line(error)}") from error
        finally:
            recorded = Path(session.end_profiling())
        events = read_events(recorded)
        if trace_to is not None:
            shutil.copyfile(recorded, trace_to)
    return _summed(events, label, provider, batch)


def _summed(events: list[dict[str, Any]], label: str, provider: Provider, batch: int) -> dict[str, Any]:
    runs = last_runs(events, PROFILED_RUNS)
    nodes = by_node(runs)
    return {
        "file": label,
        "provider": provider,
        "batch": batch,
        "runs": len(runs),
        "run_ms": median([run["dur"] / 1e3 for run, _ in runs]),
        "nodes_ms": sum(node["ms"] for node in nodes),
        "remark": None if provider == "cpu" else _ASYNCHRONOUS,
        "operators": by_operator(nodes),
        "nodes": nodes,
    }


# The file of events that onnxruntime's profiler writes.

Event = dict[str, Any]
"""A run of the session, or the kernel of a node in it; times are in microseconds."""

_SUFFIX = "_kernel_time"


def read_events(path: Path) -> list[Event]:
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
