"""The measured speed-ups as bars, one panel for each provider, batch size and number of threads."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jstc.report import figures
from jstc.report.tables import ideal_speedup, is_compared, is_target, network_files, share_of_ideal, slim_rows

__all__ = ["Bar", "Panel", "columns", "panels", "sweep_panels"]

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
        ratio = figures.ratio(self.row["speedup_vs_target"])
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
