"""Large numbers with a unit."""

from __future__ import annotations

import pytest

from jstc.core.numbers import with_unit

SHOWN = {
    0: "0", 999: "999", 1000: "1 k", 20_500_000: "20.5 M", 999_400: "999 k", 999_600: "1 M", 4.1e9: "4.1 G",
}  # fmt: skip


@pytest.mark.parametrize(("value", "text"), SHOWN.items())
def test_three_digits_and_the_unit_that_fits_what_is_shown(value, text):
    assert with_unit(value) == text


def test_more_digits_on_demand():
    assert with_unit(5_084_896, digits=4) == "5.085 M"
    assert with_unit(999_960, digits=4) == "1 M"
    assert with_unit(999_940, digits=4) == "999.9 k"
