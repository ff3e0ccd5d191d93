"""The few figures that are read first, large."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jstc.report import figures
from jstc.report.tables import network_files, slim_rows, target_bytes, target_row

__all__ = ["Tile", "tiles"]

_MOST_SPEEDS = 2


@dataclass(frozen=True)
class Tile:
    """A figure of the slim network, with what it is to be compared with."""

    label: str
    big: str
    lines: tuple[str, ...]


def tiles(summary: dict[str, Any]) -> list[Tile]:
    """FLOPs, parameters, accuracy, the file's size, and the first speed-ups; without what is not known."""
    found = [_count(summary, "flops", "FLOPs"), _count(summary, "params", "Parameters"), _accuracy(summary)]
    found += [_size(summary), *(_speed(summary, row) for row in _shown(slim_rows(summary)))]
    return [tile for tile in found if tile is not None]


def _shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first of each provider; of a single provider, the first ones."""
    first = {row["provider"]: row for row in reversed(rows)}
    found = [row for row in rows if first[row["provider"]] is row]
    return (found if len(found) > 1 else rows)[:_MOST_SPEEDS]


def _count(summary: dict[str, Any], key: str, label: str) -> Tile | None:
    slim, target = summary["slim"][key], summary["target"][key]
    if slim is None:
        return None
    return Tile(label, figures.count(slim), (f"{figures.share(slim, target)} of {figures.count(target)}",))


def _accuracy(summary: dict[str, Any]) -> Tile | None:
    slim, target = summary["slim"]["accuracy"], summary["target"]["accuracy"]
    if slim is None:
        return None
    lines = (figures.points(slim, target), f"target {figures.percent(target)}") if target is not None else ()
    return Tile("Top-1, test split", figures.percent(slim), lines)


def _size(summary: dict[str, Any]) -> Tile | None:
    if not network_files(summary):
        return None
    file = network_files(summary)[0]
    before = target_bytes(summary)
    lines = (f"{figures.share(file['bytes'], before)} of {figures.bytesize(before)}",) if before else ()
    return Tile(f"ONNX file, {file['precision']}", figures.bytesize(file["bytes"]), lines)


def _speed(summary: dict[str, Any], row: Mapping[str, Any]) -> Tile:
    doubt = row.get("verdict", "gain")
    before = target_row(summary, dict(row)).get("median_ms")
    lines = [figures.milliseconds(row["median_ms"]), f"target {figures.milliseconds(before)}"]
    lines += {"no gain": ["no gain"], "unclear": ["within the noise"]}.get(doubt, [])
    label = f"Speed, {row['provider']}, batch {row['batch']}"
    return Tile(label, figures.ratio(row["speedup_vs_target"]), tuple(lines))
