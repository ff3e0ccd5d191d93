"""Budgets as people write them, one or several, and what each is called; batch sizes, too. No torch here."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeVar

from jstc.core import numbers
from jstc.errors import InputError

__all__ = [
    "Amount",
    "Asked",
    "Metric",
    "budget_label",
    "milliseconds",
    "parse_amount",
    "parse_amounts",
    "parse_batch_sizes",
    "parse_latencies",
    "parse_latency",
]

Metric = Literal["flops", "params", "latency"]
Amount = float | str
"""A share or a count as a number; a time as a text such as `2ms`."""

Asked = Mapping[Metric, Amount]
"""A budget as it was asked for: the amount of each metric that it bounds."""

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "%": 0.01}
_MOST_PER_CENT = 100  # no network is as small as that, and whoever writes 50 means 50 %, or forgot a unit
_LEAST_ROUNDED = 1000  # a count such as 1.2345k may be meant roughly, one such as 1.5 was meant as a share

_TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_NOT_A_TIME = "neither a share such as 0.5 or 50%, nor a time with its unit, such as 2ms"

# FLOPs and parameters.


def parse_amount(value: object) -> float:
    """A budget as a number: a share of the target network in (0, 1], or an absolute count above 1.

    Understands `0.5`, `50%`, `2G`, `500M`, `1.5e9`. Raises `ValueError` for anything else, and for 2 to 100
    without a unit, which could be a share as well.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("expected a share such as 0.5 or a count such as 500M")
    match = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([kmgt%]?)\s*", str(value).lower())
    amount = _number(match[1]) * _UNITS[match[2]] if match else -1.0
    if match is None or not 0 < amount < float("inf"):
        raise ValueError(f"'{value}' is not a share such as 0.5 or 50%, nor a count such as 500M")
    if amount > 1 and (match[2] == "%" or (amount < _LEAST_ROUNDED and amount % 1)):
        raise ValueError(
            f"'{value}' is neither a share, which goes up to 1, "
            "nor a count, which is a whole number such as 500M"
        )
    if 1 < amount <= _MOST_PER_CENT and not match[2]:
        number = match[1].removesuffix(".0")
        raise ValueError(f"'{value}' may be meant as a share or as a count: write {number}% or {number}M")
    return amount


def parse_amounts(value: object) -> float | tuple[float, ...] | None:
    """One budget, or several as a list or a text with commas (`0.7,0.5,0.35`), from largest to smallest.

    A list of one is that one. Raises `ValueError` as `parse_amount` does, and for a budget given twice.
    """
    return _several(value, parse_amount, "a count such as 500M")


# Latency.


def parse_latency(value: object) -> Amount:
    """A budget of latency: a share of the target network's in (0, 1], or a time such as `2ms`, as a text.

    Understands `0.5`, `50%`, `2ms`, `800us`, `0.01s`. Raises `ValueError` for anything else.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*(us|ms|s|%?)\s*", str(value).lower())
    number = _number(match[1]) if match and not isinstance(value, bool) else -1.0
    if match is None or not 0 < number < float("inf"):
        raise ValueError(f"'{value}' is {_NOT_A_TIME}")
    if match[2] in _TIMES:
        return f"{number * _TIMES[match[2]]:g}ms"
    share = number / 100 if match[2] == "%" else number
    if share > 1:
        raise ValueError(f"'{value}' is {_NOT_A_TIME}")
    return share


def parse_latencies(value: object) -> Amount | tuple[Amount, ...] | None:
    """One budget of latency or several, from the longest to the shortest; shares and times do not mix.

    Raises `ValueError` as `parse_latency` does, and for a budget given twice.
    """
    return _several(value, parse_latency, "a time such as 2ms")


def milliseconds(time: str) -> float:
    """The number in a time that `parse_latency` gave."""
    return float(time.removesuffix("ms"))


# Several, and their names.

_T = TypeVar("_T", float, Amount)


def _several(value: object, parse: Callable[[object], _T], absolute: str) -> _T | tuple[_T, ...] | None:
    if isinstance(value, str) and "," in value:
        value = value.split(",")
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        return parse(value)
    if not value:
        raise ValueError(f"an empty list; expected a share such as 0.5 or {absolute}, or several")
    found = list(map(parse, value))
    if len({isinstance(amount, str) for amount in found}) > 1:
        raise ValueError("shares and times in one list: which is longer is not known yet; give either")
    amounts = sorted(found, key=_size, reverse=True)
    for one, next_one in itertools.pairwise(amounts):
        if _short(one) == _short(next_one):  # they would share a name, too
            raise ValueError(f"the budget {_short(one)} is there twice")
    return tuple(amounts) if len(amounts) > 1 else amounts[0]


def _size(amount: Amount) -> float:
    return milliseconds(amount) if isinstance(amount, str) else amount


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # such as 1.2.3
        return -1.0


def budget_label(*budgets: Asked) -> str:
    """The name of a budget, in names of folders too: `flops0.5`, `latency2ms`, `flops20M-params0.4`.

    Of several, which bound the same metrics, the name of all: `flops0.7-0.5-params0.4`.
    """
    amounts = {metric: dict.fromkeys(_short(asked[metric]) for asked in budgets) for metric in budgets[0]}
    return "-".join(f"{metric}{'-'.join(each)}" for metric, each in amounts.items())


def _short(amount: Amount) -> str:
    return amount.replace("+", "") if isinstance(amount, str) else numbers.compact(amount)


# Batch sizes.


def parse_batch_sizes(words: Iterable[str]) -> list[int]:
    """Batch sizes as options give them: `1,8,32`, or one by one. Raises `InputError` for what is none."""
    sizes = [word.strip() for part in words for word in part.split(",")]
    for word in sizes:
        if not word.isdecimal() or int(word) < 1:
            raise InputError(f"--batch {word}: expected batch sizes from 1 on, such as --batch 1,8,32")
    return list(map(int, sizes))
