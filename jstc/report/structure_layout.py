"""Where things go in the picture of a network's channels: a row a layer, a lane a group. No drawing here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Line", "Row", "lines", "rows"]

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """A layer: the group that its FLOPs bar stands for is in `begins`, one text line each.

    `top` is the number of text lines above it; `stays_made` and `stays_read` are its frozen channels.
    """

    layer: Entry
    top: int
    begins: tuple[str, ...]
    stays_made: tuple[Entry, ...]
    stays_read: tuple[Entry, ...]

    @property
    def height(self) -> int:
        """In text lines."""
        return max(1, len(self.begins))


@dataclass(frozen=True)
class Line:
    """A group: its lane, and the numbers of the rows that make and that read its channels."""

    group: Entry
    lane: int
    makes: tuple[int, ...]
    reads: tuple[int, ...]

    @property
    def span(self) -> tuple[int, int]:
        """First and last row."""
        both = (*self.makes, *self.reads)
        return min(both), max(both)


def rows(found: Entry) -> list[Row]:
    """The layers with a weight matrix, in the order of the forward; norms go with the layer before them.

    A layer that is the only place of a group is there too.
    """
    matrices = [layer for layer in found["layers"] if layer["rank"] > 1]
    drawn = {name for layer in matrices for name in (*layer["makes"], *layer["reads"])}
    shown = [layer for layer in found["layers"] if layer["rank"] > 1 or {*layer["makes"]} - drawn]
    placed: list[Row] = []
    seen: set[str] = set()
    top = 0
    for layer in shown:
        begins = tuple(name for name in (*layer["makes"], *layer["reads"]) if name not in seen)
        begins = tuple(dict.fromkeys(begins))
        seen |= set(begins)
        stays = [entry for entry in found["frozen"] if entry["layer"] == layer["name"]]
        made, read = (tuple(entry for entry in stays if entry["side"] == side) for side in ("out", "in"))
        placed.append(Row(layer, top, begins, made, read))
        top += placed[-1].height
    return placed


def lines(found: Entry, placed: Sequence[Row]) -> list[Line]:
    """The groups, each in the first lane that is free from its first row to its last."""
    ends: list[int] = []  # the last row that is taken, by lane
    result: list[Line] = []
    at = {group["name"]: _rows_of(group, placed) for group in found["groups"]}
    for group in sorted((g for g in found["groups"] if at[g["name"]]), key=lambda g: at[g["name"]][0]):
        first, last = at[group["name"]][0], at[group["name"]][-1]
        lane = next((index for index, end in enumerate(ends) if end < first), len(ends))
        ends[lane : lane + 1] = [last]
        makes, reads = (_rows_with(group, placed, side) for side in ("makes", "reads"))
        result.append(Line(group, lane, makes, reads))
    return result


def _rows_of(group: Entry, placed: Sequence[Row]) -> list[int]:
    return sorted({*_rows_with(group, placed, "makes"), *_rows_with(group, placed, "reads")})


def _rows_with(group: Entry, placed: Sequence[Row], side: str) -> tuple[int, ...]:
    return tuple(index for index, row in enumerate(placed) if group["name"] in row.layer[side])
