from __future__ import annotations

import pytest

from jstc.core import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [(20_500_000, "20.5 M"), (272_474, "272 k"), (4_089_184_256, "4.09 G"), (999_999, "1.00 M"),
     (999, "999"), (805.74, "806"), (0, "0"), (None, "-")],
)  # fmt: skip
def test_counts_have_three_digits_and_a_unit(value: float | None, text: str) -> None:
    assert numbers.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1_090_000, "1.09 MB"), (560_000, "560 kB"), (17, "17 bytes"), (None, "-")]
)
def test_bytes_are_decimal(value: float | None, text: str) -> None:
    assert numbers.bytesize(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1.2412, "1.24 ms"), (0.08534, "0.0853 ms"), (124.2, "124 ms"), (None, "-")]
)
def test_milliseconds_have_three_digits(value: float | None, text: str) -> None:
    assert numbers.milliseconds(value) == text


@pytest.mark.parametrize(
    ("after", "before", "text"),
    [(0.9933, 0.9940, "-0.07 points"), (0.99, 0.98, "+1.00 points"), (0.5, 0.5, "±0.00 points"),
     (0.5, None, "-"), (None, 0.5, "-")],
)  # fmt: skip
def test_points_show_their_sign(after: float | None, before: float | None, text: str) -> None:
    assert numbers.points(after, before) == text


def test_percentages() -> None:
    assert numbers.percent(0.9933) == "99.33 %"
    assert numbers.share(20.5, 41) == "50.0 %"
    assert numbers.share(1, 0) == numbers.share(1, None) == numbers.percent(None) == "-"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.46, "1.5 s"), (59.4, "59 s"), (133, "2 min 13 s"), (7260, "2 h 1 min"), (None, "-")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert numbers.duration(seconds) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(8, 16, "████████········"), (16, 16, "█" * 16), (0, 16, "·" * 16), (1, 32, "▌" + "·" * 15)],
)
def test_bars_have_sixteen_characters(part: int, whole: int, text: str) -> None:
    assert numbers.bar(part, whole) == text
