"""Budgets as people write them: shares and counts, and what is neither."""

from __future__ import annotations

import pytest

from jstc.recipe import parse_amount


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0.5", 0.5),
        ("50%", 0.5),
        ("2G", 2e9),
        ("500M", 5e8),
        ("1.5e9", 1.5e9),
        ("10k", 1e4),
        ("1", 1.0),
        ("100%", 1.0),
        ("10", 10.0),
        ("1.2345k", 1234.5),
    ],
)
def test_amounts(text, amount):
    assert parse_amount(text) == pytest.approx(amount)


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "0", "1.2.3", "5MB", True, None, [1], float("nan"), float("inf")]
)
def test_what_is_not_an_amount(text):
    with pytest.raises(ValueError, match="share"):
        parse_amount(text)


@pytest.mark.parametrize("text", ["1.5", 2.5, "999.5", "150%", "200%"])
def test_an_amount_between_a_share_and_a_count(text):
    with pytest.raises(ValueError, match=r"neither a share, which goes up to 1, nor a count, .*as 500M$"):
        parse_amount(text)
