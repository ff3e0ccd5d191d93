"""A training that diverges goes back to its last good state, and on with a lower learning rate."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from jstc.errors import DivergedError
from jstc.recipe import TrainSettings
from jstc.train.schedule import Schedule

__all__ = ["lowered", "require_finite", "rolled_back"]


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


def rolled_back(error: DivergedError, settings: TrainSettings, rollbacks: int, *, to: str) -> str:
    """What to tell when a training goes back `to` a good state for the time with the number `rollbacks`.

    Raises a `DivergedError` that says what was tried when that is one time too many.
    """
    rates = [settings.lr * settings.rollback_factor**number for number in range(rollbacks + 1)]
    if rollbacks > settings.max_rollbacks:
        text = ", ".join(f"{rate:g}" for rate in rates[:-1])
        tried = f" so it did from {to} at every train.lr tried ({text});" if rollbacks > 1 else ""
        raise DivergedError(error.what, lr=settings.lr, tried=tried) from None
    return (
        f"training diverged {error.what}; going back to {to}, and on with the learning rates of train.lr "
        f"{rates[-1]:g} instead of {rates[-2]:g} ({rollbacks} of at most {settings.max_rollbacks} times)"
    )
