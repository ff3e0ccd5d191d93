"""The report as Markdown, to be read as a file or posted as a comment."""

from __future__ import annotations

import functools
from typing import Any

import jinja2

from jstc.core import numbers
from jstc.core.numbers import count, percent, points
from jstc.report.notes import amount, headline, title
from jstc.report.tables import ideal_share, sweep_table, table

__all__ = ["environment", "markdown", "sweep_headline", "sweep_markdown"]

# Longer lists are folded away behind a line that can be opened.
_LONG = 24
_TRADEOFFS = "report/tradeoff-"
_FIGURES = (
    "bar", "bytesize", "count", "duration", "milliseconds", "percent", "points", "ratio", "share", "tiny",
)  # fmt: skip


def markdown(summary: dict[str, Any]) -> str:
    """The report of a `summary` as `build` gives it."""
    template = environment().get_template("report.md.j2")
    text = template.render(
        summary=summary,
        title=title(summary),
        headline=headline(summary),
        rows=table(summary),
        tradeoffs=[one["file"] for one in summary["pictures"] if one["file"].startswith(_TRADEOFFS)],
        long=_LONG,
    )
    return text.strip() + "\n"


@functools.cache
def environment() -> jinja2.Environment:
    """The templates, with the filters that write figures."""
    # Markdown, not HTML: what could break a table is escaped by `cell`, where it stands.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jstc.report"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters["cell"] = _cell
    environment.filters["amount"] = amount
    environment.filters["alt"] = _alt
    environment.globals["ideal_share"] = ideal_share
    for name in _FIGURES:
        environment.filters[name] = getattr(numbers, name)
    return environment


def _cell(value: object) -> str:
    text = " ".join(str(value).split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _alt(value: object) -> str:
    # Group names may hold any character; a bracket would end the text.
    return _cell(value).replace("[", "(").replace("]", ")")


# The report of several budgets as Markdown.


def sweep_markdown(summary: dict[str, Any]) -> str:
    """The report of a `summary` as `build_sweep` gives it."""
    header, rows = sweep_table(summary, wide=True)
    template = environment().get_template("sweep.md.j2")
    text = template.render(summary=summary, headline=sweep_headline(summary), header=header, rows=rows)
    return text.strip() + "\n"


def sweep_headline(summary: dict[str, Any]) -> str:
    """What the largest and the smallest of the networks that are there reach."""
    found = [row for row in summary["sweep"] if row["slim"]["accuracy"] is not None]
    if not found:
        return "There is no slim network yet."
    texts = [_reached(row, summary) for row in (found if len(found) == 1 else (found[0], found[-1]))]
    sentence = f"One search for all {len(summary['sweep'])} budgets: {'; '.join(texts)}."
    target = summary["target"]["accuracy"]
    if target is None:
        return sentence
    return f"{sentence} The target network, trained alone for as many epochs, reaches {percent(target)}."


def _reached(row: dict[str, Any], summary: dict[str, Any]) -> str:
    slim, target = row["slim"], summary["target"]
    against = f" ({points(slim['accuracy'], target['accuracy'])})" if target["accuracy"] is not None else ""
    counts = f"{count(slim['flops'])} of {count(target['flops'])} FLOPs"
    return f"**{percent(slim['accuracy'])}** top-1{against} with {counts}"
