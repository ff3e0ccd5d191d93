"""Where the time of the measured files goes, operator by operator, where a profile was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jstc.report import figures
from jstc.report.summary import read

__all__ = ["Operator", "Profile", "profiles"]

_MOST = 8  # operators; the rest is one row


@dataclass(frozen=True)
class Operator:
    """A kind of operator: its time in all, and that as a part of the longest beside it."""

    name: str
    nodes: int
    milliseconds: float
    share: float
    place: float


@dataclass(frozen=True)
class Profile:
    """One file on one provider at one batch size."""

    title: str
    total: str
    remark: str
    operators: tuple[Operator, ...]


def profiles(run: Path) -> list[Profile]:
    """What bench/profile.json says; nothing where there is none."""
    found = [entry for entry in read(run, "bench/profile.json").get("profiles") or [] if entry["operators"]]
    longest: dict[tuple[Any, ...], float] = {}
    for entry in found:
        longest[_place(entry)] = max(longest.get(_place(entry), 0.0), entry["operators"][0]["ms"])
    return [_profile(entry, longest[_place(entry)] or 1.0) for entry in found]


def _place(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return entry["provider"], entry["batch"]


def _profile(entry: Mapping[str, Any], longest: float) -> Profile:
    shown = _shortened(entry["operators"])
    operators = [
        Operator(one["operator"], one["nodes"], one["ms"], one["share"], one["ms"] / longest) for one in shown
    ]
    title = f"{entry['file']}, {entry['provider']}, batch {entry['batch']}"
    total = figures.milliseconds(entry.get("nodes_ms"))
    return Profile(title, total, entry.get("remark") or "", tuple(operators))


def _shortened(operators: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    if len(operators) <= _MOST:
        return list(operators)
    rest = operators[_MOST - 1 :]
    summed = {key: sum(one[key] for one in rest) for key in ("nodes", "ms", "share")}
    return [*operators[: _MOST - 1], {"operator": f"{len(rest)} other kinds", **summed}]
