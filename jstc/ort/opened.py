"""One file in onnxruntime: opened on a provider, fed, and where its nodes run and how long each takes."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime

from jstc.core import files
from jstc.errors import InputError
from jstc.ort import sessions
from jstc.ort.sessions import Provider

__all__ = [
    "LENGTH",
    "PROFILED_RUNS",
    "SIDE",
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

SIDE, LENGTH = 224, 128
"""Default of a dynamic size: height and width of images and maps (inputs of four sizes or more), others."""

_IMAGE = 4  # sizes of a batch of images
_INPUT_SEED = 0
_MOST_DIGITS = 18
_MOST_VALUES = 2**28
"""The most numbers in one input, 1 GiB of them: a file may claim any size."""
_FLOATS: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
_WHOLE: dict[str, type[np.generic]] = {
    f"tensor({kind.__name__})": kind
    for kind in (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)
} | {"tensor(bool)": np.bool_}


@dataclass(frozen=True)
class Facts:
    """Things known of a file beforehand: FLOPs for one image, parameters, precision.

    `sizes` are those of its dynamic dimensions, by name, in the example that it was exported with.
    """

    flops: int | None = None
    precision: str | None = None
    params: int | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Input:
    """Sizes of an input, None for the batch, and the numbers in it; `chosen` are its dynamic sizes."""

    shape: tuple[int | None, ...]
    type: type[np.generic]
    chosen: Mapping[str, int]


@dataclass(frozen=True)
class Opened:
    """A file in a session of its own. `elsewhere`: how many nodes other providers run, by provider.

    `inputs` have the sizes that they are timed at; None stands for the batch. `fixed_batch` is the only batch
    size that the file takes, None for any.
    """

    label: str
    path: Path
    provider: Provider
    threads: int
    session: Any
    inputs: Mapping[str, Input]
    fixed_batch: int | None
    facts: Facts
    elsewhere: Mapping[str, int] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """The dynamic sizes that it is timed at, the batch's aside, by name."""
        return {name: size for each in self.inputs.values() for name, size in each.chosen.items()}


