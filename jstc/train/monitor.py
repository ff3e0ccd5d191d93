"""Supervision of a training: when to save, a request to stop, a loss that is infinite, and the way back.

Whoever drives a training has a `TrainingMonitor` and calls it after every step. A training that diverges goes
back to its last good state, and on with a lower learning rate.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import torch
from torch import nn

from jstc.core import signals
from jstc.errors import DivergedError
from jstc.recipe.schema import CheckpointSettings, TrainSettings
from jstc.train import collectives
from jstc.train.metrics import RunningMetrics
from jstc.train.schedule import Schedule

__all__ = ["TrainingMonitor", "lowered", "require_finite", "rolled_back"]

_LOOK_EVERY = 100
"""Steps between two looks at the sums, each of which waits for the device."""
_TOGETHER_EVERY = 10
"""At most so many steps between two looks of several processes, which have to agree."""
_TOGETHER_SECONDS = 1.0
"""And no more than fit into this: who asks for a stop does not wait for ten slow steps."""


class TrainingMonitor:
    """Calls `save` in the middle of a training as often as the recipe asks for, and before it stops."""

    def __init__(self, settings: CheckpointSettings, save: Callable[[], None]) -> None:
        self._settings, self._save = settings, save
        self._unchecked, self._unseen, self._pace = 0, 0, _TOGETHER_EVERY
        self._looked = time.monotonic()
        self.saved()

    def saved(self) -> None:
        """Everything has just been saved."""
        self._since, self._steps = time.monotonic(), 0

    def at_rest(self) -> None:
        """Between two parts, when everything is saved: stops if asked to."""
        self.saved()
        if _anywhere(signals.stop_requested()):
            signals.stop()

    def after_step(self, step: int, metrics: RunningMetrics, schedule: Schedule) -> None:
        """Step number `step` of the schedule is over; saves where it is time for it.

        Raises `DivergedError` when a loss in `metrics` is not finite, looked at now and then and before every
        save; stops as `core.signals.stop` does when that was asked for.
        """
        self._steps += 1
        self._unchecked += 1
        self._unseen += 1
        if collectives.world() > 1 and self._unseen < self._pace:
            return
        stop, due = self._look()
        if stop:
            signals.begin_saving()
        if stop or due or self._unchecked >= _LOOK_EVERY:
            self._unchecked = 0
            _require_finite_loss(metrics, step, schedule)
        if stop or due:
            self._save()
            self.saved()
        if stop:
            signals.stop()

    def _look(self) -> tuple[bool, bool]:
        """Whether any process has to stop, and to save; sets when to look again, in all of them alike."""
        now = time.monotonic()
        looked = [signals.stop_requested(), self._is_due(), now - self._looked]
        stop, due, seconds = collectives.sums(looked)
        step = seconds / collectives.world() / self._unseen
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
    return bool(collectives.sums([float(flag)])[0])


def _require_finite_loss(metrics: RunningMetrics, step: int, schedule: Schedule) -> None:
    if _anywhere(not metrics.is_finite()):
        where = f"before step {step + 1} of {schedule.total}"
        raise DivergedError(f"{where}: the loss is not finite", lr=schedule.base)


# Divergence: noticed in the weights, answered by a lower learning rate


def lowered(schedule: Schedule, settings: TrainSettings, rollbacks: int) -> Schedule:
    """The schedule after so many rollbacks; itself before the first."""
    if not rollbacks:
        return schedule
    return dataclasses.replace(schedule, base=schedule.base * settings.rollback_factor**rollbacks)


def require_finite(network: nn.Module, *, step: int, schedule: Schedule) -> None:
    """Raise `DivergedError` when a parameter or a buffer is not finite. Waits for the device, once.

    The loss is looked at before each step only: what the last one did would go on unseen.
    """
    tensors = [t.detach() for t in (*network.parameters(), *network.buffers()) if t.is_floating_point()]
    if tensors and not torch.stack([tensor.isfinite().all() for tensor in tensors]).all():
        what = f"before step {step} of {schedule.total}: weights or statistics are infinite"
        raise DivergedError(what, lr=schedule.base)


def rolled_back(
    error: DivergedError, settings: TrainSettings, rollbacks: int, *, to: str, precision: str
) -> str:
    """Message for a training that goes back `to` a good state for the time with the number `rollbacks`.

    `precision` is the number format that it trains in.

    Raises a `DivergedError` that says what was tried when that is one time too many.
    """
    rates = [settings.lr * settings.rollback_factor**number for number in range(rollbacks + 1)]
    if rollbacks > settings.max_rollbacks:
        text = ", ".join(f"{rate:g}" for rate in rates[:-1])
        tried = f"so it did from {to} at every train.lr tried ({text})" if rollbacks > 1 else ""
        raise DivergedError(error.what, lr=settings.lr, tried=tried, precision=precision) from None
    told = (
        f"training in {precision} diverged {error.what}; going back to {to}, and on with the learning rates"
    )
    tried = f"({rollbacks} of at most {settings.max_rollbacks} times)"
    return f"{told} of train.lr {rates[-1]:g} instead of {rates[-2]:g} {tried}"
