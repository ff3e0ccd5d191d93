"""The report as one HTML page: no network, no script, for screens of any width and for print."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jstc.core import numbers
from jstc.core.numbers import milliseconds
from jstc.ort.doubts import Speed, speed_of
from jstc.report.collect import OperatorTime, Profile, RunData, SweepData
from jstc.report.groups import width_rows
from jstc.report.plots.canvas import Drawing
from jstc.report.rendering import render, search_view, title
from jstc.report.tables import (
    ideal_share,
    ideal_speedup,
    of_target,
    sweep_table,
    table,
    target_latency,
)
from jstc.summary import Network, Target, Timing

__all__ = ["Figure", "figure", "html"]


class Section(NamedTuple):
    """A part of the page under a heading; `name` is its anchor and its template."""

    name: str
    heading: str


class Use(NamedTuple):
    """A network's file, and the script that classifies an image if it is there; `label`: the budget."""

    label: str
    file: str
    script: str | None


class Figure(NamedTuple):
    """A picture on the page: its SVG as a data URL, what it shows in words, how to read it."""

    url: str
    heading: str
    alt: str
    caption: str


def html(data: RunData | SweepData, drawings: Sequence[Drawing]) -> str:
    """The report as one HTML document with these pictures: the same bytes for the same run."""
    content = _sweep(data, drawings) if isinstance(data, SweepData) else _run(data, drawings)
    summary = data.summary
    content |= {
        "summary": summary,
        "title": title(data),
        "cards": [one for one in data.findings if one.figure],
        "remarks": [one for one in data.findings if not one.figure],
        "machine": _machine(summary.environment),
        "seconds": [(name, numbers.duration(s)) for name, s in summary.seconds.items() if s is not None],
        "total": sum(filter(None, summary.seconds.values())),
        "recipe_text": data.recipe_text,
    }
    sections = [Section(*one) for one in _SECTIONS if _is_wanted(one[0], content)]
    return render("page/page.html.j2", **content, sections=sections)


_SECTIONS = (
    ("budgets", "The networks side by side"),
    ("notes", "What to know"),
    ("result", "Original and slim network"),
    ("latency", "Latency budget"),
    ("cut", "What was cut where"),
    ("files", "Accuracy of each file"),
    ("speed", "Speed"),
    ("speeds", "Speed"),
    ("widths", "What was cut where"),
    ("each", "Each budget"),
    ("time", "Where the time goes"),
    ("search", "The search"),
    ("training", "How the training went"),
    ("stayed", "Channels that had to stay"),
    ("machine", "Environment"),
    ("reproduce", "How to reproduce"),
)
# What there must be for a section; one that is not named here is on every page.
_NEEDED = {"notes": "remarks", "result": "rows", "budgets": "header", "training": "history"}


def _is_wanted(name: str, content: Mapping[str, Any]) -> bool:
    return name == "reproduce" or bool(content.get(_NEEDED.get(name, name)))


def _run(data: RunData, drawings: Sequence[Drawing]) -> dict[str, Any]:
    summary = data.summary
    names = {file.file: file.precision or file.file for file in summary.files}
    bars = [
        _Measured(names.get(row.file, row.file), row, summary, milliseconds(row.median_ms))
        for row in summary.compared_rows
    ]
    return {
        "rows": table(summary),
        "latency": summary.latency,
        "cut": summary.groups,
        "width_rows": width_rows(summary, summary.target),
        "files": summary.onnx,
        "tradeoff": _figures(drawings, "files"),
        "speed": summary.bench,
        "panels": _panels(bars, summary.target_rows, summary.target),
        "ideal": ideal_speedup(summary, summary.target),
        "time": _times(data.profiles),
        "search": search_view(data),
        "course": _figures(drawings, "search"),
        "history": _figures(drawings, "training"),
        "stayed": summary.frozen,
        "use": _use("", data),
        "checksums": data.checksums,
        "plan_hash": summary.plan_hash,
    }


def _sweep(data: SweepData, drawings: Sequence[Drawing]) -> dict[str, Any]:
    summary = data.summary
    header, rows = sweep_table(summary, wide=True)
    widths = [(row.label, width_rows(row, summary.target)) for row in summary.sweep]
    bars = [
        _Measured(one.label, row, one, of_target(one, row)) for one in summary.sweep for row in one.slim_rows
    ]
    panels = _panels(bars, [row for one in summary.sweep for row in one.target_rows], summary.target)
    return {
        "header": header,
        "budget_rows": rows,
        "reference_rows": len(rows) - len(summary.sweep),
        "tradeoff": _figures(drawings, "budgets"),
        "speeds": panels,
        "panels": panels,
        "widths": [(label, found) for label, found in widths if found],
        "each": summary.sweep,
        "search": search_view(data),
        "course": [],
        "use": [use for label, child in data.runs.items() for use in _use(label, child)],
        "checksums": [],
        "plan_hash": None,
    }


def _use(label: str, data: RunData) -> list[Use]:
    """The first file of the export; none before there is one."""
    folder = f"{label}/" if label else ""
    script = next((path for path, _ in data.checksums if path.endswith("/run.py")), None)
    return [Use(label, folder + one.file, script and folder + script) for one in data.summary.files[:1]]


def _figures(drawings: Sequence[Drawing], section: str) -> list[Figure]:
    return [figure(one) for one in drawings if one.section == section]


