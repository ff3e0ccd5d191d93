"""A figure by its name, as people write it."""

from __future__ import annotations

from typing import Any

from jstc.units import with_unit

__all__ = ["figure", "plain"]


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
