"""Histories that TensorBoard shows, too, by torch's own `SummaryWriter`."""

from __future__ import annotations

import importlib.util
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jstc.errors import InputError
from jstc.train.history import History

__all__ = ["ShownHistory", "open_history", "require_tensorboard"]


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
            "tensorboard: the package is missing; `pip install 'jstc[tensorboard]'`, or leave the key out"
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
