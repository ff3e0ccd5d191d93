"""Tensors and their description in one safetensors file, so that the two can never disagree."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from jstc import files, reading
from jstc.errors import RunDirectoryError

__all__ = ["copies", "differences", "join", "load", "part", "save"]

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
        with safetensors.safe_open(path, framework="pt") as file:
            document = reading.parse_json((file.metadata() or {})[_KEY], where=str(path))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        schema, digest, meta = document["schema"], document["sha256"], document["meta"]
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise RunDirectoryError(_complaint(path, f"cannot be read ({_short(error)})")) from None
    if schema != _SCHEMA:
        raise RunDirectoryError(_complaint(path, f"has schema {schema}, this version reads {_SCHEMA}"))
    if digest != _digest(tensors, meta):
        raise RunDirectoryError(_complaint(path, "does not match its own hash: it was changed or damaged"))
    return tensors, meta


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _complaint(path: Path, what: str) -> str:
    return f"checkpoint {path} {what}; delete it to repeat that part of the run, or start over with --fresh"


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
