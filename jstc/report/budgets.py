"""The bound of a run and what of it is used, whatever it bounds: FLOPs, parameters or a latency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jstc.report import figures

__all__ = ["BUDGETS", "amount", "used", "within"]

BUDGETS = {"flops": "FLOPs", "params": "parameters", "latency": "latency"}
"""What a budget can bound, and what that is called."""

_NOISE = 1.05  # a measured latency up to here over the limit meets it: it is predicted, and measured again


def amount(metric: str, value: float | None) -> str:
    """`20.5 M FLOPs`, `2.00 ms`."""
    if metric == "latency":
        return figures.milliseconds(value)
    return f"{figures.count(value)} {BUDGETS.get(metric, metric)}"


def used(summary: Mapping[str, Any]) -> float | None:
    """What the slim network has of what is bounded; of a latency as measured, or else as predicted."""
    metric = summary["budget"]["metric"]
    if metric != "latency":
        found: float | None = summary["slim"].get(metric)
        return found
    latency = summary.get("latency") or {}
    measured: float | None = latency.get("measured_ms")
    return measured if measured is not None else latency.get("predicted_ms")


def within(metric: str, value: float, limit: float) -> bool:
    """Whether the budget is met; a latency within the 5 % that predictions are meant to."""
    return value <= limit * (_NOISE if metric == "latency" else 1)
