"""How much worse the new run may be, gate by gate: the defaults, and how people write others."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jstc.errors import InputError

__all__ = ["DEFAULTS", "DIFFERENCE_FLOOR", "DROPS", "KINDS", "Kind", "Limit", "limits", "parse"]

Kind = Literal["flops", "params", "bytes", "accuracy", "max_abs_diff", "top1_agreement", "latency"]

DIFFERENCE_FLOOR = 1e-4
"""Up to here a difference between torch and ONNX is rounding, and how much it grew means nothing."""

DROPS = frozenset({"accuracy", "top1_agreement"})
"""Gates in percentage points; all others are in percent of the base."""


@dataclass(frozen=True)
class Limit:
    """`amount`: the largest share that a figure may grow by, or a fraction may drop by; None: no gate.

    `or_budget`: a figure within a budget that both runs were given is never too large.
    """

    amount: float | None
    or_budget: bool = False


DEFAULTS: Mapping[Kind, Limit] = {
    "flops": Limit(0.0, or_budget=True),
    "params": Limit(0.05, or_budget=True),
    "bytes": Limit(0.05),
    "accuracy": Limit(0.005),
    "max_abs_diff": Limit(2.0),
    "top1_agreement": Limit(0.005),
    "latency": Limit(0.05),
}
KINDS = tuple(DEFAULTS)


def limits(given: Mapping[Kind, str | None]) -> dict[Kind, Limit]:
    """A limit for every gate; `given` are those that the user wrote, and None those that were left out."""
    written = {kind: parse(text, kind) for kind, text in given.items() if text is not None}
    return {**DEFAULTS, **written}


def parse(text: str, kind: Kind) -> Limit:
    """`5%` and `5` are five percent (percentage points where the gate is a drop); `off` is no gate.

    Raises `InputError` for anything else.
    """
    if text.strip().lower() == "off":
        return Limit(None)
    match = re.fullmatch(r"\s*\+?([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*%?\s*", text.lower())
    amount = float(match[1]) / 100 if match else math.inf
    if not math.isfinite(amount):
        unit = "percentage points, such as 0.5" if kind in DROPS else "percent, such as 5 or 5%"
        raise InputError(f"'{text}' is not a limit of the gate on {kind}: give {unit}, or off")
    return Limit(amount)
