"""The newest checkpoint of a training and the ones before it: a damaged one costs minutes, not the run.

checkpoint.safetensors     the newest
checkpoint.1.safetensors   the one before it, and so on
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from jstc.errors import RunDirectoryError
from jstc.train import checkpoint

__all__ = ["Checkpoints"]

Saved = tuple[dict[str, Tensor], dict[str, Any]]


class Checkpoints:
    """The checkpoint at `path` and `keep - 1` older ones beside it.

    `check` gets the document of a file and its path, and raises `RunDirectoryError` for one that belongs
    to something else; `warn` is told of files that are passed over.
    """

    def __init__(
        self,
        path: Path,
        *,
        keep: int,
        check: Callable[[Mapping[str, Any], Path], None],
        warn: Callable[[str], None],
    ) -> None:
        self.path, self.keep = path, keep
        self._check, self._warn = check, warn
        self._refused: list[Path] = []

    def load(self) -> Saved | None:
        """The newest that is whole and ours; None where there is no file at all.

        Raises the newest one's `RunDirectoryError` when there are files and all are refused.
        """
        errors: list[RunDirectoryError] = []
        for path in filter(Path.exists, self._all()):
            try:
                tensors, meta = checkpoint.load(path)
                self._check(meta, path)
            except RunDirectoryError as error:
                errors.append(error)
                self._refused.append(path)
            else:
                for refused in errors:
                    self._warn(f"{str(refused).rpartition(';')[0]}; going on from {path.name}")
                return tensors, meta
        if errors:
            raise errors[0]
        return None

    def save(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Write the newest, whole or not at all; what was the newest is then the one before it."""
        for path in self._refused:  # never to be taken for good ones
            path.unlink(missing_ok=True)
        self._refused.clear()
        checkpoint.save(self.path, tensors, meta, before=self._shift)

    def drop_older(self) -> None:
        """Delete all but the newest: the training is over."""
        if self.path.exists():
            for path in self._older():
                path.unlink(missing_ok=True)

    def _all(self) -> Iterator[Path]:
        yield self.path
        yield from self._older()

    def _older(self) -> list[Path]:
        """Those that are there, newest first."""
        found = {}
        for path in self.path.parent.glob(f"{self.path.stem}.*{self.path.suffix}"):
            number = path.name.removeprefix(f"{self.path.stem}.").removesuffix(self.path.suffix)
            if number.isdecimal():
                found[int(number)] = path
        return [found[number] for number in sorted(found)]

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.stem}.{number}{self.path.suffix}")

    def _shift(self) -> None:
        """Every file one place back; the newest is also still in its own, whatever happens next."""
        older = self._older()
        for path in older[max(0, self.keep - 1) :]:
            path.unlink(missing_ok=True)
        first = self._numbered(1)
        if self.keep < 2 or not self.path.exists() or (first.exists() and first.samefile(self.path)):
            return
        for number in range(self.keep - 2, 0, -1):
            if self._numbered(number).exists():
                self._numbered(number).replace(self._numbered(number + 1))
        _also_at(self.path, first)


def _also_at(path: Path, other: Path) -> None:
    other.unlink(missing_ok=True)
    try:
        os.link(path, other)
    except OSError:  # a file system without links
        path.replace(other)
