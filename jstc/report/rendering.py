"""The templates of the reports and what they share: one environment for Markdown, one for pages and SVG."""

from __future__ import annotations

import functools
import re
from typing import Any

import jinja2

from jstc.core import numbers
from jstc.core.accuracy import Accuracy
from jstc.core.safe_text import one_line, visible
from jstc.ort.doubts import speed_of
from jstc.report.collect import RunData, SweepData
from jstc.report.findings import allowed
from jstc.report.search import SearchView, view
from jstc.report.tables import ideal_share, ideal_speedup, sweep_table, table

__all__ = ["markdown", "render", "search_view", "title"]

_NUMBERS = (
    "bar", "bytesize", "count", "duration", "milliseconds", "percent", "points", "ratio", "share", "tiny",
)  # fmt: skip
_MARKS = {"good": "✓ ", "warn": "! ", "bad": "✗ ", "neutral": ""}
_LONG = 24  # longer lists are folded away behind a line that can be opened
_TRADEOFFS = "report/tradeoff-"


def render(template: str, **content: Any) -> str:
    """A template of the package, filled; in all but Markdown every text is escaped."""
    found = _environment(escapes=not template.endswith(".md.j2")).get_template(template)
    return visible(found.render(**content)).strip() + "\n"


def title(data: RunData | SweepData) -> str:
    """`resnet20 on digits at 50.0 % of its FLOPs`, or as much of it as is known."""
    summary = data.summary
    name = f"{summary.model} on {summary.dataset}"
    if isinstance(data, SweepData):
        return f"{name} at {len(data.summary.sweep)} budgets"
    slim, target = data.summary.slim.flops, summary.target.flops
    return name if slim is None or target is None else f"{name} at {numbers.share(slim, target)} of its FLOPs"


def search_view(data: RunData | SweepData) -> SearchView | None:
    """What the search over widths did; None where a run has none, or is older than it."""
    runs = data.runs if isinstance(data, SweepData) else {"": data}
    return view({label: (run.summary.search, run.candidates, run.mends) for label, run in runs.items()})


def markdown(data: RunData | SweepData) -> str:
    """The report as Markdown, to be read as a file or posted as a comment."""
    shared: dict[str, Any] = {"title": title(data), "summary": data.summary, "search": search_view(data)}
    shared |= {"findings": data.findings, "marks": _MARKS}
    if isinstance(data, SweepData):
        header, rows = sweep_table(data.summary, wide=True)
        return render("sweep.md.j2", **shared, header=header, rows=rows)
    summary = data.summary
    return render(
        "report.md.j2",
        **shared,
        rows=table(summary),
        ideal=ideal_speedup(summary, summary.target),
        tradeoffs=[one.file for one in summary.pictures if one.file.startswith(_TRADEOFFS)],
        long=_LONG,
    )


@functools.cache
def _environment(*, escapes: bool) -> jinja2.Environment:
    # Markdown is not HTML: what could break a table is escaped by `cell`, where it stands.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jstc.report"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=escapes,
    )
    environment.filters |= {name: getattr(numbers, name) for name in _NUMBERS}
    environment.filters |= {"allowed": allowed, "ideal_share": ideal_share, "percents": _percents}
    environment.filters["speed"] = lambda row, network: speed_of(network, row, network.target)
    environment.filters |= {"alt": _alt, "cell": _cell, "code": _code, "line": _line, "typed": _typed}
    environment.filters["scored"] = _scored
    return environment


def _scored(value: float | None, images: int | None) -> str:
    """An accuracy on so many images, with its sampling error: `98.16 % ±1.4`."""
    return numbers.UNKNOWN if value is None else Accuracy(value, images).text


# --- text for Markdown ------------------------------------------------------------------------------------


def _cell(value: object) -> str:
    # Neither a link nor a picture, nor the beginning of code: the words are ours, the names in them are not.
    text = " ".join(str(value).split()).replace("](", "]\\(").replace("```", "'''")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _code(value: object) -> str:
    """Text between backticks, which may stand in a table."""
    return " ".join(str(value).split()).replace("`", "'").replace("|", "\\|")


def _line(value: object) -> str:
    """A line between fences."""
    return one_line(str(value)).replace("`", "'")


def _alt(value: object) -> str:
    # Group names may hold any character; a bracket would end the text.
    return _cell(value).replace("[", "(").replace("]", ")")


# --- text for pages ---------------------------------------------------------------------------------------

_MINUS = re.compile(r"(?<![\w.])-(?=\d)")
_POWER = re.compile(r"\b(\d(?:\.\d)?)e([+-]\d\d)\b")
_UNIT = re.compile(r"(?<=\d) (?=(?:%|[kMGT]|[kMG]B|bytes|ms|s|min|h|points)(?!\w))|(?<=batch) (?=\d)| (?=±)")
_TIMES = "\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _typed(text: str) -> str:
    """Figures as they are printed: a minus is no hyphen, a unit stays with its number, 4.2e-06 is a power."""
    text = _POWER.sub(lambda found: f"{found[1]}{_TIMES}10{_raised(found[2])}", text)
    return _UNIT.sub("\N{NO-BREAK SPACE}", _MINUS.sub("\N{MINUS SIGN}", text))


def _raised(exponent: str) -> str:
    return str(int(exponent)).translate(_RAISED)


def _percents(value: float) -> str:
    """A place in a picture, in percent of its width: 0.499 -> `49.90%`."""
    return f"{100 * min(max(value, 0.0), 1.0):.2f}%"
