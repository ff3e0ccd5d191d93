"""What was cut where: the rows of the picture, and the list of all groups."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jstc.core import numbers
from jstc.report.plots import widths
from jstc.report.summary import read
from jstc.report.tables import ideal_speedup, is_compared, is_target, network_files, share_of_ideal, slim_rows

__all__ = [
    "Bar",
    "Cuts",
    "Operator",
    "Panel",
    "Profile",
    "artifacts",
    "columns",
    "cuts",
    "environment",
    "panels",
    "profiles",
    "seconds",
    "sweep_panels",
]


@dataclass(frozen=True)
class Cuts:
    """Rows for the picture, in the order of the network; `largest` is the largest share of FLOPs in it."""

    rows: list[widths.Row]
    largest: float
    kept: int
    width: int
    joined: bool
    after: bool


def cuts(summary: dict[str, Any]) -> Cuts | None:
    """The groups, those alike in one row where they are many; None without groups or without a plan."""
    groups = widths.planned(summary)
    if not groups:
        return None
    rows = widths.table_rows(groups, widths.flops_scale(summary))
    return Cuts(
        rows,
        max(max(row.before, row.after or 0.0) for row in rows) or 1.0,
        sum(group["kept"] for group in groups),
        sum(group["width"] for group in groups),
        len(rows) < len(groups),
        any(row.after is not None for row in rows),
    )


# Lists of facts: the machine, the software, and what a run is made again with.

_LABELS = {
    "cpu": "CPU", "cores": "cores", "memory_gb": "memory", "gpus": "GPU", "driver": "driver",
    "os": "operating system", "python": "Python", "providers": "onnxruntime providers",
    "packages": "packages",
}  # fmt: skip


def environment(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The machine and the software of the measurements, whatever is on record of them."""
    known = [key for key in _LABELS if key in found]
    others = [key for key in found if key not in _LABELS]
    told = ((_LABELS.get(key, key.replace("_", " ")), _text(key, found[key])) for key in (*known, *others))
    return [(label, text) for label, text in told if text]


def seconds(found: Mapping[str, float | None]) -> list[tuple[str, str]]:
    """How long the stages took."""
    return [(name, numbers.duration(taken)) for name, taken in found.items() if taken is not None]


