"""How far the training of a round is, so that it can be put down in the middle of it and taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jstc.train.loop import TrainFigures
from jstc.train.schedule import Schedule
from jstc.train.tally import Tally
from jstc.train.watch import Watch

__all__ = ["Middle"]


@dataclass
class Middle:
    """The finished parts of a round, what they came to, and the sums of the part at work.

    `watch`, where there is one, looks after every step.
    """

    part: int = 0
    images: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    watch: Watch | None = None
    _tally: Tally | None = None
    _sums: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any], watch: Watch) -> Middle:
        """The inverse of `to_dict`."""
        figures = {name: document[name] for name in ("part", "images", "loss", "accuracy")}
        return cls(**figures, watch=watch, _sums=document["sums"])

    def begin(self, schedule: Schedule, *, first_step: int) -> Tally:
        """The sums of the next part, with what was there of it before; it starts at `first_step`."""
        if self.watch is None:
            self._tally = Tally()
        else:
            self._tally = self.watch.over(schedule, first_step=first_step)
        if self._sums is not None:
            self._tally.restore(self._sums)
        return self._tally

    def end(self, figures: TrainFigures, *, steps: int) -> None:
        """A part is over, of a round of so many `steps`."""
        self.part, self._tally, self._sums = self.part + 1, None, None
        self.images += figures.images
        self.loss += figures.loss * figures.steps / steps
        self.accuracy += figures.accuracy * figures.steps / steps

    def to_dict(self) -> dict[str, Any]:
        """A JSON document, exact; waits for the device."""
        return {
            "part": self.part,
            "images": self.images,
            "loss": self.loss,
            "accuracy": self.accuracy,
            "sums": None if self._tally is None else self._tally.to_dict(),
        }
