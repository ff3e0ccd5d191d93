"""Budgets as people write them: one, or several; and what each is called. No torch here."""

from __future__ import annotations

import itertools
import re
from typing import Literal

__all__ = ["Metric", "budget_label", "parse_amount", "parse_amounts"]

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "%": 0.01}
_LEAST_ROUNDED = 1000  # a count such as 1.2345k may be meant roughly, one such as 1.5 was meant as a share

Metric = Literal["flops", "params"]


def parse_amount(value: object) -> float:
    """A budget as a number: a share of the target network in (0, 1], or an absolute count above 1.

    Understands `0.5`, `50%`, `2G`, `500M`, `1.5e9`. Raises `ValueError` for anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("expected a share such as 0.5 or a count such as 500M")
    match = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([kmgt%]?)\s*", str(value).lower())
    try:
        amount = float(match[1]) * _UNITS[match[2]] if match else -1.0
    except ValueError:
        amount = -1.0
    if not 0 < amount < float("inf"):
        raise ValueError(f"'{value}' is not a share such as 0.5 or 50%, nor a count such as 500M")
    assert match is not None
    if amount > 1 and (match[2] == "%" or (amount < _LEAST_ROUNDED and amount % 1)):
        raise ValueError(
            f"'{value}' is neither a share, which goes up to 1, "
            "nor a count, which is a whole number such as 500M"
        )
    return amount


def parse_amounts(value: object) -> float | tuple[float, ...] | None:
    """One budget, or several as a list or a text with commas (`0.7,0.5,0.35`), from largest to smallest.

    A list of one is that one. Raises `ValueError` as `parse_amount` does, and for a budget given twice.
    """
    if isinstance(value, str) and "," in value:
        value = value.split(",")
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        return parse_amount(value)
    if not value:
        raise ValueError("an empty list; expected a share such as 0.5 or a count such as 500M, or several")
    amounts = sorted(map(parse_amount, value), reverse=True)
    for one, next_one in itertools.pairwise(amounts):
        if _short(one) == _short(next_one):  # they would share a name, too
            raise ValueError(f"the budget {_short(one)} is there twice")
    return tuple(amounts) if len(amounts) > 1 else amounts[0]


def budget_label(metric: Metric, amount: float) -> str:
    """What a budget is called, in names of folders too: `flops0.5`, `flops20M`, `params0.3`."""
    return f"{metric}{_short(amount)}"


def _short(amount: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if amount >= size:
            return f"{amount / size:g}{unit}".replace("+", "")
    return f"{amount:g}"
