"""The two sides of a comparison, and the gates on figures that are counted or computed.

Such figures are the same wherever they are read; times are judged in `jstc.gate.latency_gates`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from jstc.errors import InputError
from jstc.gate.chance import Counted
from jstc.summary import Network, OnnxFile, Summary, SweepSummary, Timing, load, parse

__all__ = [
    "DEFAULTS",
    "DIFFERENCE_FLOOR",
    "DROPS",
    "Gate",
    "Kind",
    "Limit",
    "Part",
    "Place",
    "Side",
    "Verdict",
    "file_gates",
    "gone",
    "limits",
    "load_side",
    "network_gates",
    "parse_limit",
    "parse_side",
    "side",
]

# How much worse the new run may be, gate by gate: the defaults, and how people write others.

Kind = Literal["flops", "params", "bytes", "accuracy", "max_abs_diff", "top1_agreement", "latency"]

DIFFERENCE_FLOOR = 1e-4
"""Up to here a difference between torch and ONNX is rounding, and how much it grew means nothing."""

DROPS = frozenset({"accuracy", "top1_agreement"})
"""Gates in percentage points; all others are in percent of the base."""


@dataclass(frozen=True)
class Limit:
    """`amount`: the largest share that a figure may grow by, or a fraction may drop by; None: no gate.

    `or_budget`: a figure within a budget that both runs were given is never too large.
    """

    amount: float | None
    or_budget: bool = False


DEFAULTS: Mapping[Kind, Limit] = {
    "flops": Limit(0.0, or_budget=True),
    "params": Limit(0.05, or_budget=True),
    "bytes": Limit(0.05),
    "accuracy": Limit(0.005),
    "max_abs_diff": Limit(2.0),
    "top1_agreement": Limit(0.005),
    "latency": Limit(0.05),
}


def limits(given: Mapping[Kind, str | None]) -> dict[Kind, Limit]:
    """A limit for every gate; `given` are those that the user wrote, and None those that were left out."""
    written = {kind: parse_limit(text, kind) for kind, text in given.items() if text is not None}
    return {**DEFAULTS, **written}


def parse_limit(text: str, kind: Kind) -> Limit:
    """`5%` and `5` are five percent (percentage points where the gate is a drop); `off` is no gate.

    Raises `InputError` for anything else.
    """
    if text.strip().lower() == "off":
        return Limit(None)
    match = re.fullmatch(r"\s*\+?([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*%?\s*", text.lower())
    amount = float(match[1]) / 100 if match else math.inf
    if not math.isfinite(amount):
        unit = "percentage points, such as 0.5" if kind in DROPS else "percent, such as 5 or 5%"
        raise InputError(f"'{text}' is not a limit of the gate on {kind}: give {unit}, or off")
    return Limit(amount)


Verdict = Literal["ok", "fails", "unclear", "not comparable", "new", "off"]

_EPSILON = 1e-9  # a drop from 0.985 to 0.98 is 0.005, and not a little more
_FILE_KINDS: tuple[Kind, ...] = ("accuracy", "max_abs_diff", "top1_agreement", "bytes")


@dataclass(frozen=True)
class Gate:
    """One figure of both runs, and what is said of it.

    `change` and `limit` are shares of `base`, for accuracies and agreements fractions; `low` to `high` is
    the interval of a measured change, 99 % or more. `of` is what the figure belongs to: `slim`, `fp32`, ...
    `kind` is `file` or `budget` for a thing that is in one of the runs only; `missing`: only the base has it.
    `counted`: what an accuracy or an agreement was counted on, where that is known.
    """

    kind: Kind | Literal["file", "budget"]
    of: str
    verdict: Verdict
    base: float | None = None
    new: float | None = None
    change: float | None = None
    limit: float | None = None
    reason: str = ""
    low: float | None = None
    high: float | None = None
    budget: str = ""
    unit: str = ""
    missing: bool = False
    counted: Counted | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON document."""
        found = asdict(self)
        del found["missing"], found["counted"]  # `reason` says it
        for key in ("base", "new"):  # counts, too, are numbers with a point here
            found[key] = None if found[key] is None else float(found[key])
        return found