def open_file(
    label: str,
    path: Path,
    *,
    provider: Provider,
    threads: int = 0,
    facts: Facts | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Opened:
    """The file, ready to be timed; what `facts` does not say is read from the file's metadata.

    Dynamic sizes are those of `sizes`, or else of the example that the file was exported with, or else
    `SIDE` and `LENGTH`.
    Raises `InputError` for a file that cannot be opened or timed, or of which the provider runs nothing.
    """
    if provider == "cpu":
        session = sessions.open_session(path, threads=threads)
        return _opened(label, path, provider, threads, session, facts, sizes)
    with tempfile.TemporaryDirectory() as folder:
        session = sessions.open_session(
            path, provider=provider, threads=threads, profile=Path(folder, "first")
        )
        opened = _opened(label, path, provider, threads, session, facts, sizes)
        try:
            prepare(opened, opened.fixed_batch or 1)()
        except sessions.ORT_ERRORS as error:
            raise InputError(f"{path}: onnxruntime cannot run it: {sessions.first_line(error)}") from error
        finally:
            recorded = Path(session.end_profiling())  # from here on the session runs at its full speed
        used = providers(read_events(recorded))
    return replace(opened, elsewhere=_elsewhere(used, provider, path))


def _opened(
    label: str,
    path: Path,
    provider: Provider,
    threads: int,
    session: Any,
    facts: Facts | None,
    sizes: Mapping[str, int] | None,
) -> Opened:
    told, ports = read_facts(session), sessions.inputs(session)
    lead, sizes = _lead(ports), {**told.sizes, **(sizes or {})}
    inputs = {port.name: _timable(port, lead, sizes, path) for port in ports}
    first = 1 if lead is None else lead.shape[0]
    fixed = first if isinstance(first, int) else None
    return Opened(label, path, provider, threads, session, inputs, fixed, facts or told)


def read_facts(session: Any) -> Facts:
    """FLOPs, parameters, precision and sizes, as the metadata of the session's file tells them."""
    known = session.get_modelmeta().custom_metadata_map
    flops, params = (_count(known.get(key, "")) for key in ("flops", "params"))
    sizes: Any = None
    with contextlib.suppress(ValueError):
        sizes = files.parse_json(known.get("sizes", "null"), where="sizes")
    named = sizes.items() if isinstance(sizes, dict) else ()
    kept = {name: size for name, size in named if type(size) is int and size > 0}
    return Facts(flops, known.get("precision"), params, kept)


def _count(text: str) -> int | None:
    digits = text[:_MOST_DIGITS]
    return int(digits) if digits.isdecimal() and int(digits) > 0 else None


def prepare(opened: Opened, batch: int) -> Callable[[], object]:
    """A call that runs the file once, on the same numbers for every file, made before the clock starts.

    On the CPU from host memory to host memory; else from and to device memory, and it waits for the device.
    Whole numbers (ids of tokens, masks) are ones, or where the file does not take them, zeros.
    """
    run = _on(opened, batch, 1)
    if all(each.type in _FLOATS.values() for each in opened.inputs.values()):
        return run
    try:
        run()
    except sessions.ORT_ERRORS:
        return _on(opened, batch, 0)
    return run


def _on(opened: Opened, batch: int, whole: int) -> Callable[[], object]:
    """A run on random numbers, and on `whole` ones."""
    feed = {}
    for name, each in opened.inputs.items():
        shape = tuple(batch if size is None else size for size in each.shape)
        if each.type in _FLOATS.values():
            random = np.random.default_rng(_INPUT_SEED).standard_normal(shape, dtype=np.float32)
            feed[name] = random.astype(each.type)
        else:
            feed[name] = np.full(shape, whole, each.type)
    if opened.provider == "cpu":
        return partial(opened.session.run, None, feed)
    binding = opened.session.io_binding()
    for name, values in feed.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(values, "cuda", 0))
    for output in opened.session.get_outputs():
        binding.bind_output(output.name, "cuda")
    return partial(_run_bound, opened.session, binding)


def _run_bound(session: Any, binding: Any) -> None:
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()


def _lead(ports: Sequence[sessions.Port]) -> sessions.Port | None:
    """The input whose first size is the batch: the first one of two sizes or more, or of a dynamic one."""
    several = (port for port in ports if len(port.shape) > 1)
    return next(
        several, next((port for port in ports if port.shape and type(port.shape[0]) is not int), None)
    )


def _timable(port: sessions.Port, lead: sessions.Port | None, sizes: Mapping[str, int], path: Path) -> Input:
    """The input at the sizes at which it is timed. Raises `InputError` for one that cannot be."""
    kind = _FLOATS.get(port.type) or _WHOLE.get(port.type)
    if kind is None:
        raise InputError(f"{path}: cannot make up values for its input '{port.name}', a {port.type}")
    shape: list[int | None] = []
    chosen: dict[str, int] = {}
    for dim, size in enumerate(port.shape):
        name = f"{port.name}[{dim}]" if size is None else str(size)
        if dim == 0 and (port is lead or (type(size) is not int and name not in sizes)):
            shape.append(None)
        elif isinstance(size, int):
            shape.append(size)
        elif lead is not None and name == lead.shape[0]:
            shape.append(None)
        else:
            chosen[name] = sizes.get(name, SIDE if len(port.shape) >= _IMAGE else LENGTH)
            shape.append(chosen[name])
    if math.prod(size or 1 for size in shape) > _MOST_VALUES:
        raise InputError(f"{path}: its input '{port.name}' {shape} is too large to be timed")
    return Input(tuple(shape), kind, chosen)


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
    label: str,
    path: Path,
    *,
    provider: Provider,
    batch: int,
    threads: int,
    sizes: Mapping[str, int] | None = None,
    trace_to: Path | None = None,
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
        opened = _opened(label, path, provider, threads, session, None, sizes)
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
