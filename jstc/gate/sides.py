"""The two sides of a comparison: a summary taken apart by budget, by file, and by where files were timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jstc.summary import Network, OnnxFile, Summary, SweepSummary, Timing, load, parse

__all__ = ["Part", "Place", "Side", "load_side", "parse_side", "side"]


@dataclass(frozen=True, order=True)
class Place:
    """Where a file is timed; `threads` 0 is onnxruntime's own choice."""

    provider: str
    batch: int
    threads: int = 0


@dataclass(frozen=True)
class Part:
    """One slim network: its files by what they are (`fp32`, `int8`), and their timings."""

    network: Network
    files: Mapping[str, OnnxFile]
    timings: Mapping[tuple[str, Place], Timing]


@dataclass(frozen=True)
class Side:
    """A run. `parts` by the name of the budget, which is empty where there is only one.

    `root`: the run directory that the files lie in, None when only the summary is known.
    """

    name: str
    summary: Summary | SweepSummary
    parts: Mapping[str, Part]
    root: Path | None = None


def load_side(path: Path) -> Side:
    """The run whose summary is the file `path`. Raises `InputError` when it is missing or damaged."""
    return side(load(path), name=str(path))


def parse_side(document: object, *, name: str, root: Path | None = None) -> Side:
    """The run whose summary is a JSON document. Raises `InputError` for what is none."""
    return side(parse(document, name=name), name=name, root=root)


def side(summary: Summary | SweepSummary, *, name: str, root: Path | None = None) -> Side:
    """A summary taken apart; `name` is what messages call it."""
    parts = {label: _part(network) for label, network in summary.networks.items()}
    return Side(name, summary, parts, root)


def _part(network: Network) -> Part:
    files = _by_kind(network.onnx)
    kinds = {entry.file: kind for kind, entry in files.items()}
    timings = {}
    for timing in network.bench:
        if timing.verdict == "target" or timing.file.endswith("bench/target.onnx"):
            continue
        if timing.provider is None or timing.batch is None:
            continue
        kind = kinds.get(timing.file, PurePosixPath(timing.file).name)
        timings[kind, Place(timing.provider, timing.batch, timing.threads or 0)] = timing
    return Part(network, files, timings)


def _by_kind(entries: Sequence[OnnxFile]) -> dict[str, OnnxFile]:
    # By precision and not by name: a file may be called otherwise in another version.
    found: dict[str, OnnxFile] = {}
    for entry in entries:
        name = PurePosixPath(entry.file).name
        kind = entry.precision or name
        if entry.preprocess:
            kind += "+preprocess"
        found[kind if kind not in found else f"{kind} {name}"] = entry
    return found
