"""The measured speed-ups as bars, one panel for each provider, batch size and number of threads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jstc.report import figures
from jstc.report.tables import ideal_speedup, is_target, network_files

__all__ = ["Bar", "Panel", "columns", "ideal_share", "panels"]

_ROOM = 1.04  # of the longest bar


@dataclass(frozen=True)
class Bar:
    """A file's speed-up; `place`, `low`, `high` in percent of the width of the panel."""

    label: str
    row: Mapping[str, Any]
    place: float
    low: float | None
    high: float | None
    ideal_share: float | None

    @property
    def told(self) -> str:
        """The bar in words."""
        ratio = figures.ratio(self.row["speedup_vs_target"])
        if self.low is None:
            return ratio
        return f"{ratio}, 95 % interval {self.row['ratio_low']:.2f} to {self.row['ratio_high']:.2f}"


@dataclass(frozen=True)
class Panel:
    """Bars that were measured side by side; `one` and `ideal` are the places of the two lines."""

    title: str
    target_ms: float | None
    bars: tuple[Bar, ...]
    one: float
    ideal: float | None


def panels(summary: dict[str, Any]) -> list[Panel]:
    """All panels, on one scale."""
    rows = summary["bench"]
    ideal = ideal_speedup(summary)
    longest = max([row.get("ratio_high") or row["speedup_vs_target"] for row in rows] + [ideal or 1.0, 1.0])
    scale = 100 / (longest * _ROOM)
    places = dict.fromkeys(_place(row) for row in rows)
    several = len({row.get("threads") for row in rows}) > 1
    found = []
    for place in places:
        here = [row for row in rows if _place(row) == place]
        bars = [_bar(row, summary, scale) for row in here if not is_target(summary, row)]
        latency = next((row["median_ms"] for row in here if is_target(summary, row)), None)
        told = _title(place, several)
        found.append(Panel(told, latency, tuple(bars), scale, ideal * scale if ideal else None))
    return [panel for panel in found if panel.bars]


def ideal_share(summary: dict[str, Any], row: Mapping[str, Any]) -> float | None:
    """How much of the speed-up that the FLOPs alone suggest was reached; None for the target itself."""
    if is_target(summary, dict(row)):
        return None
    ideal = ideal_speedup(summary)
    given: float | None = row.get("ideal_share")
    return given if given is not None else row["speedup_vs_target"] / ideal if ideal else None


def columns(rows: Iterable[Mapping[str, Any]], *names: str) -> list[str]:
    """Those of `names` that some row has a figure for."""
    rows = list(rows)
    return [name for name in names if any(row.get(name) is not None for row in rows)]


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["provider"], row["batch"], row.get("threads")


def _title(place: Sequence[Any], several: bool) -> str:
    provider, batch, threads = place
    told = f", {threads or 'all'} thread{'s' * (threads != 1)}" if several else ""
    return f"{provider}, batch {batch}{told}"


def _bar(row: Mapping[str, Any], summary: dict[str, Any], scale: float) -> Bar:
    names = {file["file"]: file["precision"] for file in network_files(summary)}
    low, high = (None if row.get(key) is None else scale * row[key] for key in ("ratio_low", "ratio_high"))
    return Bar(
        names.get(row["file"], row["file"]),
        row,
        scale * row["speedup_vs_target"],
        low,
        high,
        ideal_share(summary, row),
    )
