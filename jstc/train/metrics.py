"""Figures of a training: sums over batches, and the history that they are written to.

`RunningMetrics` adds up loss and hits on the device; `History` is the log of a stage, a JSON line a round or
an epoch, which TensorBoard may show as well.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jstc._version import install_command
from jstc.core import files
from jstc.core.held import require_held
from jstc.errors import InputError, StageError
from jstc.train import collectives

__all__ = ["History", "RunningMetrics", "ShownHistory", "open_history", "require_tensorboard"]


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
