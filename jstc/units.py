"""Large numbers with a unit, as tables show them. No torch here."""

from __future__ import annotations

__all__ = ["with_unit"]

_UNITS = (("G", 1e9), ("M", 1e6), ("k", 1e3))


def with_unit(value: float, *, digits: int = 3) -> str:
    """20500000 -> `20.5 M`; what rounds to the next unit has that: 999600 -> `1 M`, not `1e+03 k`."""
    for unit, size in _UNITS:
        if value >= size * (1 - 0.5 * 10**-digits):
            return f"{value / size:.{digits}g} {unit}"
    return f"{value:,.0f}"
