"""The target network beside the slim one, as text cells: for the report and for the terminal."""

from __future__ import annotations

import re
import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jstc.core.numbers import UNKNOWN, bytesize, count, milliseconds, percent, points, ratio, share

__all__ = [
    "Alike",
    "TableRow",
    "by_reason",
    "collapse",
    "file_rows",
    "ideal_share",
    "ideal_speedup",
    "is_compared",
    "is_target",
    "network_files",
    "share_of_ideal",
    "slim_rows",
    "sweep_table",
    "table",
    "target_bytes",
    "target_row",
]


class TableRow(NamedTuple):
    """One figure of both networks, and what became of it."""

    label: str
    target: str
    slim: str
    change: str


def table(summary: dict[str, Any]) -> list[TableRow]:
    """FLOPs, parameters, accuracy, file size and latencies; a dash for what is not known."""
    target, slim = summary["target"], summary["slim"]
    rows = [
        TableRow(label, count(target[key]), count(slim[key]), share(slim[key], target[key]))
        for label, key in (("FLOPs", "flops"), ("Parameters", "params"))
    ]
    accuracy = points(slim["accuracy"], target["accuracy"])
    rows.append(
        TableRow("Top-1, test split", percent(target["accuracy"]), percent(slim["accuracy"]), accuracy)
    )
    rows += _size(summary)
    return rows + [_latency(summary, row) for row in slim_rows(summary)]


