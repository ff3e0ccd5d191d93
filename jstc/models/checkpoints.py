"""Files of weights, read to tensors by name. They come from anywhere: nothing is unpickled unless asked."""

from __future__ import annotations

import pickle
import textwrap
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from jstc.core import files
from jstc.core.safe_text import one_line
from jstc.errors import ModelError
from jstc.models.catalogue import weights_file

__all__ = ["Checkpoint", "read", "reason", "some"]

_SHOWN = 4
_DEEPEST = 16
_SOUND_BYTES, _SOUND_RATIO = 256 * 2**20, 64
_NEITHER = "weights {} are neither a torch checkpoint nor named .safetensors"

_PACKED = "are compressed; unpack the file first"
_PAGE = "are a web page: something else than the file was downloaded"
_BEGINNINGS = {
    b"version https://git-lfs": "are a pointer of Git LFS to the file; `git lfs pull` fetches the file",
    b"\x1f\x8b": _PACKED,
    b"BZh": _PACKED,
    b"\xfd7zXZ": _PACKED,
    b"\x89HDF": "are HDF5, as Keras writes it; weights of PyTorch are wanted",
    b"<!doctype html": _PAGE,
    b"<html": _PAGE,
}
"""What files begin with that people take for weights, and what to say of them."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, on the CPU, and `notes`: sentences on what was chosen in the file.

    A name is all keys on the way to a tensor, `state_dict.model.conv1.weight`: which of them belong to the
    names of a network, only the network can tell.
    """

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def read(path: Path, *, allow_pickle: bool = False) -> Checkpoint:
    """Read a file of weights, a part of one (`FILE#part`) or a folder's: safetensors, or of `torch.save`.

    `allow_pickle` also reads files that hold other objects than tensors, and so runs any code that is in
    them. Without it, what a training keeps beside its tensors (its options, its figures) is passed over.
    Raises `ModelError` when the file cannot be read or holds no tensors by name, or not that part.
    """
    file, part = weights_file(path)
    if other := _other_kind(file):
        raise ModelError(f"weights {file} {other}")
    document = _document(file, allow_pickle=allow_pickle)
    tensors: dict[str, Tensor] = {}
    _collect(_numbered(document), "", tensors, set())
    if not tensors:
        raise ModelError(f"weights {file}: expected a state dict, found {_kind(document)}")
    return Checkpoint(tensors if part is None else _part(tensors, part, file))


def _numbered(document: Any) -> Any:
    """A list of state dicts, or of one beside figures, by their places; anything else as it is."""
    if not isinstance(document, list | tuple):
        return document
    return {str(at): one for at, one in enumerate(document) if isinstance(one, Mapping | nn.Module)}


def _collect(value: Any, name: str, found: dict[str, Tensor], seen: set[int]) -> None:
    """Add the tensors that `value` holds by name to `found`."""
    if isinstance(value, nn.Module):  # unpickled
        value = value.state_dict()
    if isinstance(value, Tensor) and name:
        found[name] = value
    # What contains itself is seen once; dots in names are the only sign of levels in safetensors.
    elif isinstance(value, Mapping) and id(value) not in seen and name.count(".") < _DEEPEST:
        seen.add(id(value))
        for key, inner in value.items():
            if isinstance(key, str):
                _collect(inner, f"{name}.{key}" if name else key, found, seen)


def _kind(document: Any) -> str:
    if isinstance(document, Mapping) and document:
        return f"no tensors under {some(map(str, document))}"
    return "an object of another kind" if isinstance(document, _Passed) else type(document).__name__


def _part(tensors: Mapping[str, Tensor], part: str, file: Path) -> dict[str, Tensor]:
    """The tensors of a part, by their names in it."""
    inside = f"{part}."
    found = {name.removeprefix(inside): t for name, t in tensors.items() if name.startswith(inside)}
    if not found:
        known = dict.fromkeys(name.partition(".")[0] for name in tensors)
        raise ModelError(
            f"weights {file} have no part '{part}'; the first names of its parts are {some(known)}"
        )
    return found


def _document(path: Path, *, allow_pickle: bool) -> Any:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    _require_sound(path)
    is_script = _is_script(path)
    if is_script and not allow_pickle:
        raise ModelError(
            f"weights {path} are TorchScript, which has code in it; save its state_dict() alone, or, "
            "if you trust whoever made the file, add --allow-pickle"
        )
    try:
        if not is_script:  # which torch reads with its code, or not at all
            return _read_torch(path, weights_only=True)
    except pickle.UnpicklingError:
        if not allow_pickle:
            if not _may_be_torch(path):
                raise ModelError(_NEITHER.format(path)) from None
            raise ModelError(
                f"weights {path} hold more than tensors (a pickled object{_classes(path)}), which could run "
                "any code; save model.state_dict() alone, best as safetensors, or, if you trust whoever made "
                "the file, add --allow-pickle"
            ) from None
    except KeyError:  # what torch makes of bytes that happen to look like a pickle; its text is a number
        raise ModelError(_NEITHER.format(path)) from None
    except Exception as error:  # whatever a damaged file makes its readers stumble over
        raise ModelError(f"weights {path} are not a torch checkpoint: {reason(error)}") from None
    try:
        return _read_torch(path, weights_only=False)
    except Exception as error:
        raise ModelError(f"weights {path} cannot be unpickled: {reason(error)}") from error


