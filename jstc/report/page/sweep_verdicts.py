"""Of every budget: is it met, how accurate is its network, is it faster."""

from __future__ import annotations

from typing import Any

from jstc.report import figures
from jstc.report.budgets import used, within
from jstc.report.page.verdicts import State, Verdict
from jstc.report.tables import slim_rows

__all__ = ["sweep_verdicts"]


def sweep_verdicts(summary: dict[str, Any]) -> list[Verdict]:
    """A line for every budget."""
    return [_verdict(row, summary["target"]) for row in summary["sweep"]]


def _verdict(row: dict[str, Any], target: dict[str, Any]) -> Verdict:
    budget, slim = row["budget"], row["slim"]
    value = used(row)
    if value is None or not budget["limit"]:
        return Verdict("open", row["label"], "not known", "there is no slim network yet")
    met = within(budget["metric"], value, budget["limit"])
    gains = [one for one in slim_rows(row) if one.get("verdict", "gain") == "gain"]
    state: State = "good" if met and (gains or not row["bench"]) else "doubt" if met else "bad"
    told = [f"{figures.share(value, budget['limit'])} of the budget", *_accuracy(slim, target), *_speed(row)]
    word = {"good": "met", "doubt": "met, not faster", "bad": "exceeded"}[state]
    return Verdict(state, row["label"], word, "; ".join(told))


def _accuracy(slim: dict[str, Any], target: dict[str, Any]) -> list[str]:
    if slim["accuracy"] is None:
        return []
    change = (
        f" ({figures.points(slim['accuracy'], target['accuracy'])})" if target["accuracy"] is not None else ""
    )
    return [f"{figures.percent(slim['accuracy'])} top-1{change}"]


def _speed(row: dict[str, Any]) -> list[str]:
    doubts = {"no gain": " (no gain)", "unclear": " (within the noise)"}
    return [
        f"{figures.ratio(one['speedup_vs_target'])} {one['provider']}, batch {one['batch']}"
        + doubts.get(one.get("verdict", ""), "")
        for one in slim_rows(row)
    ]
