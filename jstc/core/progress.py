"""What a stage tells about its progress, and to whom.

Stages call a `Progress`; the command line draws it, tests record it, the library default is silent.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["LEFT_IN_ALL", "Progress", "Silent"]

LEFT_IN_ALL = "seconds_left_in_all"
"""The figure of an `update` for the time that this stage and all that are to come take, once it is known."""


class Progress(Protocol):
    """Receives the progress of one stage at a time."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """A stage begins: `total` steps of `unit` (`round`, `epoch`, `batch`)."""

    def update(self, done: int, **figures: float) -> None:
        """`done` of the steps are finished; `figures` (accuracy, loss, flops ...) are the newest."""

    def message(self, text: str) -> None:
        """One line that the user should read even after the stage is over."""

    def finish(self) -> None:
        """The stage is over."""


class Silent:
    """A `Progress` that says nothing."""

    def start(self, stage: str, total: int, unit: str) -> None:
        pass

    def update(self, done: int, **figures: float) -> None:
        pass

    def message(self, text: str) -> None:
        pass

    def finish(self) -> None:
        pass
