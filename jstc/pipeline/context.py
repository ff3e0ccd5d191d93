"""What a stage function gets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jstc.pipeline.workspace import Workspace
from jstc.progress import Progress
from jstc.recipe import Recipe

__all__ = ["StageContext"]


@dataclass(frozen=True)
class StageContext:
    """What a stage function gets: the shared things, the run, its own folder, and whom to tell."""

    workspace: Workspace
    path: Path
    folder: Path
    progress: Progress

    @property
    def recipe(self) -> Recipe:
        """The run's recipe."""
        return self.workspace.recipe
