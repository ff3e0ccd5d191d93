"""A finding: the form in which the report, its parts and the terminal say one thing of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "State", "Wanted"]

State = Literal["good", "warn", "bad", "neutral"]


@dataclass(frozen=True)
class Finding:
    """One fact about a run: `figure` in a word or two where there is one, and a sentence about it.

    `note`: whoever reads the figures has to know it, and so it is in summary.json. `topic`: what it is about,
    where a run with several budgets tells it of all of them together.
    """

    fact: str
    state: State
    sentence: str
    figure: str = ""
    note: bool = False
    topic: Literal["", "busy"] = ""


@dataclass(frozen=True)
class Wanted:
    """Limits that the recipe set, and how far its stages have come (the manifest's states)."""

    baseline: bool = False
    teacher: bool = False
    max_accuracy_drop: float | None = None
    automatic_provider: bool = True
    states: Mapping[str, str] | None = None
