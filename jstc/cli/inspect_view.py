"""The channel structure of a network as tables: short for large networks, nothing left out with `every`."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jstc.cli import console
from jstc.core import files
from jstc.core.numbers import figure
from jstc.report import structure
from jstc.report.groups import NamePattern, by_reason, group_names

__all__ = ["draw", "show"]

_MOST_GROUPS = 40  # beyond that, groups that are alike share a line
_GAP, _LEAST_TEXT = 3, 30  # characters between columns, and for a text that is folded
_SHOWN = 3  # layers, or patterns of layers, named in a line

Entry = Mapping[str, Any]


def show(found: Entry, *, every: bool = False) -> None:
    """Groups, frozen channels with reasons, totals and the smallest budget, on stdout.

    Groups of large networks, and frozen channels with one reason, are taken together unless `every`.
    """
    _show_groups(found["groups"], every=every)
    if found["frozen"]:
        _show_frozen(found["frozen"], every=every)
    console.table(["", "", ""], _totals(found))
    if not found["groups"]:
        console.text(f"Nothing can be cut in '{found['model']}': all channels stay, for the reasons above.")


# --- groups -------------------------------------------------------------------------------------------


def _show_groups(groups: Sequence[Entry], *, every: bool) -> None:
    if not groups:
        return
    if every or len(groups) <= _MOST_GROUPS:
        lines = [NamePattern(group["name"], (index,)) for index, group in enumerate(groups)]
    else:
        lines = group_names(
            [group["name"] for group in groups], [_width(group) for group in groups], enough=_MOST_GROUPS
        )
    rows = [_group_row(line, [groups[index] for index in line.members], every) for line in lines]
    header = ["group", "width", "FLOPs", "params", "layers", ""]
    if not every and not _is_room(header, rows):
        header, rows = header[:-1], [row[:-1] for row in rows]  # the long form has the names
    console.table(header, rows, numbers_from=1, numbers_to=5, whole_names=True)


def _is_room(header: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Is there room for the last column beside the others, on a terminal? A pipe has all there is."""
    if not console.results().isatty():
        return True
    columns = list(zip(header, *rows, strict=True))[:-1]
    taken = sum(max(map(len, column)) + _GAP for column in columns)
    return console.columns() - taken >= _LEAST_TEXT


def _group_row(line: NamePattern, groups: Sequence[Entry], every: bool) -> list[str]:
    first = groups[0]
    layers = list(dict.fromkeys(name for group in groups for name in group["layers"]))
    return [
        _counted(line),
        _width(first),
        _span("share", [group["flops_share"] for group in groups]),
        _span("params", [group["params"] for group in groups]),
        _span("layers", [len(group["layers"]) for group in groups]),
        ", ".join(layers) if every else _named(layers),
    ]


def _width(group: Entry) -> str:
    return f"{group['width']:,}" + (f" x {group['unit']}" if group["unit"] > 1 else "")


def _span(name: str, values: Sequence[float]) -> str:
    low, high = (figure(name, value) for value in (min(values), max(values)))
    return low if low == high else f"{low.removesuffix(' %')} - {high}"


# --- frozen channels ----------------------------------------------------------------------------------


def _show_frozen(frozen: Sequence[Entry], *, every: bool) -> None:
    if every:
        rows = [[f["layer"], f["kind"], f["side"], str(f["channels"]), f["reason"]] for f in frozen]
        console.table(["frozen", "", "side", "channels", "reason"], rows)
        return
    alike = [[frozen[at] for at in places] for places in by_reason([entry["reason"] for entry in frozen])]
    rows = [[_named(_layers(same)), _sizes(same), _reason(same)] for same in alike]
    console.table(["frozen", "channels", "reason"], rows)


def _layers(frozen: Iterable[Entry]) -> list[str]:
    return list(dict.fromkeys(entry["layer"] for entry in frozen))


def _sizes(frozen: Sequence[Entry]) -> str:
    """`768 x 37`: thirty-seven places of 768 channels."""
    counts = Counter(entry["channels"] for entry in frozen).most_common()
    named = [f"{size}" if times == 1 else f"{size} x {times}" for size, times in counts]
    more = sum(times for _, times in counts[_SHOWN:])
    return ", ".join(named[:_SHOWN]) + (f" and {more} more" if more else "")


def _reason(frozen: Sequence[Entry]) -> str:
    different = len({entry["reason"] for entry in frozen}) - 1
    more = f" ({different} more like it, with other numbers: -v)" if different else ""
    return str(frozen[0]["reason"]) + more


# --- names --------------------------------------------------------------------------------------------


def _named(names: Sequence[str]) -> str:
    """A few names or patterns, those of most names if there are more, and how many names are left."""
    lines = group_names(names, enough=_SHOWN)
    if len(lines) > _SHOWN:
        largest = sorted(range(len(lines)), key=lambda index: -len(lines[index].members))[:_SHOWN]
        named = [lines[index] for index in sorted(largest)]
    else:
        named = lines
    more = len(names) - sum(len(line.members) for line in named)
    return _joined([_counted(line) for line in named]) + (f" and {more} more" if more else "")


def _joined(names: Sequence[str]) -> str:
    """`layer1.0.{conv1, bn1}` for names within one module."""
    parents = zip(*(name.split(".")[:-1] for name in names), strict=False)
    same = itertools.takewhile(lambda parts: len(set(parts)) == 1, parents)
    shared = "".join(f"{parts[0]}." for parts in same)
    if len(names) == 1 or not shared:
        return ", ".join(names)
    return f"{shared}{{{', '.join(name.removeprefix(shared) for name in names)}}}"


def _counted(line: NamePattern) -> str:
    return line.pattern if len(line.members) == 1 else f"{line.pattern} ({len(line.members)})"


# --- totals -------------------------------------------------------------------------------------------


def _totals(found: Entry) -> list[list[str]]:
    rows = [
        ["network", found["model"], ""],
        *([["part that alone is cut", found["part"], ""]] if found.get("part") else []),
        ["input", figure("input", found["input"]), ""],
        ["FLOPs (one multiply-add is one)", figure("flops", found["flops"]), ""],
        ["parameters", figure("params", found["params"]), ""],
        ["FLOPs in layers that can be cut", figure("share", found["flops_share_cuttable"]), ""],
        ["parameters in layers that can be cut", figure("share", found["params_share_cuttable"]), ""],
    ]
    if found["groups"]:
        rows += [_smallest(found, metric) for metric in ("flops", "params")]
    if found["unknown_operations"]:
        rows.append(["operations without a rule", figure("", found["unknown_operations"]), ""])
    return rows


def _smallest(found: Entry, metric: str) -> list[str]:
    # Rounded up: what is shown must be reachable.
    share = math.ceil(1e4 * found[f"smallest_{metric}_share"]) / 1e4
    return [f"smallest reachable --{metric}", f"{share:.4f}", figure(metric, found[f"smallest_{metric}"])]


def draw(found: dict[str, Any], path: Path) -> None:
    """Write the picture of the structure to `path`."""
    files.write_text(path, structure.draw(found))
    console.note(f"The picture is in {path}")