def _other_kind(path: Path) -> str | None:
    """What a file is instead of weights, where that can be told from its beginning or its name."""
    with files.open_regular(path) as file:
        first = file.read(64)
    if path.suffix == ".onnx":
        return "are an ONNX file; training needs the network's code, and its weights as torch.save wrote them"
    if first.startswith(b"PK\3\4"):
        return _other_archive([member.filename for member in _members(path)])
    return next(
        (what for begin, what in _BEGINNINGS.items() if first.lower().startswith(begin.lower())), None
    )


def _other_archive(names: Sequence[str]) -> str | None:
    """What an archive of such files is instead of one that torch wrote."""
    if not names:
        return "are cut off, or damaged; copy or download the file again"
    if all(name.endswith(".npy") for name in names):
        return "are NumPy's arrays; weights of PyTorch are wanted"
    if any(name.endswith(("/data.pkl", "/constants.pkl")) for name in names):
        return None
    return "are an archive of something else; where the weights are in it, unpack it first"


def _may_be_torch(path: Path) -> bool:
    """Whether a file is an archive, or begins as a pickle of protocol 2 on, which torch writes by default."""
    with files.open_regular(path) as file:
        first = file.read(1)
    return first == pickle.PROTO or zipfile.is_zipfile(path)


def _read_torch(path: Path, *, weights_only: bool) -> Any:
    checked = torch.sparse.check_sparse_tensor_invariants()  # type: ignore[no-untyped-call]
    with warnings.catch_warnings(), checked, torch.serialization.safe_globals(_STAND_INS):
        warnings.simplefilter("ignore")  # torch's remarks on foreign files; ours follow if it matters
        return torch.load(path, map_location="cpu", weights_only=weights_only)


def _classes(path: Path) -> str:
    """What torch would have to import for the file: `: net.Net, builtins.getattr`; empty if it can't tell."""
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            return f": {some(sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path)))}"
    except Exception:  # no archive, or operations that only whole pickles have
        return ""


def _members(path: Path) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except Exception:  # no archive, or a damaged one: torch finds out
        return []


def _is_script(path: Path) -> bool:
    return any("/code/" in member.filename for member in _members(path))


def _require_sound(path: Path) -> None:
    """Raise `ModelError` for an archive that is made to fill the memory."""
    held = sum(member.file_size for member in _members(path))
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


def some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are, on one line: a name in a file may be any text."""
    listed = [one_line(name) for name in names]
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


# What trainings keep beside tensors: options and figures. torch's reader of tensors alone, which refuses all
# that it does not know, is told to make an empty object in the place of these; nothing of theirs is imported.


class _Passed:
    """An object that nothing can be done with, whatever it is made of."""

    def __new__(cls, *_: object) -> _Passed:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _mapping(*_: object) -> OrderedDict[str, Any]:
    return OrderedDict()


_PASSED = (
    *("argparse.Namespace", "types.SimpleNamespace", "typing.Any", "functools.partial"),
    *("torch.torch_version.TorchVersion", "torch.optim.sgd.SGD", "torch.optim.adam.Adam"),
    *("torch.optim.adamw.AdamW", "torch.optim.rmsprop.RMSprop"),
    *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str", "tuple")),
    *(f"datetime.{name}" for name in ("date", "datetime", "timedelta")),
    *(f"pathlib.{name}" for name in ("PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath")),
    *(f"pathlib._local.{name}" for name in ("PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath")),
    *("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
    *(f"omegaconf.{name}" for name in ("dictconfig.DictConfig", "listconfig.ListConfig", "nodes.AnyNode")),
    *("omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata"),
)
_MAPPINGS = (
    *("lightning.fabric.utilities.data.AttributeDict", "lightning_fabric.utilities.data.AttributeDict"),
    *("pytorch_lightning.utilities.parsing.AttributeDict", "easydict.EasyDict", "yacs.config.CfgNode"),
)
_STAND_INS: list[Any] = [
    *((_Passed, name) for name in _PASSED),
    *((OrderedDict, name) for name in _MAPPINGS),
    (_mapping, "collections.defaultdict"),
]
