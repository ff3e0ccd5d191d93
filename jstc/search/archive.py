"""The best plans seen so far, by search-validation accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jstc.plan import Plan

__all__ = ["Archive", "Entry"]


@dataclass(frozen=True)
class Entry:
    """A plan, its accuracy on search-validation after its round, and the round."""

    plan: Plan
    accuracy: float
    round: int


class Archive:
    """At most `size` different plans; of one plan the newest score, of equal scores the newer plan.

    Newer, because the target network's weights go on changing: an old plan's score is a promise less kept.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.entries: list[Entry] = []

    def add(self, plan: Plan, accuracy: float, round_: int) -> None:
        """Offer a plan."""
        others = [entry for entry in self.entries if entry.plan.hash != plan.hash]
        ranked = sorted([*others, Entry(plan, accuracy, round_)], key=lambda e: (-e.accuracy, -e.round))
        self.entries = ranked[: self.size]

    def to_list(self) -> list[dict[str, Any]]:
        """A JSON document."""
        return [{"plan": e.plan.to_dict(), "accuracy": e.accuracy, "round": e.round} for e in self.entries]

    def restore(self, document: list[dict[str, Any]]) -> None:
        """The inverse of `to_list`."""
        self.entries = [Entry(Plan.from_dict(e["plan"]), e["accuracy"], e["round"]) for e in document]