def _text(key: str, value: object) -> str:
    if isinstance(value, Mapping):
        if "name" in value:
            rest = ", ".join(
                f"{key} {one}" for key, one in value.items() if key != "name" and one is not None
            )
            return f"{value['name']} ({rest})" if rest else str(value["name"])
        between = ": " if key == "providers" else " "
        return ", ".join(f"{name}{between}{_text(str(name), one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(_text(key, one) for one in value) or ("none found" if key == "gpus" else "")
    if value is None:
        return "not known"
    return f"{value} GB" if key == "memory_gb" else str(value)


def artifacts(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The files that leave the run, with their SHA-256."""
    stages = manifest.get("stages") or {}
    found = [(stages.get(name) or {}).get("artifacts") or {} for name in ("slim", "export")]
    named = ((str(path), _sha256(entry)) for part in found for path, entry in part.items())
    return [(path, digest) for path, digest in named if digest]


def _sha256(entry: object) -> str:
    digest = entry.get("sha256") if isinstance(entry, Mapping) else entry
    return digest if isinstance(digest, str) else ""


# Where the time of the measured files goes, operator by operator, where a profile was asked for.

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
        longest[_profile_place(entry)] = max(
            longest.get(_profile_place(entry), 0.0), entry["operators"][0]["ms"]
        )
    return [_profile(entry, longest[_profile_place(entry)] or 1.0) for entry in found]


def _profile_place(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return entry["provider"], entry["batch"]


def _profile(entry: Mapping[str, Any], longest: float) -> Profile:
    shown = _shortened(entry["operators"])
    operators = [
        Operator(one["operator"], one["nodes"], one["ms"], one["share"], one["ms"] / longest) for one in shown
    ]
    title = f"{entry['file']}, {entry['provider']}, batch {entry['batch']}"
    total = numbers.milliseconds(entry.get("nodes_ms"))
    return Profile(title, total, entry.get("remark") or "", tuple(operators))


def _shortened(operators: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    if len(operators) <= _MOST:
        return list(operators)
    rest = operators[_MOST - 1 :]
    summed = {key: sum(one[key] for one in rest) for key in ("nodes", "ms", "share")}
    return [*operators[: _MOST - 1], {"operator": f"{len(rest)} other kinds", **summed}]


# The measured speed-ups as bars, one panel for each provider, batch size and number of threads.

_ROOM = 1.04  # of the longest bar

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Bar:
    """A speed-up with its interval, and what the FLOPs alone suggest; places in percent of the panel."""

    label: str
    row: Row
    ideal_ratio: float | None
    scale: float

    @property
    def place(self) -> float:
        """Where the bar ends."""
        return float(self.scale * self.row["speedup_vs_target"])

    @property
    def interval(self) -> tuple[float, float] | None:
        """From where to where the line over the bar goes."""
        low, high = self.row.get("ratio_low"), self.row.get("ratio_high")
        return None if low is None or high is None else (self.scale * low, self.scale * high)

    @property
    def ideal(self) -> float | None:
        """Where the mark of the ideal stands."""
        return None if self.ideal_ratio is None else self.scale * self.ideal_ratio

    @property
    def ideal_share(self) -> float | None:
        """The part of the ideal that was reached."""
        return share_of_ideal(self.row, self.ideal_ratio)

    @property
    def told(self) -> str:
        """The bar in words."""
        ratio = numbers.ratio(self.row["speedup_vs_target"])
        if self.interval is None:
            return ratio
        return f"{ratio}, 95 % interval {self.row['ratio_low']:.2f} to {self.row['ratio_high']:.2f}"


@dataclass(frozen=True)
class Panel:
    """Bars of one provider and batch size; `one` is the place of the target network's line."""

    title: str
    target_ms: float | None
    bars: tuple[Bar, ...]
    one: float


def panels(summary: dict[str, Any]) -> list[Panel]:
    """Every file of a run beside its target network."""
    names = {file["file"]: file["precision"] for file in network_files(summary)}
    ideal = ideal_speedup(summary)
    rows = [row for row in summary["bench"] if is_compared(summary, row)]
    found = [(names.get(row["file"], row["file"]), row, ideal) for row in rows]
    return _arranged(found, [row for row in summary["bench"] if is_target(summary, row)])


def sweep_panels(summary: dict[str, Any]) -> list[Panel]:
    """The first file of every budget beside the target network."""
    found, targets = [], []
    for budget in summary["sweep"]:
        run = budget | {"target": summary["target"]}
        found += [(budget["label"], row, ideal_speedup(run)) for row in slim_rows(run)]
        targets += [row for row in budget["bench"] if is_target(run, row)]
    return _arranged(found, targets)


def columns(rows: Iterable[Row], *names: str) -> list[str]:
    """Those of `names` that some row has a figure for."""
    rows = list(rows)
    return [name for name in names if any(row.get(name) is not None for row in rows)]


def _arranged(found: Sequence[tuple[str, Row, float | None]], targets: Sequence[Row]) -> list[Panel]:
    """Panels in the order of the rows, on one scale."""
    longest = [
        max(row.get("ratio_high") or 1.0, row["speedup_vs_target"], ideal or 1.0) for _, row, ideal in found
    ]
    scale = 100 / (_ROOM * max(longest, default=1.0))
    several = len({row.get("threads") for _, row, _ in found}) > 1
    return [
        Panel(
            _title(place, several),
            _latency([row for row in targets if _place(row) == place]),
            tuple(Bar(label, row, ideal, scale) for label, row, ideal in found if _place(row) == place),
            scale,
        )
        for place in dict.fromkeys(_place(row) for _, row, _ in found)
    ]


def _place(row: Row) -> tuple[Any, ...]:
    return row["provider"], row["batch"], row.get("threads")


def _title(place: Sequence[Any], several: bool) -> str:
    provider, batch, threads = place
    told = f", {threads or 'all'} thread{'s' * (threads != 1)}" if several else ""
    return f"{provider}, batch {batch}{told}"


def _latency(rows: Sequence[Row]) -> float | None:
    # Every budget is timed beside the target network: the middle one of its latencies.
    return statistics.median(row["median_ms"] for row in rows) if rows else None
