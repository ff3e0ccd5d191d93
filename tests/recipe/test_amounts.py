"""Budgets as people write them: shares and counts, and what is neither."""

from __future__ import annotations

import pytest

from jstc.recipe.amounts import milliseconds, parse_latencies, parse_latency
from jstc.recipe.schema import budget_label, parse_amount, parse_amounts


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
        ("101", 101.0),
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


@pytest.mark.parametrize(
    ("value", "ways"), [("50", "50% or 50M"), (50, "50% or 50M"), (2.0, "2% or 2M"), ("100", "100% or 100M")]
)
def test_a_number_that_may_be_a_share_or_a_count_is_asked_about(value, ways):
    with pytest.raises(ValueError, match=f"'{value}' may be meant as a share or as a count: write {ways}$"):
        parse_amount(value)


@pytest.mark.parametrize(
    ("value", "amounts"),
    [
        (None, None),
        ("50%", 0.5),
        (0.5, 0.5),
        (["0.5"], 0.5),
        ("0.35,0.7, 50%", (0.7, 0.5, 0.35)),
        ([0.7, "20M", 1000], (2e7, 1000.0, 0.7)),
        ((0.3, 0.6), (0.6, 0.3)),
    ],
)
def test_one_amount_or_several(value, amounts):
    assert parse_amounts(value) == amounts


@pytest.mark.parametrize("value", ["0.5,", ",", "0.5,x", [0.5, None], [[0.5]], [], {"flops": 1}])
def test_what_is_no_list_of_amounts(value):
    with pytest.raises(ValueError, match="share such as"):
        parse_amounts(value)


@pytest.mark.parametrize("value", ["0.5,50%", [2e7, "20M"], [0.12345671, 0.12345672]])
def test_an_amount_that_is_there_twice(value):
    with pytest.raises(ValueError, match=r"the budget (0\.5|20M|0\.123457) is there twice"):
        parse_amounts(value)


@pytest.mark.parametrize(
    ("metric", "amount", "label"),
    [("flops", 0.5, "flops0.5"), ("flops", 2e7, "flops20M"), ("params", 0.3, "params0.3"),
     ("params", 1500.0, "params1.5k"), ("flops", 10.0, "flops10"), ("flops", 1e17, "flops1e08G")],
)  # fmt: skip
def test_labels(metric, amount, label):
    assert budget_label({metric: amount}) == label


@pytest.mark.parametrize(
    ("text", "amount"),
    [("0.5", 0.5), (0.5, 0.5), ("50%", 0.5), (1, 1.0), ("2ms", "2ms"), ("800us", "0.8ms"), ("0.01s", "10ms")],
)
def test_latencies(text, amount):
    assert parse_latency(text) == amount


@pytest.mark.parametrize("value", ["2", 2, "2kg", "2M", "0", "0ms", "-1ms", "150%", "ms", True, None, [1]])
def test_what_is_no_latency(value):
    with pytest.raises(
        ValueError, match=r"neither a share such as 0\.5 or 50%, nor a time with its unit, such as 2ms"
    ):
        parse_latency(value)


def test_several_latencies():
    assert parse_latencies("800us,5ms,2ms") == ("5ms", "2ms", "0.8ms")
    assert parse_latencies([0.3, "50%"]) == (0.5, 0.3)
    assert milliseconds("0.8ms") == 0.8
    assert budget_label({"latency": "0.8ms"}) == "latency0.8ms"
    with pytest.raises(ValueError, match="there twice"):
        parse_latencies("2ms,2000us")
    with pytest.raises(ValueError, match="shares and times in one list"):
        parse_latencies("2ms,0.5")


def test_the_name_of_a_budget_of_several_bounds_and_of_several_budgets():
    assert budget_label({"flops": 0.5, "params": 0.4, "latency": "2ms"}) == "flops0.5-params0.4-latency2ms"
    assert budget_label({"flops": 0.7}, {"flops": 0.5}) == "flops0.7-0.5"
    assert (
        budget_label({"flops": 2e7, "params": 0.4}, {"flops": 0.3, "params": 0.4}) == "flops20M-0.3-params0.4"
    )
