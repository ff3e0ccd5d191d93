"""Figures of a training: sums over batches, and the history that they are written to.

`RunningMetrics` adds up loss and hits on the device; `History` is the log of a stage, a JSON line a round or
an epoch, which TensorBoard may show as well.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jstc._version import install_command
from jstc.core import files, signals
from jstc.core.files import require_held
from jstc.errors import DivergedError, InputError, StageError
from jstc.recipe.schema import CheckpointSettings, TrainSettings
from jstc.train import collectives
from jstc.train.schedule import Schedule

__all__ = [
    "History",
    "RunningMetrics",
    "ShownHistory",
    "TrainingMonitor",
    "lowered",
    "open_history",
    "require_finite",
    "require_tensorboard",
    "rolled_back",
]


class RunningMetrics:
    """Sums of loss and hits over `batches` batches with `images` images.

    The sums stay on the device and in float64, so that a step never waits and the order of adding is
    harmless. Whoever saves a training in the middle keeps `to_dict` with it.
    """

    def __init__(self) -> None:
        self.batches = 0
        self.images = 0
        self._sums: Tensor | None = None

    def add(self, loss: Tensor, scores: Tensor, labels: Tensor) -> None:
        """One batch more: mean loss, scores [N, classes], labels [N]."""
        number = labels.shape[0]
        correct = (scores.argmax(dim=1) == labels).sum()
        new = torch.stack([loss.detach().double() * number, correct.double()])
        self._sums = new if self._sums is None else self._sums.to(new.device).add_(new)
        self.batches += 1
        self.images += number

    def means(self) -> tuple[float, float, int]:
        """Mean loss, accuracy, and number of images, of all processes together; waits for the device.

        Raises `StageError` where there are no images at all.
        """
        loss, correct = self._values()
        loss, correct, images = collectives.sums([loss, correct, self.images])
        if not images:
            raise StageError("no images: the split is empty")
        return loss / images, correct / images, int(images)

    def is_finite(self) -> bool:
        """Whether no batch had an infinite loss; waits for the device."""
        return self._sums is None or all(map(math.isfinite, self._sums.tolist()))

    def to_dict(self) -> dict[str, Any]:
        """A JSON document, exact, of all processes together; waits for the device."""
        loss, correct, images = collectives.sums([*self._values(), self.images])
        return {"batches": self.batches, "images": int(images), "loss": loss, "correct": correct}

    def restore(self, document: Mapping[str, Any]) -> None:
        """Take over what `to_dict` gave; of several processes the first one does."""
        self.batches = int(document["batches"])
        if self.batches and collectives.is_first():
            self.images = int(document["images"])
            self._sums = torch.tensor([document["loss"], document["correct"]], dtype=torch.float64)

    def _values(self) -> tuple[float, float]:
        loss, correct = (0.0, 0.0) if self._sums is None else self._sums.tolist()
        return loss, correct


# The history: an append-only log that survives being cut off in the middle of a line


class History:
    """Records in a `.jsonl` file, numbered 0, 1, 2 ... under the key `index`.

    The checkpoint knows how many records are true; a part that goes on from it calls `truncate` first, so
    that lines written after that checkpoint, whole or broken, are dropped and written anew.
    """

    def __init__(self, path: Path, *, index: str = "index") -> None:
        self.path = path
        self.index = index
        self._count: int | None = None

    def read(self) -> list[dict[str, Any]]:
        """The unbroken records from the start, in order; none when there is no file."""
        try:
            lines = files.read_bytes(self.path, limit=files.MAX_HISTORY_BYTES).split(b"\n")
        except FileNotFoundError:
            return []
        records: list[dict[str, Any]] = []
        for line in lines[:-1]:  # what follows the last line end was never finished
            record = _parse(line)
            if record is None or record.get(self.index) != len(records):
                break
            records.append(record)
        return records

    def truncate(self, count: int) -> None:
        """Keep the first `count` records and nothing else."""
        self._keep(self.read()[:count])

    def _keep(self, records: list[dict[str, Any]]) -> int:
        if self.path.exists():
            files.write_text(self.path, "".join(_line(record) for record in records))
        self._count = len(records)
        return self._count

    def append(self, record: Mapping[str, Any]) -> None:
        """Add the record with the next number, and flush it to disk.

        Raises `ValueError` for a record whose number is not the next one, `DiskFullError` without space.
        """
        # Before our first line: a broken one at the end would swallow it.
        count = self._keep(self.read()) if self._count is None else self._count
        if record.get(self.index) != count:
            raise ValueError(f"{self.path}: the record is number {record.get(self.index)!r}, not {count}")
        with files.space_for(self.path):
            self._write(_line(record).encode())
        self._count = count + 1

    def _write(self, line: bytes) -> None:
        require_held(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = self.path.stat().st_size if self.path.exists() else 0
        try:
            with files.open_to_append(self.path) as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError:  # a full disk: what went before is whole again
            os.truncate(self.path, before)
            raise


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


# Histories that TensorBoard shows, too, by torch's own `SummaryWriter`


def open_history(directory: Path, *, index: str, tensorboard: bool) -> History:
    """The history of the stage in `directory`; with `tensorboard` also under `tensorboard/` beside that."""
    path = directory / "history.jsonl"
    if not tensorboard:
        return History(path, index=index)
    return ShownHistory(path, index=index, folder=directory.parent / "tensorboard" / directory.name)


def require_tensorboard() -> None:
    """Raise `InputError` unless the package is there."""
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError(
            f"tensorboard: the package is missing; `{install_command('tensorboard')}`, or leave the key out"
        )


class ShownHistory(History):
    """A history whose numbers are also written to `folder`, as scalars `stage/key` over the index.

    Whoever begins or goes on writes that folder anew from the history, so that it shows every record once,
    whatever had been written before a training was cut off.
    """

    def __init__(self, path: Path, *, index: str, folder: Path) -> None:
        require_tensorboard()
        super().__init__(path, index=index)
        self._folder = folder
        self._writer: Any = None

    def truncate(self, count: int) -> None:
        """Keep the first `count` records and nothing else, and show these."""
        super().truncate(count)
        self._begin()

    def append(self, record: Mapping[str, Any]) -> None:
        """Add the record with the next number, and show it."""
        super().append(record)
        if self._writer is None:
            self._begin()
        else:
            self._show(record)
        self._writer.flush()

    def _begin(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is not None:
            self._writer.close()
        for old in self._folder.glob("events.out.tfevents.*"):
            old.unlink()
        # The purge is for a TensorBoard that has read the old files and is still open.
        self._writer = SummaryWriter(str(self._folder), purge_step=0)
        weakref.finalize(self, self._writer.close)
        for record in self.read():
            self._show(record)
        self._writer.flush()

    def _show(self, record: Mapping[str, Any]) -> None:
        for key, value in record.items():
            if key != self.index and isinstance(value, int | float) and not isinstance(value, bool):
                self._writer.add_scalar(f"{self._folder.name}/{key}", value, record[self.index])


# Supervision of a training: when to save, a request to stop, a loss that is infinite, and the way back.
#
# Whoever drives a training has a `TrainingMonitor` and calls it after every step. A training that diverges
# goes back to its last good state, and on with a lower learning rate.


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
