"""Numbers as people read them, in one place for terminal, report, messages and names of folders.

Counts, bytes and times have so many significant digits (three, unless more are asked for) and the unit that
fits. What is not known is a dash.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any

__all__ = [
    "UNKNOWN",
    "about",
    "bar",
    "bytesize",
    "coarse_ratio",
    "compact",
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
    "unlike",
]

UNKNOWN = "-"

_COUNT_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_BYTE_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))
_COUNTS = ("flops", "params", "limit", "images_seen", "images")

# Amounts with a unit.


def count(value: float | None, *, digits: int = 3, up: bool = False) -> str:
    """20500000 -> `20.5 M`; `up` rounds up, for a figure that the reader is to ask for."""
    return UNKNOWN if value is None else _scaled(value, _COUNT_UNITS, digits, up)


def bytesize(value: float | None, *, digits: int = 3) -> str:
    """1090000 -> `1.09 MB`."""
    return UNKNOWN if value is None else _scaled(value, _BYTE_UNITS, digits)


def milliseconds(value: float | None, *, digits: int = 3, up: bool = False) -> str:
    """1.2412 -> `1.24 ms`."""
    # Above the digits asked for the places before the point stay: 1412.3 -> `1412 ms`.
    return UNKNOWN if value is None else f"{_padded(_rounded_up(value, digits) if up else value, digits)} ms"


def duration(seconds: float | None) -> str:
    """133 -> `2 min 13 s`."""
    if seconds is None:
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def about(seconds: float) -> str:
    """733 -> `about 12 min`: an estimate, as finely as it deserves."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    hours, rest = divmod(minutes, 60)
    if not hours:
        return f"about {minutes} min"
    return f"about {hours} h {rest} min" if hours < 10 else f"about {round(seconds / 3600)} h"


def compact(value: float) -> str:
    """20500000 -> `20.5M`, for names of folders and budgets: no digit is lost below six, no character odd."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}".replace("+", "")
    return f"{value:g}"


def _scaled(value: float, units: tuple[tuple[float, str], ...], digits: int, up: bool = False) -> str:
    # Rounded first, so that 999,999 is 1.00 M and not 1000 k.
    rounded = _rounded_up(value, digits) if up else float(f"{value:.{digits}g}")
    size, unit = next((item for item in units if rounded >= item[0]), units[-1])
    text = f"{rounded:.{digits}g}" if size == 1.0 else _padded(rounded / size, digits)
    return f"{text} {unit}".rstrip()


def _rounded_up(value: float, digits: int) -> float:
    return float(Context(prec=digits, rounding=ROUND_CEILING).create_decimal(Decimal(str(value))))


def _padded(value: float, digits: int) -> str:
    """All significant digits, zeros at the end included, so that columns of figures compare."""
    if value == 0:
        return "0"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


# Parts, differences and ratios.


def percent(value: float | None, error: float | None = None) -> str:
    """An accuracy: 0.9933 -> `99.33 %`; with its sampling error, a fraction too, `99.33 % ±1.1`."""
    return UNKNOWN if value is None else f"{100 * value:.2f} %{_sampling(error)}"


def share(part: float | None, whole: float | None = 1.0) -> str:
    """A part of a whole: 20.5 of 41 -> `50.0 %`."""
    return UNKNOWN if part is None or not whole else f"{100 * part / whole:.1f} %"


def points(after: float | None, before: float | None, error: float | None = None) -> str:
    """A difference of two fractions: 0.9933 after 0.9940 -> `-0.07 points`, or `-0.07 ±1.5 points`."""
    if after is None or before is None:
        return UNKNOWN
    difference = round(100 * (after - before), 2)
    sign = "+" if difference > 0 else "-" if difference < 0 else ""
    return f"{sign}{abs(difference):.2f}{_sampling(error)} points"


def _sampling(error: float | None) -> str:
    """` ±1.4`, in percentage points; nothing where it is not known."""
    return "" if error is None else f" ±{_padded(100 * error, 2)}"


def ratio(value: float | None) -> str:
    """A speed-up: 1.464 -> `1.46x`."""
    return UNKNOWN if value is None else f"{value:.2f}x"


def coarse_ratio(value: float, low: float, high: float) -> str:
    """A speed-up as finely as its interval allows: 5.38 between 1.31 and 7.27 -> `5x`."""
    half = (high - low) / 2
    digits = min(2, max(0, math.ceil(-math.log10(half)))) if half > 0 else 2
    return f"{value:.{digits}f}x"


def tiny(value: float | None) -> str:
    """A difference of logits: 4.2e-6 -> `4.2e-06`."""
    return UNKNOWN if value is None else f"{value:.1e}"


def unlike(value: float, limit: float, show: Callable[[float, int], str], digits: int) -> str:
    """The value with `digits`, or as many more as it takes not to read as the limit that it is beyond.

    `show` gives the text of a number with so many digits: 1.0017 beside 1 is `1.002`, where 1.5 is `1.50`.
    """
    enough = (n for n in range(digits, digits + _MORE_DIGITS) if show(value, n) != show(limit, n))
    return show(value, next(enough, digits))


_MORE_DIGITS = 12
_BAR_WIDTH = 16
_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(part: float, whole: float) -> str:
    """A bar of 16 characters, filled by part / whole in steps of an eighth of a character."""
    eighths = round(8 * _BAR_WIDTH * min(max(part / whole, 0.0), 1.0))
    full, rest = divmod(eighths, 8)
    filled = "█" * full + (_EIGHTHS[rest] if rest else "")
    return filled.ljust(_BAR_WIDTH, "·")


# Any value of a result, by the name that it has there.


def figure(name: str, value: Any) -> str:
    """`accuracy` and `chance` as percentages, `flops` with a unit, `seconds` as a duration, others short."""
    if value is None or isinstance(value, bool | str | list | dict):
        return plain(value)
    if "accuracy" in name or name == "chance":
        return percent(value)
    if "share" in name or "agreement" in name:
        return share(value)
    if name in _COUNTS:
        return count(value)
    if name == "seconds":
        return duration(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def plain(value: Any) -> str:
    """Any JSON value in one line of text."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items()) or UNKNOWN
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value) or UNKNOWN
    return f"{value:,}" if isinstance(value, int) else str(value)
