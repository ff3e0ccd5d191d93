"""What the pictures of a run are drawn from, and what the report says of one that was drawn."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jstc.report.histories import read_history
from jstc.report.summary import build, read

__all__ = ["Drawing", "Picture", "Story", "read_story"]

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Picture:
    """A picture for the report: its place in the run directory, what it shows in words, how to read it."""

    file: str
    alt: str
    caption: str

    def to_dict(self) -> dict[str, str]:
        """A JSON document."""
        return asdict(self)


@dataclass(frozen=True)
class Drawing:
    """A picture and the text of its SVG file."""

    picture: Picture
    svg: str


@dataclass(frozen=True)
class Story:
    """A run: its summary, the lines of its two trainings, and what the search and finetune say at the end.

    `label` is the name of the budget whose run this is, where the search was for several.
    """

    summary: dict[str, Any]
    search: Records
    finetune: Records
    results: dict[str, dict[str, Any]]
    label: str = ""

    @cached_property
    def own_rounds(self) -> list[tuple[int, dict[str, Any]]]:
        """The rounds of the search for this run's budget, which are all unless there are several budgets.

        Each with its number among all rounds, from 1.
        """
        numbered = list(enumerate(self.search, 1))
        own = [(number, record) for number, record in numbered if record.get("budget") == self.label]
        return own or numbered


def read_story(run: Path) -> Story:
    """The story of the run at `run`. Raises `RunDirectoryError` when one of its documents is damaged."""
    search, finetune = (read_history(run / stage / "history.jsonl") for stage in ("search", "finetune"))
    results = {stage: read(run, f"{stage}/result.json") for stage in ("search", "finetune")}
    return Story(build(run), search, finetune, results, run.name)
