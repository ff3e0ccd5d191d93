"""The best plans seen so far, by search-validation accuracy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jstc.plan import Plan

__all__ = ["Archive", "Entry", "read_plan"]


def read_plan(document: Any, groups: Iterable[str]) -> Plan:
    """The plan in a JSON document whose keys were sorted, with its groups in the order of `groups` again.

    Their order decides the bytes of `plan.json`, and the last bit of a sum over the groups.
    """
    plan = Plan.from_dict(document)
    names = list(groups)
    return Plan({n: plan.kept[n] for n in names}, {n: plan.widths[n] for n in names})


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

    def restore(self, document: list[dict[str, Any]], groups: Iterable[str]) -> None:
        """The inverse of `to_list`; `groups` are the names of the network's groups in their order."""
        names = list(groups)
        self.entries = [Entry(read_plan(e["plan"], names), e["accuracy"], e["round"]) for e in document]
