"""The channel structure of a network as one SVG: no scripts, nothing fetched, light and dark.

A row is a layer, a lane a group. Places are computed here; the template puts marks there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from jstc.core import numbers
from jstc.report.groups import by_reason, group_names
from jstc.report.rendering import render

__all__ = ["Group", "Layer", "Line", "Row", "Structure", "draw", "lines", "rows"]

# --- what is drawn: the document of `jstc inspect --json` -------------------------------------------------


class Layer(BaseModel):
    """A module with parameters; `made` says how many of its channels each group of `makes` has."""

    name: str
    kind: str
    rank: int
    width: int
    makes: list[str]
    made: list[int]
    reads: list[str]


class Group(BaseModel):
    """A channel group; `unit` positions are one channel, at least `least` stay, in steps of `step`."""

    name: str
    width: int
    unit: int
    least: int
    step: int
    flops_share: float
    params: int
    layers: list[str]

    @property
    def told(self) -> str:
        """The group in words."""
        size = f"{self.width} channels" if self.unit == 1 else f"{self.width} units of {self.unit} channels"
        return (
            f"{self.name}: {size} (at least {self.least} stay, in steps of {self.step}), "
            f"{numbers.share(self.flops_share, 1)} of the FLOPs, {numbers.count(self.params)} parameters\n"
            f"in {_few(self.layers, 12)}"
        )


class FrozenChannels(BaseModel):
    """Channels of a layer that stay whole, on its `side` `in` or `out`."""

    layer: str
    side: str
    channels: int
    reason: str


class Structure(BaseModel):
    """A network's channels."""

    model: str
    input: list[int]
    flops: float
    params: float
    groups: list[Group]
    layers: list[Layer]
    frozen: list[FrozenChannels]
    flops_share_cuttable: float
    params_share_cuttable: float
    smallest_flops_share: float
    smallest_params_share: float

    @property
    def facts(self) -> list[str]:
        """The network in two lines."""
        cut = [numbers.share(part, 1) for part in (self.flops_share_cuttable, self.params_share_cuttable)]
        least = [numbers.share(part, 1) for part in (self.smallest_flops_share, self.smallest_params_share)]
        reach = f"at the least {least[0]} and {least[1]} remain" if self.groups else "nothing can be cut"
        return [
            f"{numbers.count(self.flops)} FLOPs (one multiply-add is one), "
            f"{numbers.count(self.params)} parameters, input {' x '.join(map(str, self.input))}",
            f"{len(self.groups)} groups; {cut[0]} of the FLOPs and {cut[1]} of the parameters are in "
            f"layers that can be cut; {reach}",
        ]


def _few(names: Sequence[str], shown: int = 4) -> str:
    found = [alike.pattern for alike in group_names(names, enough=shown)]
    more = f" and {len(found) - shown} more" if len(found) > shown else ""
    return ", ".join(found[:shown]) + more


