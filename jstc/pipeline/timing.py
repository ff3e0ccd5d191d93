"""Seconds of work that survive interruptions."""

from __future__ import annotations

import time

from jstc.pipeline.run_directory import RunDirectory
from jstc.progress import Progress

__all__ = ["Stopwatch"]

_SAVE_EVERY = 10.0


class Stopwatch:
    """A `Progress` that passes everything on, and puts the time of a stage on the run's record."""

    def __init__(self, run: RunDirectory, stage: str, progress: Progress) -> None:
        self._run, self._stage, self._progress = run, stage, progress
        self._since = time.monotonic()

    def start(self, stage: str, total: int, unit: str) -> None:
        self._progress.start(stage, total, unit)

    def update(self, done: int, **figures: float) -> None:
        # Now and then, so that even a process that is killed leaves most of its time on record.
        if time.monotonic() - self._since > _SAVE_EVERY:
            self.save()
        self._progress.update(done, **figures)

    def message(self, text: str) -> None:
        self._progress.message(text)

    def finish(self) -> None:
        self._progress.finish()

    def save(self) -> None:
        """Record the time since the last save."""
        now = time.monotonic()
        self._since, elapsed = now, now - self._since
        self._run.spend(self._stage, elapsed)