def figure(drawing: Drawing) -> Figure:
    """A picture for the page."""
    data = base64.b64encode(drawing.svg.encode()).decode("ascii")
    return Figure(f"data:image/svg+xml;base64,{data}", drawing.heading, drawing.alt, drawing.caption)


# --- the machine ------------------------------------------------------------------------------------------

_LABELS = {
    "cpu": "CPU", "cores": "cores", "memory_gb": "memory", "gpus": "GPU", "driver": "driver",
    "os": "operating system", "python": "Python", "providers": "onnxruntime providers",
    "packages": "packages",
}  # fmt: skip


def _machine(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The machine and the software of the measurements, whatever is on record of them."""
    keys = [*(key for key in _LABELS if key in found), *(key for key in found if key not in _LABELS)]
    told = ((_LABELS.get(key, key.replace("_", " ")), _text(key, found[key])) for key in keys)
    return [(label, text) for label, text in told if text]


def _text(key: str, value: object) -> str:
    if isinstance(value, Mapping):
        if "name" in value:
            rest = ", ".join(f"{k} {one}" for k, one in value.items() if k != "name" and one is not None)
            return f"{value['name']} ({rest})" if rest else str(value["name"])
        between = ": " if key == "providers" else " "
        return ", ".join(f"{name}{between}{_text(str(name), one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(_text(key, one) for one in value) or ("none found" if key == "gpus" else "")
    if value is None:
        return "not known"
    return f"{value} GB" if key == "memory_gb" else str(value)


# --- speed ------------------------------------------------------------------------------------------------

_ROOM = 1.04  # of the longest bar
_FARTHEST = 2.0  # times that, an interval may reach: one of a busy machine would make all bars invisible


class _Measured(NamedTuple):
    """A row to be drawn, of which network it is, and its time in words."""

    label: str
    row: Timing
    network: Network
    time: str


@dataclass(frozen=True)
class Bar:
    """A measured speed-up with its interval, and what the FLOPs alone suggest; all are parts of the panel."""

    label: str
    speed: Speed
    time: str
    length: float
    interval: tuple[float, float] | None
    ideal: float | None
    ideal_share: float | None

    @property
    def told(self) -> str:
        """The bar in words."""
        row = self.speed.row
        text, low, high = self.speed.text + self.speed.mark, row.ratio_low, row.ratio_high
        return text if low is None or high is None else f"{text}, 95 % interval {low:.2f} to {high:.2f}"


class Panel(NamedTuple):
    """Bars of one provider, batch size and number of threads; `one`: where the target network's line is."""

    title: str
    target: str
    bars: list[Bar]
    one: float


def _panels(found: Sequence[_Measured], targets: Sequence[Timing], target: Target) -> list[Panel]:
    """Panels in the order of the rows, on one scale."""
    ideals = [ideal_speedup(one.network, target) for one in found]
    reach = zip(found, ideals, strict=True)
    longest = max((max(one.row.speedup or 1.0, ideal or 1.0) for one, ideal in reach), default=1.0)
    ends = (min(one.row.ratio_high or 1.0, _FARTHEST * longest) for one in found)
    scale = 1 / (_ROOM * max(longest, *ends, 1.0))
    several = len({one.row.threads for one in found}) > 1
    panels = []
    for place in dict.fromkeys(one.row.place for one in found):
        bars = [_bar(one, target, scale) for one in found if one.row.place == place]
        provider, batch, threads = place
        told = f", {threads or 'all'} thread{'s' * (threads != 1)}" if several else ""
        time = target_latency([row for row in targets if row.place == place])
        panels.append(Panel(f"{provider}, batch {batch}{told}", time, bars, scale))
    return panels


def _bar(one: _Measured, target: Target, scale: float) -> Bar:
    row, ideal = one.row, ideal_speedup(one.network, target)
    low, high = row.ratio_low, row.ratio_high
    return Bar(
        one.label,
        speed_of(one.network, row, target),
        one.time,
        scale * (row.speedup or 0.0),
        None if low is None or high is None else (scale * low, min(scale * high, 1.0)),
        None if ideal is None else scale * ideal,
        ideal_share(row, ideal),
    )


# --- where the time goes ----------------------------------------------------------------------------------

_MOST = 8  # kinds of operators; the rest is one row


class Bars(NamedTuple):
    """The operators of one file, each with its part of the longest beside it."""

    title: str
    profile: Profile
    operators: list[tuple[OperatorTime, float]]


def _times(profiles: Sequence[Profile]) -> list[Bars]:
    """Bars of one provider and batch size are on one scale."""
    profiles = [one for one in profiles if one.operators]
    longest: dict[tuple[str, int], float] = {}
    for one in profiles:
        place = one.provider, one.batch
        longest[place] = max(longest.get(place, 0.0), one.operators[0].ms)
    return [
        Bars(
            f"{one.file}, {one.provider}, batch {one.batch}",
            one,
            [
                (kind, kind.ms / (longest[one.provider, one.batch] or 1.0))
                for kind in _shortened(one.operators)
            ],
        )
        for one in profiles
    ]


def _shortened(kinds: Sequence[OperatorTime]) -> list[OperatorTime]:
    if len(kinds) <= _MOST:
        return list(kinds)
    rest = kinds[_MOST - 1 :]
    others = OperatorTime(
        operator=f"{len(rest)} other kinds",
        nodes=sum(one.nodes for one in rest),
        ms=sum(one.ms for one in rest),
        share=sum(one.share for one in rest),
    )
    return [*kinds[: _MOST - 1], others]
