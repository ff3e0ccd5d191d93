"""The gate on latency: ratios only, and no failure without confidence.

Both files timed here, interleaved in one process, is the ratio proper. Where the files are not at hand, the
speed-ups against the same target network that both runs recorded stand in; these differ by several percent
from process to process even for the same file, so that only large slowdowns can be told from them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from jstc.gate.gates import Gate, Limit, Part, Place, Side, Verdict, gone
from jstc.ort.statistics import Change, change_of_recorded, change_of_repeats
from jstc.summary import Timing

__all__ = ["Measure", "Measuring", "Timed", "machine_differs", "measured_gates", "recorded_gates"]

_MACHINE = ("cpu", "cores", "cpu_limit", "gpus")


class Timed(NamedTuple):
    """Medians of two files, timed in turns in one process; `ratio`: median of second / first."""

    first_ms: float
    second_ms: float
    ratio: float


class Measure(Protocol):
    """Opens two files anew, and times them in turns."""

    def __call__(self, first: Path, second: Path, place: Place, *, effort: int) -> Timed:
        """Takes `effort` times as long as it must. Raises `InputError` when a file cannot be run."""


@dataclass(frozen=True)
class Measuring:
    """How files are timed here.

    `unusable`: why a provider does not work on this machine, or None. A repeat times the two files twice,
    with either first; `least` are made, more and longer ones, up to `most`, while the verdict is unclear, and
    no fewer than `to_fail` before it is a failure. `done` is told of every gate.
    """

    measure: Measure
    unusable: Callable[[str], str | None]
    done: Callable[[Gate], None]
    least: int = 4
    to_fail: int = 8
    most: int = 14


def recorded_gates(base: Part, new: Part, limit: Limit, *, differs: str) -> Iterator[Gate]:
    """Gates on the speed-ups that both runs recorded; `differs`: why these cannot be compared, if so."""
    for (of, place), before in base.timings.items():
        if of in base.files and of not in new.files:
            continue  # the file is gone, and said to be
        after = new.timings.get((of, place))
        yield replace(_recorded(before, after, limit.amount, differs), of=_name(of, place))
    for (of, place), row in new.timings.items():
        if (of, place) not in base.timings and of in base.files:
            yield Gate("latency", _name(of, place), "new", new=row.speedup, unit="x")


def measured_gates(
    files: Mapping[tuple[str, Place], tuple[Path, Path]], limit: Limit, how: Measuring
) -> Iterator[Gate]:
    """Time each pair (base, new) here."""
    for (of, place), (before, after) in files.items():
        gate = Gate("latency", _name(of, place), "off")
        if limit.amount is not None:
            reason = how.unusable(place.provider)
            if reason is None:
                gate = replace(_measured(before, after, place, limit.amount, how), of=gate.of)
            else:
                gate = replace(gate, verdict="not comparable", reason=f"not measured: {reason}")
        how.done(gate)
        yield gate


def machine_differs(base: Side, new: Side) -> str:
    """Why speed-ups of the two runs say nothing about each other; empty when they do."""
    ours, theirs = base.summary.environment, new.summary.environment
    for key in _MACHINE:
        if key in ours and key in theirs:
            before, after = _short(ours[key]), _short(theirs[key])
            if before != after:
                return f"measured on other machines ({key}: {before}; {after})"
    one, other = _runtime(ours), _runtime(theirs)
    if one and other and one != other:
        return f"measured with other versions of onnxruntime ({one}; {other})"
    return ""


def _measured(base: Path, new: Path, place: Place, limit: float, how: Measuring) -> Gate:
    ratios: list[float] = []
    times: list[tuple[float, float]] = []
    gate = Gate("latency", "", "unclear")
    while len(ratios) < how.least or (len(ratios) < how.most and gate.verdict == "unclear"):
        # Whoever runs second finds other things in the caches: with both orders that cancels.
        effort = 1 if len(ratios) < how.least else 2 if len(ratios) < how.to_fail else 4
        one, other = (how.measure(*pair, place, effort=effort) for pair in ((base, new), (new, base)))
        ratios.append((one.ratio / other.ratio) ** 0.5)
        times += [(one.first_ms, one.second_ms), (other.second_ms, other.first_ms)]
        if len(ratios) >= how.least:
            found = _found(ratios, limit, how.to_fail)
            gate = _gate(found, limit, *_apart(times, found.change), unit="ms")
            gate = replace(gate, reason=f"{gate.reason}, {len(ratios)} repeats in turns, here")
    return gate


def _apart(times: Sequence[tuple[float, float]], change: float) -> tuple[float, float]:
    """Times of both files, as far apart as they were found to be.

    Two medians of all repeats would be of calmer and busier moments, and have another quotient.
    """
    before, after = (statistics.median(column) for column in zip(*times, strict=True))
    middle, factor = (before * after) ** 0.5, (1 + change) ** 0.5
    return middle / factor, middle * factor


def _found(ratios: Sequence[float], limit: float, to_fail: int) -> Change:
    # Looking again and again finds something in the end: a failure takes more confidence, and more repeats.
    found = change_of_repeats(ratios, confidence=0.99)
    if found.high <= limit:
        return found
    found = change_of_repeats(ratios, confidence=0.999)
    return found if len(ratios) >= to_fail else replace(found, low=min(found.low, limit))


def _recorded(base: Timing, new: Timing | None, limit: float | None, differs: str) -> Gate:
    if limit is None:
        return Gate("latency", "", "off")
    if new is None:
        return gone("latency", "", "the base was timed there")
    if base.speedup is None or new.speedup is None:
        differs = "timed without the target network"
    if differs:
        return Gate("latency", "", "not comparable", base.speedup, new.speedup, reason=differs, unit="x")
    before, after = _with_interval(base), _with_interval(new)
    gate = _gate(change_of_recorded(before, after), limit, before[0], after[0], unit="x")
    return replace(gate, reason=f"{gate.reason}, from recorded speed-ups")


def _with_interval(row: Timing) -> tuple[float, float, float]:
    value = row.speedup
    assert value is not None
    return value, min(row.ratio_low or value, value), max(row.ratio_high or value, value)


def _gate(found: Change, limit: float, base: float, new: float, *, unit: str) -> Gate:
    return Gate(
        "latency",
        "",
        _verdict(found, limit),
        base,
        new,
        found.change,
        limit,
        f"{100 * found.confidence:g} % interval {100 * found.low:+.1f} to {100 * found.high:+.1f} %",
        found.low,
        found.high,
        unit=unit,
    )


def _verdict(found: Change, limit: float) -> Verdict:
    if found.low > limit:
        return "fails"
    return "ok" if found.high <= limit else "unclear"


def _name(of: str, place: Place) -> str:
    threads = f", {place.threads} threads" if place.threads else ""
    return f"{of}, {place.provider} batch {place.batch}{threads}"


def _runtime(environment: Mapping[str, Any]) -> str | None:
    packages = environment.get("packages")
    if not isinstance(packages, Mapping):
        return None
    found = packages.get("onnxruntime-gpu") or packages.get("onnxruntime")
    return None if found is None else _short(found)


def _short(value: Any) -> str:
    if isinstance(value, list):
        names = [str(item.get("name", item) if isinstance(item, dict) else item) for item in value]
        value = ", ".join(names) or "none"
    return " ".join(str(value).split())