def network_gates(base: Part, new: Part, limits: Mapping[Kind, Limit]) -> Iterator[Gate]:
    """The gates on the slim network in torch."""
    tested = _test_images(base), _test_images(new)
    for kind in ("flops", "params", "accuracy"):
        before, after = getattr(base.network.slim, kind), getattr(new.network.slim, kind)
        gate = _figure(kind, "slim", before, after, limits[kind])
        if gate is not None:
            yield _beyond_chance(_within_budget(gate, base, new, limits[kind]), *tested)


def file_gates(base: Part, new: Part, limits: Mapping[Kind, Limit]) -> Iterator[Gate]:
    """The gates on the exported files; a file that is gone is one failure, not one for each figure."""
    for of, entry in base.files.items():
        if of in new.files:
            tested = _test_images(base), _test_images(new)
            yield from _one_file(of, entry, new.files[of], limits, tested)
        else:
            yield gone("file", of, f"the base has {entry.file}")
    for of, entry in new.files.items():
        if of not in base.files:
            yield Gate("file", of, "new", reason=f"{entry.file} is not in the base")


def gone(kind: Kind | Literal["file", "budget"], of: str, what: str) -> Gate:
    """The gate on something that only the base has."""
    return Gate(kind, of, "fails", reason=f"gone: {what}, the new run does not", missing=True)


def _one_file(
    of: str,
    base: OnnxFile,
    new: OnnxFile,
    limits: Mapping[Kind, Limit],
    tested: tuple[int | None, int | None],
) -> Iterator[Gate]:
    compared = base.parity_images, new.parity_images
    for kind in _FILE_KINDS:
        gate = _figure(kind, of, getattr(base, kind), getattr(new, kind), limits[kind])
        if gate is not None:
            yield _beyond_chance(gate, *(compared if kind == "top1_agreement" else tested))


def _test_images(part: Part) -> int | None:
    """Images that the accuracies of a network and of its files are over, where that is recorded."""
    return part.network.finetune.test_images


def _beyond_chance(gate: Gate, base_images: int | None, new_images: int | None) -> Gate:
    """A drop beyond the limit fails only when it is more than chance explains, as far as that is known."""
    drop = gate.kind in DROPS and gate.verdict in ("ok", "fails") and not gate.missing
    if not drop or gate.base is None or gate.new is None:
        return gate
    if not base_images or not new_images:
        return gate
    counted = Counted(gate.base, gate.new, base_images, new_images)
    if gate.verdict == "fails" and counted.least_drop <= 0:
        gate = replace(gate, verdict="unclear", reason=f"within the noise of {counted.images:,} images")
    return replace(gate, counted=counted)


def _figure(kind: Kind, of: str, base: float | None, new: float | None, limit: Limit) -> Gate | None:
    if base is None and new is None:
        return None
    if limit.amount is None:
        return Gate(kind, of, "off", base, new, _change(kind, base, new))
    if base is None:
        return Gate(kind, of, "new", None, new, reason="the base does not have it")
    if new is None:
        reason = "gone: the new run does not have it"
        return Gate(kind, of, "fails", base, limit=limit.amount, reason=reason, missing=True)
    change = _change(kind, base, new)
    verdict: Verdict = "fails" if _worse(kind, base, new) > limit.amount + _EPSILON else "ok"
    if kind == "max_abs_diff" and new <= DIFFERENCE_FLOOR:
        verdict = "ok"
    return Gate(kind, of, verdict, base, new, change, limit.amount)


def _change(kind: Kind, base: float | None, new: float | None) -> float | None:
    if base is None or new is None:
        return None
    if kind in DROPS:
        return new - base
    return new / base - 1 if base else (0.0 if not new else None)


def _worse(kind: Kind, base: float, new: float) -> float:
    change = _change(kind, base, new)
    if change is None:  # from nothing to something is more than any share
        return float("inf")
    return -change if kind in DROPS else change


def _within_budget(gate: Gate, base: Part, new: Part, limit: Limit) -> Gate:
    before, after = (part.network.budget.on(gate.kind) for part in (base, new))
    if not limit.or_budget or gate.verdict != "fails" or gate.new is None or before is None or after is None:
        return gate
    if before.limit is None or before.limit != after.limit or gate.new > before.limit:
        return gate
    return replace(gate, verdict="ok", reason="within the budget of both runs")


# The two sides of a comparison: a summary taken apart by budget, by file, and by where files were timed.


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
