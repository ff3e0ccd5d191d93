"""The report of several budgets as Markdown."""

from __future__ import annotations

from typing import Any

from jstc.report.figures import count, percent, points
from jstc.report.markdown import environment
from jstc.report.sweep_table import sweep_table

__all__ = ["sweep_headline", "sweep_markdown"]


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
