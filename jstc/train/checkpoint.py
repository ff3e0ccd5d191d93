"""Checkpoints: tensors and their description in one safetensors file, the newest and a few before it.

One file, so that tensors and description can never disagree; several, so that a damaged one costs minutes and
not the run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from jstc.core import files
from jstc.errors import RunDirectoryError

__all__ = ["Checkpoints", "copies", "differences", "join", "load", "part", "save"]

# One key, because the header's order of several is not fixed and equal states should give equal files.
_KEY = "jstc"
_SCHEMA = 1


def save(
    path: Path,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    *,
    before: Callable[[], object] | None = None,
) -> None:
    """Write `tensors` and the JSON document `meta` to `path`, whole or not at all.

    Tensors are stored contiguous and keep their dtype; a hash over everything is kept with them. `before`
    is called when everything is written and the old file is still there. Raises `DiskFullError`.
    """
    stored = copies(tensors)  # because safetensors refuses tensors that share memory (tied weights)
    document = {"schema": _SCHEMA, "sha256": _digest(stored, dict(meta)), "meta": dict(meta)}
    header = {_KEY: json.dumps(document, sort_keys=True, allow_nan=False)}

    def write(temporary: Path) -> None:
        save_file(stored, temporary, metadata=header)
        if before is not None:
            before()

    size = sum(tensor.nbytes for tensor in stored.values()) + len(header[_KEY])
    files.write_with(path, write, size=size)


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values as they are now, contiguous and in the host's memory."""
    return {name: _copy(tensor) for name, tensor in tensors.items()}


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the document that `save` wrote.

    Raises `RunDirectoryError` for a file that is missing, damaged, or not from `save`.
    """
    try:
        files.require_regular(path)
        with safetensors.safe_open(path, framework="pt") as file:
            document = files.parse_json((file.metadata() or {})[_KEY], where=str(path))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        schema, digest, meta = document["schema"], document["sha256"], document["meta"]
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise _unusable(path, f"cannot be read ({_short(error)})") from None
    if schema != _SCHEMA:
        raise _unusable(path, f"has schema {schema}, this version reads {_SCHEMA}")
    if digest != _digest(tensors, meta):
        raise _unusable(path, "does not match its own hash: it was changed or damaged")
    return tensors, meta


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _unusable(path: Path, what: str) -> RunDirectoryError:
    advice = "delete it to repeat that part of the run, or start over (--fresh, in Python fresh=True)"
    return RunDirectoryError(f"checkpoint {path} {what}", advice)


def _digest(tensors: Mapping[str, Tensor], meta: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True, allow_nan=False).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def differences(theirs: Any, ours: Mapping[str, Any]) -> list[str]:
    """Keys in which what a checkpoint says it belongs to, `theirs`, is not `ours`; sorted."""
    theirs = theirs if isinstance(theirs, dict) else {}
    return sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))


def join(**parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One flat mapping: `join(network=a, momentum=b)` has the names `network.*` and `momentum.*`."""
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors that `join` put under `name`, without the prefix."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


# The newest checkpoint of a training and the ones before it:
# checkpoint.safetensors     the newest
# checkpoint.1.safetensors   the one before it, and so on

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
                tensors, meta = load(path)
                self._check(meta, path)
            except RunDirectoryError as error:
                errors.append(error)
                self._refused.append(path)
            else:
                for refused in errors:
                    self._warn(f"{refused.problem}; going on from {path.name}")
                return tensors, meta
        if errors:
            raise errors[0]
        return None

    def save(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Write the newest, whole or not at all; what was the newest is then the one before it."""
        for path in self._refused:  # never to be taken for good ones
            path.unlink(missing_ok=True)
        self._refused.clear()
        save(self.path, tensors, meta, before=self._shift)

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
