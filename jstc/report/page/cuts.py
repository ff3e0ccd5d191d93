"""What was cut where: the rows of the picture, and the list of all groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jstc.report.pictures import widths

__all__ = ["Cuts", "cuts"]


@dataclass(frozen=True)
class Cuts:
    """Rows for the picture, in the order of the network; `largest` is the largest share of FLOPs in it."""

    rows: list[widths.Row]
    largest: float
    kept: int
    width: int
    joined: bool
    after: bool


def cuts(summary: dict[str, Any]) -> Cuts | None:
    """The groups, those alike in one row where they are many; None without groups or without a plan."""
    groups = widths.planned(summary)
    if not groups:
        return None
    rows = widths.table_rows(groups, widths.flops_scale(summary))
    return Cuts(
        rows,
        max(max(row.before, row.after or 0.0) for row in rows) or 1.0,
        sum(group["kept"] for group in groups),
        sum(group["width"] for group in groups),
        len(rows) < len(groups),
        any(row.after is not None for row in rows),
    )
