"""Starting from a checkpoint. Files may come from anywhere: nothing is unpickled unless the user insists."""

from __future__ import annotations

import pickle
import re
import textwrap
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from jstc.core import files
from jstc.errors import ModelError

__all__ = ["load_weights"]

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_SHOWN = 4
_SOUND_BYTES, _SOUND_RATIO = 256 * 2**20, 64
_NEITHER = "weights {} are neither a torch checkpoint nor named .safetensors"


def load_weights(model: nn.Module, path: Path, *, allow_pickle: bool = False) -> None:
    """Load a checkpoint into `model`: safetensors, or a state dict written by `torch.save`.

    Understands `state_dict` and `model` keys, or whatever key the only state dict in the file has, and
    `module.` prefixes. `allow_pickle` also reads files that hold other objects than tensors, and so runs any
    code that is in them. Sparse tensors are filled up. Raises `ModelError`, and leaves the network as it was,
    when the file cannot be read, does not fit, or holds something else than the numbers of a network.
    """
    own = model.state_dict()
    tensors = _rename(_unwrap(_read(path, allow_pickle=allow_pickle), path), own)
    _require(path, {key: _form(tensor) for key, tensor in tensors.items()})
    if not getattr(model, "aux_logits", True):  # published weights have them, our networks do not
        tensors = {k: v for k, v in tensors.items() if not k.startswith(_AUXILIARY)}
    for key, value in own.items():  # very old checkpoints lack this counter
        if key.endswith(".num_batches_tracked"):
            tensors.setdefault(key, value)
    problems = _problems(model, own, tensors)
    if problems:
        raise ModelError(f"weights {path} do not fit the network: {problems}")
    filled = {key: _filled(tensor, path) for key, tensor in tensors.items()}
    _require(path, {key: _values(filled[key], value) for key, value in own.items()})
    _require(path, {key: _unbounded(filled[key], value) for key, value in model.named_parameters()})
    model.load_state_dict(filled)


def _read(path: Path, *, allow_pickle: bool) -> Any:
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
        raise ModelError(f"weights {path} are not a torch checkpoint: {_reason(error)}") from None
    try:
        return _read_torch(path, weights_only=False)
    except Exception as error:
        raise ModelError(f"weights {path} cannot be unpickled: {_reason(error)}") from error


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
        raise ModelError(f"weights {path} are not a safetensors file: {_reason(error)}") from None


def _reason(error: Exception) -> str:
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
        more = f"; it has several: {_some(several)}; save one of them alone" if several else ""
        raise ModelError(f"weights {path}: expected a state dict; not tensors: {_some(odd)}{more}")
    return {str(key): value for key, value in document.items()}


def _state_dicts(document: Mapping[str, Any]) -> list[str]:
    """Keys under which there are tensors by name, and nothing else."""
    return [
        key
        for key, value in document.items()
        if isinstance(key, str) and isinstance(value, Mapping) and value
        if all(isinstance(tensor, torch.Tensor) for tensor in value.values())
    ]


def _rename(tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for prefix in (*_PREFIXES, *_PREFIXES):  # either may wrap the other
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return {_modern(key, own): value for key, value in tensors.items()}


def _modern(key: str, own: Mapping[str, Tensor]) -> str:
    # torchvision's published DenseNets say norm.1 where the network says norm1
    modern = re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", key)
    return modern if key not in own and modern in own else key


def _problems(model: nn.Module, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    shapes = [key for key in own if key in given and own[key].shape != given[key].shape]
    missing = [key for key in own if key not in given]
    unknown = [key for key in given if key not in own]
    if shapes and not missing and not unknown and _is_classifier(model, shapes):
        layer = shapes[0].rpartition(".")[0]
        theirs, ours = given[shapes[0]].shape[0], own[shapes[0]].shape[0]
        return f"everything fits but the classifier '{layer}': {theirs} classes in the file, {ours} here"
    text = [f"missing {_some(missing)}"] if missing else []
    text += [f"unknown {_some(unknown)}"] if unknown else []
    text += [f"other shapes {_some(f'{k} {_both(given[k], own[k])}' for k in shapes)}"] if shapes else []
    return "; ".join(text)


# The numbers: what a file can hold instead of them, or what they cannot be.


def _require(path: Path, found: Mapping[str, str | None]) -> None:
    """Raise `ModelError` when something is wrong with tensors: by name, what."""
    for what in dict.fromkeys(filter(None, found.values())):
        names = [key for key, problem in found.items() if problem == what]
        raise ModelError(f"weights {path}: {_some(names)}: {what}")


def _form(tensor: Tensor) -> str | None:
    """Why the tensor has no numbers that a network could take, if so."""
    if tensor.is_meta:
        return "shapes without values (torch's meta device); save the network with its weights"
    if tensor.is_quantized:
        return "quantised numbers; save the weights from before the quantisation"
    if tensor.is_nested:
        return "nested tensors, which no weights are"
    return None


def _filled(tensor: Tensor, path: Path) -> Tensor:
    if tensor.layout == torch.strided:
        return tensor
    try:
        return tensor.to_dense()
    except RuntimeError as error:
        raise ModelError(f"weights {path}: a sparse tensor cannot be filled up: {_reason(error)}") from None


def _values(theirs: Tensor, ours: Tensor) -> str | None:
    """Why the numbers cannot be those of a parameter or a buffer, if so."""
    if theirs.is_complex() and not ours.is_complex():
        return "complex numbers, where the network has real ones"
    inexact = ours.is_floating_point() or ours.is_complex()
    if inexact and not (theirs.is_floating_point() or theirs.is_complex()):
        return (
            f"whole numbers ({_type(theirs)}), where the network has {_type(ours)}: quantised weights perhaps"
        )
    return "not numbers (nan)" if inexact and bool(theirs.isnan().any()) else None


def _unbounded(theirs: Tensor, ours: Tensor) -> str | None:
    # A mask in a buffer may be infinite, a weight may not; what float64 can say may be too large for float32.
    finite = bool(theirs.to(ours.dtype).isfinite().all())
    return None if finite else f"infinite numbers, as {_type(ours)}"


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _both(theirs: Tensor, ours: Tensor) -> str:
    return f"({list(theirs.shape)} in the file, {list(ours.shape)} here)"


def _is_classifier(model: nn.Module, keys: Iterable[str]) -> bool:
    last = [name for name, module in model.named_modules() if dict(module.named_parameters(recurse=False))][
        -1
    ]
    return {key.rpartition(".")[0] for key in keys} == {last}


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
