"""summary.json as the gates need it: read, checked, and taken apart by budget and by file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt
from pydantic import ValidationError as Invalid

from jstc.core import files
from jstc.errors import InputError

__all__ = ["Budget", "Network", "OnnxFile", "Place", "Summary", "Timing", "load", "parse", "read"]

SCHEMA = 1

Fraction = Annotated[float, Field(ge=0, le=1)]

# Names are printed, and a line of its own could be taken for a command by whoever reads the log of a CI job.
Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f\u0085\u2028\u2029]*$")]


class _Part(BaseModel):
    # Whatever else later versions put in is none of the gates' business.
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


class Budget(_Part):
    """What the search was asked for."""

    metric: str | None = None
    limit: float | None = None


class Costs(_Part):
    """A network in torch."""

    flops: NonNegativeFloat | None = None
    params: NonNegativeFloat | None = None
    accuracy: Fraction | None = None


class OnnxFile(_Part):
    """An exported file."""

    file: Line
    precision: Line | None = None
    preprocess: bool | None = False
    accuracy: Fraction | None = None
    max_abs_diff: NonNegativeFloat | None = None
    top1_agreement: Fraction | None = None
    bytes: NonNegativeFloat | None = None
    batch: PositiveInt | None = None


class Timing(_Part):
    """A file at one batch size on one provider, measured beside the target network."""

    file: Line
    provider: Line | None = None
    batch: PositiveInt | None = None
    threads: int | None = None
    median_ms: PositiveFloat | None = None
    speedup_vs_target: PositiveFloat | None = None
    ratio_low: PositiveFloat | None = None
    ratio_high: PositiveFloat | None = None
    verdict: str | None = None

    @property
    def speedup(self) -> float | None:
        """Against the target network; None where that was not timed beside it."""
        return None if self.verdict == "no target" else self.speedup_vs_target


class _Row(_Part):
    label: Line = ""
    budget: Budget | None = None
    slim: Costs | None = None
    onnx: list[OnnxFile] | None = None
    bench: list[Timing] | None = None


class _Document(_Row):
    schema_: Annotated[Literal[1], Field(alias="schema")]
    model: Line
    dataset: Line
    target: Costs
    sweep: list[_Row] | None = None
    environment: dict[str, Any] | None = None


@dataclass(frozen=True, order=True)
class Place:
    """Where a file is timed; `threads` 0 is onnxruntime's own choice."""

    provider: str
    batch: int
    threads: int = 0


@dataclass(frozen=True)
class Network:
    """One slim network: its files by what they are (`fp32`, `int8`), and their timings."""

    budget: Budget
    slim: Costs
    files: Mapping[str, OnnxFile]
    timings: Mapping[tuple[str, Place], Timing]


@dataclass(frozen=True)
class Summary:
    """A run. `networks` by the name of the budget, which is empty where there is only one.

    `root`: the run directory that the files lie in, None when only the summary is known.
    """

    name: str
    model: str
    dataset: str
    target: Costs
    networks: Mapping[str, Network]
    environment: Mapping[str, Any] = field(default_factory=dict)
    root: Path | None = None


def load(path: Path) -> Summary:
    """The summary in the file `path`. Raises `InputError` when it is missing, damaged, or something else."""
    return parse(read(path), name=str(path))


def read(path: Path) -> object:
    """The JSON document in the file `path`. Raises `InputError`."""
    try:
        return files.read_json(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def parse(document: object, *, name: str, root: Path | None = None) -> Summary:
    """The summary in a JSON document; `name` is what messages call it. Raises `InputError`."""
    if not isinstance(document, dict) or "schema" not in document:
        raise InputError(f"{name} is not a summary.json of jstc (it has no 'schema')")
    if document["schema"] != SCHEMA:
        raise InputError(f"{name} has schema {document['schema']!r}; this version of jstc reads {SCHEMA}")
    try:
        found = _Document.model_validate(document)
    except Invalid as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        told = f"{where}: {first['msg']}"
        raise InputError(f"{name} is not a summary.json of jstc, or damaged: {told}") from None
    rows = found.sweep if found.sweep is not None else [found]
    return Summary(
        name=name,
        model=found.model,
        dataset=found.dataset,
        target=found.target,
        networks={row.label: _network(row) for row in rows},
        environment=found.environment or {},
        root=root,
    )


def _network(row: _Row) -> Network:
    onnx = _by_kind(row.onnx or [])
    kinds = {entry.file: kind for kind, entry in onnx.items()}
    timings = {}
    for timing in row.bench or []:
        if timing.verdict == "target" or timing.file.endswith("bench/target.onnx"):
            continue
        if timing.provider is None or timing.batch is None:
            continue
        kind = kinds.get(timing.file, PurePosixPath(timing.file).name)
        timings[kind, Place(timing.provider, timing.batch, timing.threads or 0)] = timing
    return Network(row.budget or Budget(), row.slim or Costs(), onnx, timings)


def _by_kind(entries: list[OnnxFile]) -> dict[str, OnnxFile]:
    # By precision and not by name: a file may be called otherwise in another version.
    found: dict[str, OnnxFile] = {}
    for entry in entries:
        name = PurePosixPath(entry.file).name
        kind = entry.precision or name
        if entry.preprocess:
            kind += "+preprocess"
        found[kind if kind not in found else f"{kind} {name}"] = entry
    return found
