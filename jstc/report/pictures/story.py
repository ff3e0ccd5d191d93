"""What the pictures of a run are drawn from, and what the report says of one that was drawn."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jstc.report.histories import read_history
from jstc.report.summary import build, read

__all__ = ["Picture", "Story", "read_story"]

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
class Story:
    """A run: its summary, the lines of its two trainings, and what the search and finetune say at the end.

    `label` is the name of the budget whose run this is, where the search was for several.
    """

    summary: dict[str, Any]
    search: Records
    finetune: Records
    results: dict[str, dict[str, Any]]
    label: str = ""

    def own(self, record: dict[str, Any]) -> bool:
        """Whether a round of the search was for this run's budget; all are, unless there are several."""
        labels = {str(other.get("budget")) for other in self.search}
        return self.label not in labels or record.get("budget") == self.label


def read_story(run: Path) -> Story:
    """The story of the run at `run`. Raises `RunDirectoryError` when one of its documents is damaged."""
    search, finetune = (read_history(run / stage / "history.jsonl") for stage in ("search", "finetune"))
    results = {stage: read(run, f"{stage}/result.json") for stage in ("search", "finetune")}
    return Story(build(run), search, finetune, results, run.name)