def network_files(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of the ONNX files that hold the network alone; not their companions with preprocessing."""
    return [file for file in summary["onnx"] if not file.get("preprocess")]


def slim_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The measured rows of the run's first ONNX file, one per provider and batch size."""
    others = [row for row in summary["bench"] if is_compared(summary, row)]
    names = [file["file"] for file in network_files(summary)]
    first = min((row["file"] for row in others), key=lambda file: _place(names, file), default=None)
    return [row for row in others if row["file"] == first]


def file_rows(summary: dict[str, Any], file: str) -> list[dict[str, Any]]:
    """The measured rows of one ONNX file, by its place in the run directory."""
    return [row for row in summary["bench"] if row["file"] == file]


def is_target(summary: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether a measured row is the target network's."""
    return bool(row["file"] == _target_label(summary))


def is_compared(summary: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether a measured row is of another network, timed beside the target."""
    return not is_target(summary, row) and row.get("verdict") != "no target"


def target_row(summary: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """The target network's row that was measured with `row`; empty when there is none."""
    place = _measured_with(row)
    rows = [one for one in summary["bench"] if is_target(summary, one) and _measured_with(one) == place]
    return rows[0] if rows else {}


def ideal_speedup(summary: dict[str, Any]) -> float | None:
    """What the FLOPs alone would suggest."""
    slim, target = summary["slim"]["flops"], summary["target"]["flops"]
    return target / slim if slim and target else None


def ideal_share(summary: dict[str, Any], row: dict[str, Any]) -> float | None:
    """The part of the ideal speed-up that was reached; None for the target itself."""
    return share_of_ideal(row, ideal_speedup(summary)) if is_compared(summary, row) else None


def share_of_ideal(row: Mapping[str, Any], ideal: float | None) -> float | None:
    """As the measurement says, or by the ratio of the FLOPs `ideal`."""
    given: float | None = row.get("ideal_share")
    return given if given is not None else row["speedup_vs_target"] / ideal if ideal else None


def _measured_with(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["provider"], row["batch"], row.get("threads")


def _place(names: list[str], file: str) -> int:
    return names.index(file) if file in names else len(names)


def _target_label(summary: dict[str, Any]) -> str | None:
    bench = summary["bench"]
    named = (row["file"] for row in bench if row.get("verdict") == "target")
    # Without verdicts, which old files do not have, it is the one measured first.
    return next(named, bench[0]["file"] if bench and bench[0].get("verdict") is None else None)


def target_bytes(summary: dict[str, Any]) -> float | None:
    """The size of the target network's file; None where it was not timed."""
    sizes = (row.get("bytes") for row in summary["bench"] if is_target(summary, row))
    return next(sizes, None)


def _size(summary: dict[str, Any]) -> list[TableRow]:
    if not network_files(summary):
        return []
    slim = network_files(summary)[0]["bytes"]
    target = target_bytes(summary)
    return [TableRow("ONNX file", bytesize(target), bytesize(slim), share(slim, target))]


def _latency(summary: dict[str, Any], row: dict[str, Any]) -> TableRow:
    before = target_row(summary, row).get("median_ms")
    label = f"Latency, batch {row['batch']}, {row['provider']}"
    change = f"{ratio(row['speedup_vs_target'])} the speed"
    return TableRow(label, milliseconds(before), milliseconds(row["median_ms"]), change)


# Many names as a few patterns: `blocks.0.attn.qkv` to `blocks.11.attn.qkv` are `blocks.*.attn.qkv`.

_DIGITS = re.compile(r"(\d+)")
_LEAST_POSITIONS = 4  # the places in a plain sequence (`features.3`) are parts of their own if they are few


@dataclass(frozen=True)
class Alike:
    """Names that differ in numbers only: their pattern, and their places in the list given."""

    pattern: str
    members: tuple[int, ...]


def collapse(names: Sequence[str], keys: Sequence[Hashable] | None = None, *, enough: int = 1) -> list[Alike]:
    """Names that differ in the number of a block become one pattern, at the place of the first.

    Numbers are taken from right to left, blocks before stages, until no more than `enough` patterns are left.
    Only names with equal `keys` are taken together. The number at the end of a name (`conv1`, `conv2`) tells
    parts of one block from each other and stays, as does every number in which no two names differ.
    """
    split = [_DIGITS.split(name) for name in names]
    keys = keys if keys is not None else [None] * len(names)
    found = _patterns(split, keys)
    for from_the_right in range(2, max(map(len, split), default=0), 2):
        if len(found) <= enough:
            break
        _star(split, keys, from_the_right)
        found = _patterns(split, keys)
    return found


def _patterns(split: Sequence[Sequence[str]], keys: Sequence[Hashable]) -> list[Alike]:
    found: dict[tuple[str, Hashable], list[int]] = {}
    for index, parts in enumerate(split):
        found.setdefault(("".join(parts), keys[index]), []).append(index)
    return [Alike(pattern, tuple(members)) for (pattern, _), members in found.items()]


def _star(split: list[list[str]], keys: Sequence[Hashable], from_the_right: int) -> None:
    """Replace one number of each name by `*` where names differ in it alone."""
    alike: dict[Hashable, list[int]] = {}
    for index, parts in enumerate(split):
        position = len(parts) - from_the_right
        if position > 0:
            rest = (*parts[:position], None, *parts[position + 1 :])
            alike.setdefault((rest, keys[index]), []).append(index)
    for members in alike.values():
        position = len(split[members[0]]) - from_the_right
        different = len({split[index][position] for index in members})
        if different >= _least(split[members[0]], position):
            for index in members:
                split[index][position] = "*"


def _least(parts: Sequence[str], position: int) -> float:
    """How many numbers must differ at `position` before they are taken together."""
    if "." in "".join(parts[position + 1 :]):
        return 2
    alone = parts[position - 1].endswith(".") and not "".join(parts[position + 1 :])
    return _LEAST_POSITIONS if alone else float("inf")


def by_reason(frozen: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Frozen channels with one `reason`, taken together; reasons that differ in numbers only are one."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for entry in frozen:
        found.setdefault(re.sub(r"\d+", "0", entry["reason"]), []).append(entry)
    return list(found.values())


# The networks of several budgets side by side, as text cells: for the report and for the terminal.

_DOUBTS = ("no gain", "unclear")
_FILE = 5  # the column that a terminal has no room for


def sweep_table(summary: dict[str, Any], *, wide: bool = False) -> tuple[list[str], list[list[str]]]:
    """The header, and a row for the target network and for every budget; a dash for what is not known.

    As it stands it fits on a terminal of 80 columns, with a latency for the target and speed-ups for the
    others; when `wide`, it has all latencies, the sizes of the files, the shares of the target network's
    counts, and where a speed-up is in doubt.
    """
    batches = sorted({row["batch"] for one in summary["sweep"] for row in one["bench"]})
    header = ["budget", "FLOPs", "params", "top-1", "change", "ONNX file", *[f"batch {n}" for n in batches]]
    rows = [
        _target(summary, batches),
        *[_slim(summary["target"], one, batches, wide) for one in summary["sweep"]],
    ]
    return (header, rows) if wide else (_narrow(header), [_narrow(row) for row in rows])


def _narrow(cells: list[str]) -> list[str]:
    return cells[:_FILE] + cells[_FILE + 1 :]


def _target(summary: dict[str, Any], batches: list[int]) -> list[str]:
    target, timed = (
        summary["target"],
        [_timed(one, batch)[0] for one in summary["sweep"] for batch in batches],
    )
    sizes = [row.get("bytes") for row in timed if row]
    # Every budget was timed beside the target network: the middle one of its latencies.
    latencies = [[row["median_ms"] for row in timed if row.get("batch") == batch] for batch in batches]
    return [
        "target",
        count(target["flops"]),
        count(target["params"]),
        percent(target["accuracy"]),
        "",
        bytesize(sizes[0] if sizes else None),
        *[milliseconds(statistics.median(found)) if found else UNKNOWN for found in latencies],
    ]


def _slim(target: dict[str, Any], one: dict[str, Any], batches: list[int], wide: bool) -> list[str]:
    slim = one["slim"]
    counts = [
        count(slim[key]) + (f" ({share(slim[key], target[key])})" if wide and slim[key] else "")
        for key in ("flops", "params")
    ]
    change = points(slim["accuracy"], target["accuracy"])
    return [
        one["label"],
        *counts,
        percent(slim["accuracy"]),
        change if wide else change.removesuffix(" points"),
        bytesize(one["onnx"][0]["bytes"] if one["onnx"] else None),
        *[_sweep_latency(_timed(one, batch)[1], wide) for batch in batches],
    ]


def _sweep_latency(row: dict[str, Any], wide: bool) -> str:
    if not row:
        return UNKNOWN
    if not wide:
        return ratio(row["speedup_vs_target"])
    doubt = f" ({row['verdict']})" if row.get("verdict") in _DOUBTS else ""
    return f"{milliseconds(row['median_ms'])}, {ratio(row['speedup_vs_target'])}{doubt}"


def _timed(one: dict[str, Any], batch: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The target network's measured row and the slim one's; the first file that was timed is the target."""
    rows = [row for row in one["bench"] if row["batch"] == batch]
    target = [row for row in rows if row["file"] == one["bench"][0]["file"]]
    slim = [row for row in rows if row["file"] != one["bench"][0]["file"]]
    return (target or [{}])[0], (slim or [{}])[0]