# --- rows and lanes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A layer: the groups that its FLOPs bars stand for are in `begins`, one text line each.

    `top` is the number of text lines above it; `stays_made` and `stays_read` are its frozen channels.
    """

    layer: Layer
    top: int
    begins: tuple[str, ...]
    stays_made: tuple[FrozenChannels, ...]
    stays_read: tuple[FrozenChannels, ...]

    @property
    def height(self) -> int:
        """Height in text lines."""
        return max(1, len(self.begins))


@dataclass(frozen=True)
class Line:
    """A group: its lane, and the numbers of the rows that make and that read its channels."""

    group: Group
    lane: int
    makes: tuple[int, ...]
    reads: tuple[int, ...]

    @property
    def marks(self) -> list[int]:
        """The rows where the group has a mark."""
        return sorted({*self.makes, *self.reads})

    @property
    def span(self) -> tuple[int, int]:
        """First and last row."""
        return self.marks[0], self.marks[-1]


def rows(found: Structure) -> list[Row]:
    """The layers with a weight matrix, in the order of the forward; norms go with the layer before them.

    A layer that is the only place of a group is there too.
    """
    matrices = [layer for layer in found.layers if layer.rank > 1]
    drawn = {name for layer in matrices for name in (*layer.makes, *layer.reads)}
    placed: list[Row] = []
    seen: set[str] = set()
    for layer in (one for one in found.layers if one.rank > 1 or {*one.makes} - drawn):
        begins = dict.fromkeys(name for name in (*layer.makes, *layer.reads) if name not in seen)
        seen |= set(begins)
        stays = [entry for entry in found.frozen if entry.layer == layer.name]
        made, read = (tuple(entry for entry in stays if entry.side == side) for side in ("out", "in"))
        top = placed[-1].top + placed[-1].height if placed else 0
        placed.append(Row(layer, top, tuple(begins), made, read))
    return placed


def lines(found: Structure, placed: Sequence[Row]) -> list[Line]:
    """The groups, each in the first lane that is free from its first row to its last."""
    unplaced = []
    for group in found.groups:
        makes = tuple(at for at, row in enumerate(placed) if group.name in row.layer.makes)
        reads = tuple(at for at, row in enumerate(placed) if group.name in row.layer.reads)
        if makes or reads:
            unplaced.append(Line(group, 0, makes, reads))
    ends: list[int] = []  # the last row that is taken, by lane
    result: list[Line] = []
    for line in sorted(unplaced, key=lambda line: line.span[0]):
        first, last = line.span
        lane = next((index for index, end in enumerate(ends) if end < first), len(ends))
        ends[lane : lane + 1] = [last]
        result.append(Line(line.group, lane, line.makes, line.reads))
    return result


# --- places, in pixels ------------------------------------------------------------------------------------

_LIGHT = ("#0072b2", "#d55e00", "#00875f", "#b3478f", "#a86e00", "#2f8fc4", "#6f52b5", "#8c564b")
_DARK = ("#4aa3df", "#ff9152", "#34c79a", "#e79fc4", "#f2b134", "#7cc8f2", "#b298e6", "#cf9c8c")

_MARGIN, _HEAD, _LINE = 20, 118, 16
_LETTER = 6.7  # width of a letter of the monospaced names, 11 px
_LONGEST = 46  # letters of a name
_BAR, _NUMBER = 130, 62  # the longest bar, and room for the number after it
_LANES = 330  # room for all lanes, as long as they are not too close
_TEXT = 6.1  # width of a letter of the other texts, on average
_REASONS = 6
_LEGEND = (
    ("circle", "fill", "makes the channels of a group"),
    ("circle", "line", "reads them"),
    ("rect", "fill", "makes channels that stay"),
    ("rect", "line", "reads such"),
)


def draw(document: Mapping[str, Any]) -> str:
    """The picture of what `jstc inspect --json` prints, as the text of an SVG file.

    A filled mark makes the channels of a group, a hollow one reads them. What stays whole is grey; reasons
    are the tooltips, and below. Raises pydantic's `ValidationError` for another document.
    """
    found = Structure.model_validate(dict(document))
    return render("structure.svg.j2", place=_Places(found), found=found, light=_LIGHT, dark=_DARK)


@dataclass(frozen=True)
class _Bar:
    """A part of a bar: where, how long, of which class, and its tooltip."""

    x: float
    length: float
    style: str
    told: str


class _Places:
    """Where everything goes. Names are those of the template."""

    margin, head, line = _MARGIN, _HEAD, _LINE

    def __init__(self, found: Structure) -> None:
        self.found = found
        self.rows = rows(found)
        self.lines = lines(found, self.rows)
        names = [min(len(row.layer.name), _LONGEST) for row in self.rows]
        num_lanes = 1 + max((line.lane for line in self.lines), default=0)
        self.gap = max(6.0, min(16.0, _LANES / num_lanes))
        self.radius = min(4.0, self.gap / 2)
        self.grey_x = _MARGIN + _LETTER * max(names, default=0) + 18
        self.lanes_x = self.grey_x + 22
        self.widths_x = self.lanes_x + self.gap * num_lanes + 14
        text_end = _MARGIN + _TEXT * max(map(len, found.facts))
        self.bar = max(_BAR, (text_end - self.widths_x) / 2 - _NUMBER)
        self.shares_x = self.widths_x + self.bar + _NUMBER
        self.end_x = self.shares_x + self.bar + _NUMBER
        self.widest = max((row.layer.width for row in self.rows), default=1)
        self.largest = max((group.flops_share for group in found.groups), default=0) or 1.0
        self.colours = {line.group.name: f"g{i % len(_LIGHT)}" for i, line in enumerate(self.lines)}
        self.groups = {group.name: group for group in found.groups}
        self.bottom = _HEAD + _LINE * sum(row.height for row in self.rows)
        self.width = self.end_x + _MARGIN
        self.height = self.bottom + 24 + _LINE * len(self.reasons) + (28 if self.reasons else 0)

    @cached_property
    def reasons(self) -> list[str]:
        """Why channels stay, one line a reason, and where."""
        frozen = self.found.frozen
        told = []
        for alike in by_reason([entry.reason for entry in frozen]):
            where = _few(list(dict.fromkeys(frozen[at].layer for at in alike)))
            told.append(f"{frozen[alike[0]].reason}: {where}")
        more = len(told) - _REASONS
        return [*told[:_REASONS], f"and {more} more reasons, in the tooltips"] if more > 0 else told

    @property
    def legend(self) -> list[tuple[float, str, str, str]]:
        """Where each mark of the legend is, its shape, its class, its words."""
        x, placed = _MARGIN + 4.0, []
        for shape, style, label in _LEGEND:
            placed.append((x, shape, style, label))
            x += 34 + _TEXT * len(label)
        return placed

    def middle(self, index: int) -> float:
        """The middle of a row."""
        row = self.rows[index]
        return _HEAD + _LINE * (row.top + row.height / 2)

    def lane(self, line: Line) -> float:
        """The middle of a group's lane."""
        return self.lanes_x + self.gap * (line.lane + 0.5)

    def total(self, row: Row) -> float:
        """How long the bar of a layer's width is."""
        return self.bar * row.layer.width / self.widest

    def parts(self, row: Row) -> list[_Bar]:
        """The bar of a layer's width: what each group has of it, and what stays."""
        total, x, found = self.total(row), self.widths_x, []
        for name, size in zip(row.layer.makes, row.layer.made, strict=True):
            part = total * min(1.0, size / row.layer.width)
            found.append(_Bar(x, part, self.colours[name], self.groups[name].told))
            x += part
        if not row.layer.makes or row.stays_made:
            told = "\n".join(dict.fromkeys(entry.reason for entry in row.stays_made)) or "stay whole"
            found.append(_Bar(x, self.widths_x + total - x, "grey", told))
        return found

    def share(self, name: str) -> _Bar:
        """The bar of a group's FLOPs."""
        group = self.groups[name]
        length = self.bar * group.flops_share / self.largest
        return _Bar(self.shares_x, length, self.colours[name], group.told)

    def stays(self, row: Row) -> list[tuple[float, str, str]]:
        """The grey marks of a row: their side, their class, their tooltip."""
        found: list[tuple[float, str, str]] = []
        for entries, style, verb in ((row.stays_read, "line", "reads"), (row.stays_made, "fill", "makes")):
            if entries:
                side = 9 if style == "line" else 6 if row.stays_read else 8
                told = (f"{verb} {one.channels} channels that stay: {one.reason}" for one in entries)
                found.append((side, style, "\n".join(told)))
        return found

    def short_name(self, name: str) -> str:
        """The end of a name says most, the beginning where it is."""
        if len(name) <= _LONGEST:
            return name
        return f"{name[: _LONGEST // 3]}…{name[-(_LONGEST - _LONGEST // 3 - 1) :]}"

    def short_reason(self, reason: str) -> str:
        """As much of a reason as there is room for."""
        limit = int((self.width - 2 * _MARGIN) / _TEXT)
        return reason if len(reason) <= limit else reason[: limit - 1] + "…"
