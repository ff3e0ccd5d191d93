"""Numbers as people read them."""

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
    [(0.9933, 0.9940, "-0.07 points"), (0.99, 0.98, "+1.00 points"), (0.5, 0.5, "0.00 points"),
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
    ("value", "text", "up"),
    [(5_084_896, "5.085 M", "5.085 M"), (999_960, "1.000 M", "1.000 M"), (999_940, "999.9 k", "1.000 M"),
     (40_930_001, "40.93 M", "40.94 M"), (40_930_000, "40.93 M", "40.93 M"), (9_999, "9.999 k", "9.999 k")],
)  # fmt: skip
def test_more_digits_on_demand_and_rounded_up_for_a_figure_to_ask_for(value: int, text: str, up: str) -> None:
    assert numbers.count(value, digits=4) == text
    assert numbers.count(value, digits=4, up=True) == up


def test_times_are_rounded_up_as_they_are_written_and_not_as_they_are_stored() -> None:
    assert numbers.milliseconds(1.234, digits=4, up=True) == "1.234 ms"
    assert numbers.milliseconds(1.23401, digits=4, up=True) == "1.235 ms"
    assert numbers.milliseconds(1412.3) == "1412 ms"


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "0.5"), (20e6, "20M"), (20_480_000, "20.48M"), (1.5e9, "1.5G"), (1000, "1k")]
)
def test_names_of_folders_have_no_spaces_and_lose_no_digits(value: float, text: str) -> None:
    assert numbers.compact(value) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(8, 16, "████████········"), (16, 16, "█" * 16), (0, 16, "·" * 16), (1, 32, "▌" + "·" * 15)],
)
def test_bars_have_sixteen_characters(part: int, whole: int, text: str) -> None:
    assert numbers.bar(part, whole) == text


@pytest.mark.parametrize(
    ("value", "limit", "text"),
    [
        (1.5, 1.0, "1.50"),
        (1.0017, 1.0, "1.002"),
        (1.00002, 1.0, "1.00002"),
        (2.999, 3, "2.999"),
        (1.0, 1.0, "1.00"),
    ],
)
def test_what_is_beyond_a_limit_does_not_read_like_it(value, limit, text):
    assert numbers.unlike(value, limit, "{:.{}f}".format, 2) == text
