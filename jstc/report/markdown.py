"""The report as Markdown, to be read as a file or posted as a comment."""

from __future__ import annotations

import functools
from typing import Any

import jinja2

from jstc.report import figures
from jstc.report.budgets import amount
from jstc.report.headline import headline, title
from jstc.report.tables import ideal_share, table

__all__ = ["environment", "markdown"]

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
        environment.filters[name] = getattr(figures, name)
    return environment


def _cell(value: object) -> str:
    text = " ".join(str(value).split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _alt(value: object) -> str:
    # Group names may hold any character; a bracket would end the text.
    return _cell(value).replace("[", "(").replace("]", ")")
