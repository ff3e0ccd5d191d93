"""Files of weights, read to tensors by name. They come from anywhere: nothing is unpickled unless asked."""

from __future__ import annotations

import pickle
import textwrap
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from jstc.core import files
from jstc.errors import ModelError

__all__ = ["Checkpoint", "read", "reason", "some"]

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_SHOWN = 4
_SOUND_BYTES, _SOUND_RATIO = 256 * 2**20, 64
_NEITHER = "weights {} are neither a torch checkpoint nor named .safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, on the CPU, and `notes`: sentences on what was chosen in the file."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def read(path: Path, *, allow_pickle: bool = False) -> Checkpoint:
    """Read a file of weights: safetensors, or a state dict written by `torch.save`.

    Understands `state_dict` and `model` keys, or whatever key the only state dict in the file has.
    `allow_pickle` also reads files that hold other objects than tensors, and so runs any code that is in
    them. Raises `ModelError` when the file cannot be read or holds no tensors by name.
    """
    return Checkpoint(_unwrap(_document(path, allow_pickle=allow_pickle), path))


def _document(path: Path, *, allow_pickle: bool) -> Any:
    if not path.exists():
        raise ModelError(f"weights {path}: there is no such file")
    files.require_regular(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    _require_sound(path, allow_code=allow_pickle)
    try:
        return _read_torch(path, weights_only=True)
    except pickle.UnpicklingError:
        if not allow_pickle:
            if not _may_be_torch(path):
                raise ModelError(_NEITHER.format(path)) from None
            raise ModelError(
                f"weights {path} hold more than tensors (a pickled object), which could run any code; save "
                "model.state_dict() alone, best as safetensors, or, if you trust whoever made the file, add "
                "--allow-pickle"
            ) from None
    except KeyError:  # what torch makes of bytes that happen to look like a pickle; its text is a number
        raise ModelError(_NEITHER.format(path)) from None
    except Exception as error:  # whatever a damaged file makes its readers stumble over
        raise ModelError(f"weights {path} are not a torch checkpoint: {reason(error)}") from None
    try:
        return _read_torch(path, weights_only=False)
    except Exception as error:
        raise ModelError(f"weights {path} cannot be unpickled: {reason(error)}") from error


def _may_be_torch(path: Path) -> bool:
    """Whether a file is an archive, or begins as a pickle of protocol 2 on, which torch writes by default."""
    with files.open_regular(path) as file:
        first = file.read(1)
    return first == pickle.PROTO or zipfile.is_zipfile(path)


def _read_torch(path: Path, *, weights_only: bool) -> Any:
    checked = torch.sparse.check_sparse_tensor_invariants()  # type: ignore[no-untyped-call]
    with warnings.catch_warnings(), checked:
        warnings.simplefilter("ignore")  # torch's remarks on foreign files; ours follow if it matters
        return torch.load(path, map_location="cpu", weights_only=weights_only)


def _require_sound(path: Path, *, allow_code: bool) -> None:
    """Raise `ModelError` for an archive with code in it, and for one that is made to fill the memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception:  # no archive, or a damaged one: torch finds out
        return
    if not allow_code and any("/code/" in member.filename for member in members):
        raise ModelError(
            f"weights {path} are TorchScript, which has code in it; save its state_dict() alone, or, "
            "if you trust whoever made the file, add --allow-pickle"
        )
    held = sum(member.file_size for member in members)
    size = path.stat().st_size
    if held > max(_SOUND_BYTES, _SOUND_RATIO * size):
        raise ModelError(
            f"weights {path} have {size / 1e6:,.1f} MB and would take {held / 1e6:,.0f} MB in memory: torch "
            "does not write such files, it may be made to fill the memory"
        )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # the library's own, and what torch says to impossible shapes
        raise ModelError(f"weights {path} are not a safetensors file: {reason(error)}") from None


def reason(error: Exception) -> str:
    """First line of what a library says, cut to 200 characters."""
    lines = str(error).strip().splitlines()
    return textwrap.fill(lines[0], 200, max_lines=1, placeholder=" ...") if lines else type(error).__name__


def _unwrap(document: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(document, torch.nn.Module):  # unpickled
        document = document.state_dict()
    for key in _WRAPPERS:
        if isinstance(document, Mapping) and isinstance(document.get(key), Mapping):
            document = document[key]
    if isinstance(document, Mapping) and len(inside := _state_dicts(document)) == 1:
        document = document[inside[0]]  # under a name of its author's, beside an epoch or an optimiser
    if not isinstance(document, Mapping) or not document:
        raise ModelError(f"weights {path}: expected a state dict, found {type(document).__name__}")
    odd = [str(key) for key, value in document.items() if not isinstance(value, torch.Tensor)]
    if odd:
        several = _state_dicts(document)
        more = f"; it has several: {some(several)}; save one of them alone" if several else ""
        raise ModelError(f"weights {path}: expected a state dict; not tensors: {some(odd)}{more}")
    return {str(key): value for key, value in document.items()}


def _state_dicts(document: Mapping[str, Any]) -> list[str]:
    """Keys under which there are tensors by name, and nothing else."""
    return [
        key
        for key, value in document.items()
        if isinstance(key, str) and isinstance(value, Mapping) and value
        if all(isinstance(tensor, torch.Tensor) for tensor in value.values())
    ]


def some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
