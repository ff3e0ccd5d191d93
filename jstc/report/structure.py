"""The channel structure of a network as one SVG: no scripts, nothing fetched, light and dark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from jstc.core import numbers
from jstc.report.tables import by_reason, collapse

__all__ = ["Line", "Row", "draw", "lines", "rows"]

# Where things go in the picture of a network's channels: a row a layer, a lane a group. No drawing here.

LayoutEntry = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """A layer: the group that its FLOPs bar stands for is in `begins`, one text line each.

    `top` is the number of text lines above it; `stays_made` and `stays_read` are its frozen channels.
    """

    layer: LayoutEntry
    top: int
    begins: tuple[str, ...]
    stays_made: tuple[LayoutEntry, ...]
    stays_read: tuple[LayoutEntry, ...]

    @property
    def height(self) -> int:
        """In text lines."""
        return max(1, len(self.begins))


@dataclass(frozen=True)
class Line:
    """A group: its lane, and the numbers of the rows that make and that read its channels."""

    group: LayoutEntry
    lane: int
    makes: tuple[int, ...]
    reads: tuple[int, ...]

    @property
    def span(self) -> tuple[int, int]:
        """First and last row."""
        both = (*self.makes, *self.reads)
        return min(both), max(both)


def rows(found: LayoutEntry) -> list[Row]:
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


def lines(found: LayoutEntry, placed: Sequence[Row]) -> list[Line]:
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


def _rows_of(group: LayoutEntry, placed: Sequence[Row]) -> list[int]:
    return sorted({*_rows_with(group, placed, "makes"), *_rows_with(group, placed, "reads")})


def _rows_with(group: LayoutEntry, placed: Sequence[Row], side: str) -> tuple[int, ...]:
    return tuple(index for index, row in enumerate(placed) if group["name"] in row.layer[side])


Entry = Mapping[str, Any]

_LIGHT = ("#0072b2", "#d55e00", "#00875f", "#b3478f", "#a86e00", "#2f8fc4", "#6f52b5", "#8c564b")
_DARK = ("#4aa3df", "#ff9152", "#34c79a", "#e79fc4", "#f2b134", "#7cc8f2", "#b298e6", "#cf9c8c")

_MARGIN, _HEAD, _LINE = 20, 118, 16
_LETTER = 6.7  # width of a letter of the monospaced names, 11 px
_LONGEST = 46  # letters of a name
_BAR, _NUMBER = 130, 62  # the longest bar, and room for the number after it
_LANES = 330  # room for all lanes, as long as they are not too close
_TEXT = 6.1  # width of a letter of the other texts, on average
_REASONS = 6


def draw(found: Entry) -> str:
    """The picture of what `jstc inspect --json` prints, as the text of an SVG file.

    Rows are layers in the order of the forward, vertical lines groups; a filled mark makes the channels of a
    group, a hollow one reads them. What stays whole is grey; reasons are the tooltips, and below.
    """
    return _Picture(found).text()


class _Picture:
    def __init__(self, found: Entry) -> None:
        self.found = found
        self.rows = rows(found)
        self.lines = lines(found, self.rows)
        names = [min(len(row.layer["name"]), _LONGEST) for row in self.rows]
        num_lanes = 1 + max((line.lane for line in self.lines), default=0)
        self.gap = max(6.0, min(16.0, _LANES / num_lanes))
        self.grey_x = _MARGIN + _LETTER * max(names, default=0) + 18
        self.lanes_x = self.grey_x + 22
        self.widths_x = self.lanes_x + self.gap * num_lanes + 14
        text_end = _MARGIN + _TEXT * max(map(len, self._facts()))
        self.bar = max(_BAR, (text_end - self.widths_x) / 2 - _NUMBER)
        self.shares_x = self.widths_x + self.bar + _NUMBER
        self.end_x = self.shares_x + self.bar + _NUMBER
        self.widest = max((row.layer["width"] for row in self.rows), default=1)
        self.largest = max((group["flops_share"] for group in found["groups"]), default=0) or 1.0
        self.colours = {line.group["name"]: f"g{i % len(_LIGHT)}" for i, line in enumerate(self.lines)}
        self.groups = {group["name"]: group for group in found["groups"]}

    # --- the whole ------------------------------------------------------------------------------------

    def text(self) -> str:
        reasons = self._reasons()
        bottom = _HEAD + _LINE * sum(row.height for row in self.rows)
        width = self.end_x + _MARGIN
        height = bottom + 24 + _LINE * len(reasons) + (28 if reasons else 0)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="jstc" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
            f"<title>{escape(self.found['model'])}: which channels belong together</title>",
            f"<style>{_style()}</style>",
            '<rect class="back" width="100%" height="100%"/>',
            *self._head(),
            *(part for index, row in enumerate(self.rows) for part in self._row(index, row)),
            *(part for line in self.lines for part in self._line(line)),
            *_below(reasons, bottom, limit=int((width - 2 * _MARGIN) / _TEXT)),
            "</svg>",
        ]
        return "\n".join(parts) + "\n"

    def _head(self) -> Iterator[str]:
        yield _text(_MARGIN, 30, self.found["model"], "big")
        for number, fact in enumerate(self._facts()):
            yield _text(_MARGIN, 50 + _LINE * number, fact, "soft")
        x, y = _MARGIN + 4.0, 98 - 11
        for mark, label in (
            ('<circle class="g0 fill" cx="{x}" cy="{y}" r="4"/>', "makes the channels of a group"),
            ('<circle class="g0 line" cx="{x}" cy="{y}" r="3.3"/>', "reads them"),
            ('<rect class="grey fill" x="{l}" y="{t}" width="8" height="8"/>', "makes channels that stay"),
            ('<rect class="grey line" x="{l}" y="{t}" width="7" height="7"/>', "reads such"),
        ):
            yield mark.format(x=x, y=y, l=x - 4, t=y - 4)
            yield _text(x + 10, y + 4, label, "soft")
            x += 34 + _TEXT * len(label)
        heads = ((_MARGIN, "layer"), (self.widths_x, "channels made"), (self.shares_x, "FLOPs of the group"))
        yield from (_text(at, _HEAD - 7, label, "head") for at, label in heads)

    def _facts(self) -> list[str]:
        found = self.found
        size = " x ".join(map(str, found["input"]))
        cut = [numbers.share(found[f"{name}_share_cuttable"], 1) for name in ("flops", "params")]
        least = [numbers.share(found[f"smallest_{name}_share"], 1) for name in ("flops", "params")]
        reach = f"at the least {least[0]} and {least[1]} remain" if found["groups"] else "nothing can be cut"
        return [
            f"{numbers.count(found['flops'])} FLOPs (one multiply-add is one), "
            f"{numbers.count(found['params'])} parameters, input {size}",
            f"{len(found['groups'])} groups; {cut[0]} of the FLOPs and {cut[1]} of the parameters are in "
            f"layers that can be cut; {reach}",
        ]

    # --- rows -----------------------------------------------------------------------------------------

    def _row(self, index: int, row: Row) -> Iterator[str]:
        top, layer = _HEAD + _LINE * row.top, row.layer
        middle = top + _LINE * row.height / 2
        if index % 2:
            width, height = self.end_x - _MARGIN + 8, _LINE * row.height
            yield f'<rect class="stripe" x="{_MARGIN - 4}" y="{top}" width="{width:.1f}" height="{height}"/>'
        label = f"{layer['name']}: {layer['kind']}, {layer['width']} channels"
        yield _titled(label, _text(_MARGIN, middle + 4, _short(layer["name"], _LONGEST), "name"))
        yield from self._grey_marks(row, middle)
        yield from self._width_bar(row, middle)
        for number, name in enumerate(row.begins):
            share = self.groups[name]["flops_share"]
            y, length = top + _LINE * (number + 0.5), self.bar * share / self.largest
            yield _titled(
                _told(self.groups[name]),
                _bar(self.shares_x, y, length, f"{self.colours[name]} fill")
                + _text(self.shares_x + length + 6, y + 4, numbers.share(share, 1), "number"),
            )

    def _grey_marks(self, row: Row, y: float) -> Iterator[str]:
        x = self.grey_x
        for entries, size, style, verb in (
            (row.stays_read, 9, "line", "reads"),
            (row.stays_made, 8, "fill", "makes"),
        ):
            if entries:
                told = "\n".join(f"{verb} {e['channels']} channels that stay: {e['reason']}" for e in entries)
                side = 6 if style == "fill" and row.stays_read else size
                yield _titled(
                    told,
                    f'<rect class="grey {style}" x="{x - side / 2:.1f}" y="{y - side / 2:.1f}" '
                    f'width="{side}" height="{side}"/>',
                )

    def _width_bar(self, row: Row, y: float) -> Iterator[str]:
        total = row.layer["width"]
        length = self.bar * total / self.widest
        made = [self.groups[name] for name in row.layer["makes"]]
        x = self.widths_x
        for group, size in zip(made, row.layer["made"], strict=True):
            part = length * min(1.0, size / total)
            yield _titled(_told(group), _bar(x, y, part, f"{self.colours[group['name']]} fill"))
            x += part
        if not made or row.stays_made:
            told = "\n".join(dict.fromkeys(entry["reason"] for entry in row.stays_made)) or "stay whole"
            yield _titled(told, _bar(x, y, self.widths_x + length - x, "grey fill"))
        yield _text(self.widths_x + length + 6, y + 4, str(total), "number")

    # --- groups ---------------------------------------------------------------------------------------

    def _line(self, line: Line) -> Iterator[str]:
        x, colour = self.lanes_x + self.gap * (line.lane + 0.5), self.colours[line.group["name"]]
        first, last = (self._middle(index) for index in line.span)
        yield f"<g><title>{escape(_told(line.group))}</title>"
        yield f'<path class="{colour} line" d="M{x:.1f} {first:.1f}V{last:.1f}"/>'
        radius = min(4.0, self.gap / 2)
        for index in sorted({*line.makes, *line.reads}):
            style, size = ("fill", radius) if index in line.makes else ("line", radius - 0.7)
            place = f'cx="{x:.1f}" cy="{self._middle(index):.1f}" r="{size:.1f}"'
            yield f'<circle class="{colour} {style}" {place}/>'
        yield "</g>"

    def _middle(self, index: int) -> float:
        row = self.rows[index]
        return _HEAD + _LINE * (row.top + row.height / 2)

    # --- reasons --------------------------------------------------------------------------------------

    def _reasons(self) -> list[str]:
        """Why channels stay, one line a reason, and where."""
        told = [
            f"{same[0]['reason']}: {_few(list(dict.fromkeys(entry['layer'] for entry in same)))}"
            for same in by_reason(self.found["frozen"])
        ]
        more = len(told) - _REASONS
        return [*told[:_REASONS], f"and {more} more reasons, in the tooltips"] if more > 0 else told


def _size(group: Entry) -> str:
    unit = group["unit"]
    return f"{group['width']} channels" if unit == 1 else f"{group['width']} units of {unit} channels"


def _told(group: Entry) -> str:
    return (
        f"{group['name']}: {_size(group)} (at least {group['least']} stay, in steps of "
        f"{group['step']}), {numbers.share(group['flops_share'], 1)} of the FLOPs, "
        f"{numbers.count(group['params'])} parameters\nin {_few(group['layers'], 12)}"
    )


def _few(names: Sequence[str], shown: int = 4) -> str:
    found = [alike.pattern for alike in collapse(names, enough=shown)]
    more = f" and {len(found) - shown} more" if len(found) > shown else ""
    return ", ".join(found[:shown]) + more


def _below(reasons: Sequence[str], top: float, *, limit: int) -> Iterator[str]:
    if reasons:
        yield _text(_MARGIN, top + 28, "channels that stay", "head")
    for number, reason in enumerate(reasons):
        short = reason if len(reason) <= limit else reason[: limit - 1] + "…"
        yield _titled(reason, _text(_MARGIN, top + 46 + _LINE * number, short, "soft"))


def _short(name: str, limit: int) -> str:
    """The end of a name says most, the beginning where it is."""
    return name if len(name) <= limit else f"{name[: limit // 3]}…{name[-(limit - limit // 3 - 1) :]}"


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _bar(x: float, y: float, length: float, style: str) -> str:
    return f'<rect class="{style}" x="{x:.1f}" y="{y - 4.5:.1f}" width="{max(length, 1):.1f}" height="9"/>'


def _titled(title: str, inner: str) -> str:
    return f"<g><title>{escape(title)}</title>{inner}</g>"


def _style() -> str:
    def themed(colours: Sequence[str], back: str, ink: str, soft: str, stripe: str, grey: str) -> str:
        # written out for every colour: not every viewer knows variables
        rules = [
            f".jstc .g{i}.fill{{fill:{c}}}.jstc .g{i}.line{{stroke:{c};fill:{back}}}"
            for i, c in enumerate(colours)
        ]
        return (
            f".jstc .back{{fill:{back}}}.jstc text{{fill:{ink}}}.jstc .soft,.jstc .number{{fill:{soft}}}"
            f".jstc .stripe{{fill:{stripe}}}.jstc .grey.fill{{fill:{grey}}}"
            f".jstc .grey.line{{stroke:{grey};fill:{back}}}" + "".join(rules)
        )

    fonts = (
        ".jstc text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}"
        ".jstc .name{font:11px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}"
        ".jstc .number{font-size:11px}.jstc .soft{font-size:11.5px}.jstc .big{font-size:17px;font-weight:600}"
        ".jstc .head{font-weight:600}.jstc .line{stroke-width:1.8}"
    )
    light = themed(_LIGHT, "#ffffff", "#1f2328", "#57606a", "#f4f6f8", "#9aa2ab")
    dark = themed(_DARK, "#0d1117", "#e6edf3", "#9da7b3", "#151b23", "#6e7781")
    return f"{fonts}{light}@media(prefers-color-scheme:dark){{{dark}}}"
