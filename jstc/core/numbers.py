"""Large numbers with a unit, as tables show them. No torch here."""

from __future__ import annotations

import math
from typing import Any

__all__ = [
    "bar",
    "bytesize",
    "count",
    "duration",
    "figure",
    "milliseconds",
    "percent",
    "plain",
    "points",
    "ratio",
    "share",
    "tiny",
    "with_unit",
]

_UNITS = (("G", 1e9), ("M", 1e6), ("k", 1e3))


def with_unit(value: float, *, digits: int = 3) -> str:
    """20500000 -> `20.5 M`; what rounds to the next unit has that: 999600 -> `1 M`, not `1e+03 k`."""
    for unit, size in _UNITS:
        if value >= size * (1 - 0.5 * 10**-digits):
            return f"{value / size:.{digits}g} {unit}"
    return f"{value:,.0f}"


# Numbers as people write them. What is not known is a dash.

UNKNOWN = "-"

_BAR_WIDTH = 16
_EIGHTHS = " ▏▎▍▌▋▊▉"
_COUNT_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BYTE_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))


def count(value: float | None) -> str:
    """20500000 -> `20.5 M`."""
    return UNKNOWN if value is None else _scaled(value, (*_COUNT_UNITS, (1.0, "")))


def bytesize(value: float | None) -> str:
    """1090000 -> `1.09 MB`."""
    return UNKNOWN if value is None else _scaled(value, _BYTE_UNITS)


def percent(value: float | None) -> str:
    """An accuracy: 0.9933 -> `99.33 %`."""
    return UNKNOWN if value is None else f"{100 * value:.2f} %"


def share(part: float | None, whole: float | None) -> str:
    """A part of a whole: 20.5 of 41 -> `50.0 %`."""
    return UNKNOWN if part is None or not whole else f"{100 * part / whole:.1f} %"


def points(after: float | None, before: float | None) -> str:
    """A difference of two fractions: 0.9933 after 0.9940 -> `-0.07 points`."""
    if after is None or before is None:
        return UNKNOWN
    difference = round(100 * (after - before), 2)
    sign = "+" if difference > 0 else "-" if difference < 0 else "±"
    return f"{sign}{abs(difference):.2f} points"


def ratio(value: float | None) -> str:
    """A speed-up: 1.464 -> `1.46x`."""
    return UNKNOWN if value is None else f"{value:.2f}x"


def milliseconds(value: float | None) -> str:
    """1.2412 -> `1.24 ms`."""
    return UNKNOWN if value is None else f"{_three_digits(value)} ms"


def tiny(value: float | None) -> str:
    """A difference of logits: 4.2e-6 -> `4.2e-06`."""
    return UNKNOWN if value is None else f"{value:.1e}"


def duration(seconds: float | None) -> str:
    """133 -> `2 min 13 s`."""
    if seconds is None:
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def bar(part: float, whole: float) -> str:
    """A bar of 16 characters, filled by part / whole in steps of an eighth of a character."""
    eighths = round(8 * _BAR_WIDTH * min(max(part / whole, 0.0), 1.0))
    full, rest = divmod(eighths, 8)
    filled = "█" * full + (_EIGHTHS[rest] if rest else "")
    return filled.ljust(_BAR_WIDTH, "·")


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    # Rounded first, so that 999,999 is 1.00 M and not 1000 k.
    rounded = float(f"{value:.3g}")
    factor, unit = next((item for item in units if rounded >= item[0]), units[-1])
    text = f"{rounded:g}" if factor == 1.0 else _three_digits(rounded / factor)
    return f"{text} {unit}".rstrip()


def _three_digits(value: float) -> str:
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"


# A figure by its name, as people write it.


def figure(name: str, value: Any) -> str:
    """`accuracy` as a percentage, `flops` and `params` with a unit, seconds as seconds, others shortened."""
    if value is None or isinstance(value, bool | str | list | dict):
        return plain(value)
    if "accuracy" in name or "share" in name or "agreement" in name:
        return f"{100 * value:.2f} %" if "accuracy" in name else f"{100 * value:.1f} %"
    if name in ("flops", "params", "limit", "images_seen", "images"):
        return with_unit(value)
    if name == "seconds":
        return f"{value:.1f} s"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def plain(value: Any) -> str:
    """Any JSON value in one line of text."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value) or "-"
    return f"{value:,}" if isinstance(value, int) else str(value)
