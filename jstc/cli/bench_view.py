"""Latencies, what they mean, and where the time goes: tables within 100 columns, or one JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from jstc.cli import console
from jstc.core import files
from jstc.ort.doubts import NO_GAIN, Speed, Standing, speed
from jstc.summary import Timing

__all__ = ["profiles", "read", "rows", "show"]

_HEADER = ["batch", "ms", "p95", "images/s", "MB", "speed-up (95 %)", "ideal", ""]
_TOP_OPERATORS = 8
_TOP_NODES = 5
_WIDEST = 44

Row = dict[str, Any]


def read(folder: Path) -> dict[str, Any]:
    """What the bench stage left in its folder: `rows`, and `skipped` and `profiles` if there are any."""
    found: dict[str, Any] = files.read_json(folder / "bench.json")
    profile = folder / "profile.json"
    return found | (files.read_json(profile) if profile.exists() else {})


def show(
    document: dict[str, Any],
    *,
    as_json: bool,
    quiet: bool = False,
    title: str = "",
    plain_files: bool = False,
) -> None:
    """What a comparison found: `rows`, `skipped` and `profiles` of a document, each if it is there.

    `plain_files`: they are none of a run, so that the first one is no target network.
    """
    if as_json:
        console.document(document)
        return
    rows(document["rows"], quiet=quiet, title=title, plain_files=plain_files)
    profiles(document.get("profiles") or ())
    for one in () if quiet else document.get("skipped") or ():
        what = " on ".join(str(one[key]) for key in ("file", "provider") if one.get(key))
        batch = f" at batch {one['batch']}" if one.get("batch") else ""
        console.note(f"not measured: {what}{batch}: {one['reason']}")


def rows(found: Sequence[Row], *, quiet: bool = False, title: str = "", plain_files: bool = False) -> None:
    """A table for each provider, and sentences for each file about its gain."""
    first = "reference" if plain_files else "target"
    for provider in dict.fromkeys(row["provider"] for row in found):
        own = [row for row in found if row["provider"] == provider]
        heading, names = f"{title} on {provider}".strip(), _names(found)
        cells = [[names[row["file"]], *_cells(row, found, first)] for row in own]
        console.table([heading, *_HEADER], cells, numbers_from=1, numbers_to=8)
    if not quiet:
        for line in _meaning(found):
            console.note(line)


def profiles(found: Sequence[Row]) -> None:
    """Tables for each provider and batch size: operators of all files side by side, and slowest nodes."""
    for place in dict.fromkeys((one["provider"], one["batch"]) for one in found):
        own = [one for one in found if (one["provider"], one["batch"]) == place]
        _operators(own, *place)
        _nodes(own)
        for remark in dict.fromkeys(one["remark"] for one in own if one.get("remark")):
            console.note(f"note: {remark}")


def _operators(found: Sequence[Row], provider: str, batch: int) -> None:
    by_file = [{one["operator"]: one for one in file["operators"]} for file in found]
    total = {name: sum(of.get(name, {}).get("ms", 0.0) for of in by_file) for of in by_file for name in of}
    slowest = sorted(total, key=lambda name: -total[name])[:_TOP_OPERATORS]
    names = _names(found)
    header = [f"ms, {provider}, batch {batch}", *(names[file["file"]] for file in found)]
    lines = [[name, *(_time(of.get(name)) for of in by_file)] for name in slowest]
    sums = [_milliseconds(file["nodes_ms"]) for file in found]
    console.table(header, [*lines, ["all nodes", *sums]], numbers_from=1, whole_names=True)


def _nodes(found: Sequence[Row]) -> None:
    names = _names(found)
    lines = [[names[f["file"]], _node(node), _time(node)] for f in found for node in f["nodes"][:_TOP_NODES]]
    console.table(["slowest nodes", "", "ms"], lines, numbers_from=2)


def _time(row: Row | None) -> str:
    return "-" if row is None else f"{_milliseconds(row['ms'])} {row['share']:4.0%}"


def _milliseconds(value: float) -> str:
    digits = 3 if value < 10 else 2 if value < 100 else 1
    return f"{value:.{digits}f}"


def _node(node: dict[str, Any]) -> str:
    name = node["node"] if len(node["node"]) <= _WIDEST else f"...{node['node'][3 - _WIDEST :]}"
    shape = "x".join(map(str, node["outputs"][0])) if node.get("outputs") else "?"
    return f"{node['operator']} {name} -> {shape}"


def _cells(row: Row, found: Sequence[Row], first: str) -> list[str]:
    return [
        str(row["batch"]),
        _milliseconds(row["median_ms"]),
        _milliseconds(row["p95_ms"]),
        _rate(row["images_per_second"]),
        _or_dash(row.get("peak_memory_mb"), "{:.0f}"),
        _speed_up(row),
        "" if _is_target(row) else _or_dash(row.get("ideal_share"), "{:.0%}"),
        _standing(row, found, first),
    ]


def _standing(row: Row, found: Sequence[Row], first: str) -> str:
    if _is_target(row):
        return first if row["verdict"] == "target" else f"no {first}"
    return _speed(row, found).standing


def _speed(row: Row, found: Sequence[Row]) -> Speed:
    """Judgement of a row, beside the target's at its place."""
    place = (row["provider"], row["batch"])
    beside = (one for one in found if one["verdict"] == "target" and (one["provider"], one["batch"]) == place)
    target = next(beside, None)
    timed = None if target is None else Timing.model_validate(target)
    return speed(Timing.model_validate(row), target=timed)


