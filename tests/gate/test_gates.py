from __future__ import annotations

import pytest

from jstc.errors import InputError
from jstc.gate import limits
from jstc.gate.gates import DEFAULTS, Limit, parse_limit


@pytest.mark.parametrize(
    ("text", "amount"),
    [("5%", 0.05), ("5", 0.05), ("0.5", 0.005), (" 0.5 % ", 0.005), ("0%", 0.0), (".5", 0.005),
     ("1e-3", 1e-5), ("+20%", 0.2), ("off", None), ("OFF", None)],
)  # fmt: skip
def test_percent_and_plain_numbers_are_understood(text: str, amount: float | None) -> None:
    found = parse_limit(text, "latency")
    assert found.amount == (None if amount is None else pytest.approx(amount))
    assert not found.or_budget


@pytest.mark.parametrize("text", ["", "much", "-5%", "nan", "inf", "5%%", "1e999", "5 points", "0x5"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(
        InputError, match=r"not a limit of the gate on latency: give percent, such as 5 or 5%, or off"
    ):
        parse_limit(text, "latency")
    with pytest.raises(InputError, match=r"give percentage points, such as 0\.5, or off"):
        parse_limit(text, "accuracy")


def test_what_is_not_given_has_its_default() -> None:
    found = limits({"latency": "10%", "accuracy": None})
    assert found["latency"] == Limit(pytest.approx(0.1))
    assert {kind: found[kind] for kind in found if kind != "latency"} == {
        kind: limit for kind, limit in DEFAULTS.items() if kind != "latency"
    }
