"""What is looked at after every training step: time to save, a request to stop, a loss that is infinite."""

from __future__ import annotations

import time
from collections.abc import Callable

from jstc import stopping
from jstc.errors import DivergedError
from jstc.recipe import CheckpointSettings
from jstc.train import distributed
from jstc.train.schedule import Schedule
from jstc.train.tally import Tally

__all__ = ["Watch"]

_LOOK_EVERY = 100
"""Steps between two looks at the sums, each of which waits for the device."""
_TOGETHER_EVERY = 10
"""At most so many steps between two looks of several processes, which have to agree."""
_TOGETHER_SECONDS = 1.0
"""And no more than fit into this: who asks for a stop does not wait for ten slow steps."""


class Watch:
    """Calls `save` in the middle of a training as often as the recipe asks for, and before it stops."""

    def __init__(self, settings: CheckpointSettings, save: Callable[[], None]) -> None:
        self._settings, self._save = settings, save
        self._part: tuple[Tally, int, Schedule] | None = None
        self._unchecked, self._unseen, self._pace = 0, 0, _TOGETHER_EVERY
        self._looked = time.monotonic()
        self.saved()

    def saved(self) -> None:
        """Everything has just been saved."""
        self._since, self._steps = time.monotonic(), 0

    def over(self, schedule: Schedule, *, first_step: int) -> Tally:
        """The sums of a part of the training that starts at `first_step`, with this watch over its steps."""
        tally = Tally(after=self._after_step)
        self._part = (tally, first_step, schedule)
        return tally

    def at_rest(self) -> None:
        """Between two parts, when everything is saved: stops if asked to."""
        self.saved()
        if _anywhere(stopping.requested()):
            stopping.grant()

    def _after_step(self) -> None:
        assert self._part is not None
        tally, first_step, schedule = self._part
        self._steps += 1
        self._unchecked += 1
        self._unseen += 1
        if distributed.world() > 1 and self._unseen < self._pace:
            return
        stop, due = self._look()
        if stop:
            stopping.reached()
        if stop or due or self._unchecked >= _LOOK_EVERY:
            self._unchecked = 0
            _require_finite(tally, first_step, schedule)
        if stop or due:
            self._save()
            self.saved()
        if stop:
            stopping.grant()

    def _look(self) -> tuple[bool, bool]:
        """Whether any process has to stop, and to save; sets when to look again, in all of them alike."""
        now = time.monotonic()
        stop, due, seconds = distributed.sums([stopping.requested(), self._is_due(), now - self._looked])
        step = seconds / distributed.world() / self._unseen
        self._pace = max(1, int(min(_TOGETHER_EVERY, _TOGETHER_SECONDS / max(step, 1e-9))))
        self._unseen, self._looked = 0, now
        return bool(stop), bool(due)

    def _is_due(self) -> bool:
        seconds, steps = self._settings.every_seconds, self._settings.every_steps
        if steps is not None and self._steps >= steps:
            return True
        return seconds is not None and time.monotonic() - self._since >= seconds


def _anywhere(flag: bool) -> bool:
    """Whether `flag` is true in any of the processes."""
    return bool(distributed.sums([float(flag)])[0])


def _require_finite(tally: Tally, first_step: int, schedule: Schedule) -> None:
    if _anywhere(not tally.is_finite()):
        where = f"before step {first_step + tally.batches} of {schedule.total}"
        raise DivergedError(f"{where}: the loss is not finite", lr=schedule.base)