def _speed_up(row: Row) -> str:
    if _is_target(row):
        return ""
    return f"{row['speedup_vs_target']:.2f}x ({row['ratio_low']:.2f}-{row['ratio_high']:.2f})"


def _is_target(row: Row) -> bool:
    return row["verdict"] in ("target", "no target")


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _names(found: Sequence[Row]) -> dict[str, str]:
    """Short names: the files' own, without folders where these tell them apart as well."""
    files = list(dict.fromkeys(row["file"] for row in found))
    short = {file: PurePath(file).name for file in files}
    return short if len(set(short.values())) == len(files) else {file: file for file in files}


def _meaning(found: Sequence[Row]) -> list[str]:
    """Gain or not, against the FLOPs: a sentence for each file on each provider, then reasons to doubt it."""
    slim = [row for row in found if not _is_target(row)]
    pairs = dict.fromkeys((row["file"], row["provider"]) for row in slim)
    names = _names(found)
    told = []
    for file, provider in pairs:
        speeds = [_speed(row, found) for row in slim if (row["file"], row["provider"]) == (file, provider)]
        told += [_sentence(names[file], speeds), *(_why(one) for one in speeds if one.doubts)]
    return told


def _sentence(name: str, speeds: Sequence[Speed]) -> str:
    first = speeds[0].row
    text = f"{name} on {first.provider}: {_said({one.standing for one in speeds})}: "
    batches = ", ".join(str(one.row.batch) for one in speeds)
    text += f"{', '.join(one.text for one in speeds)} (batch {batches})"
    if any(one.is_small_gain for one in speeds):
        text += f"; up to {NO_GAIN}x counts as none"
    if first.ideal_share is None or first.flops_ratio is None:
        return f"{text}."
    shares = ", ".join(f"{one.row.ideal_share or 0:.0%}" for one in speeds)
    return f"{text}, {shares} of the {first.flops_ratio:.2f}x its FLOPs allow."


def _said(standings: set[Standing]) -> str:
    if "uncertain" in standings:
        return "uncertain" if standings <= {"uncertain", "unclear"} else "uncertain at some batch sizes"
    if len(standings) > 1:
        return "a gain at some batch sizes only"
    [one] = standings
    return {"gain": "a gain", "no gain": "no gain"}.get(one, "within the noise")


def _why(one: Speed) -> str:
    return f"  batch {one.row.batch}: {one.with_interval}: {one.reasons}"
