"""Networks from the user's own code: `path/to/file.py:factory` or `package.module:factory`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from jstc.errors import ModelError
from jstc.models.catalogue import split_user_name
from jstc.models.spec import ModelSpec

if TYPE_CHECKING:
    from torch import nn

__all__ = ["constructor"]

_T = TypeVar("_T")


def constructor(spec: ModelSpec) -> Callable[[], nn.Module]:
    """What builds the network: the user's factory, given `num_classes` and `in_channels` if it takes them.

    Raises `ModelError` when the code cannot be imported, has no such factory, or the factory fails or
    returns something else than a module.
    """
    location, name = split_user_name(spec.name)
    module = _import(location, spec.name)
    factory = getattr(module, name, None)
    if not callable(factory):
        raise ModelError(f"model '{spec.name}': {location} has no function '{name}'")
    arguments = _arguments(factory, spec)
    return lambda: _call(factory, arguments, spec.name)


def _import(location: str, name: str) -> ModuleType:
    try:
        if location.endswith(".py"):
            return _import_file(Path(location))
        return _with_path(Path.cwd(), lambda: importlib.import_module(location))
    except Exception as error:
        raise ModelError(f"model '{name}' cannot be imported: {_where(error)}") from error


def _import_file(path: Path) -> ModuleType:
    path = path.resolve()
    # A name of its own for every file, so that two model.py do not meet; in sys.modules, because
    # dataclasses and pickle look there.
    name = f"_jstc_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _with_path(path.parent, lambda: spec.loader.exec_module(module))  # type: ignore[union-attr]
    return module


def _with_path(folder: Path, work: Callable[[], _T]) -> _T:
    # As with `python file.py`: a file may import its neighbours, a module may lie where the user stands.
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        return work()
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def _arguments(factory: Callable[..., Any], spec: ModelSpec) -> dict[str, int]:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}
    by_name = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    offered = {"num_classes": spec.num_classes, "in_channels": spec.in_channels}
    taken = {k: v for k, v in offered.items() if k in parameters and parameters[k].kind in by_name}
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        taken["num_classes"] = spec.num_classes
    _require_no_others(parameters.values(), taken, spec.name)
    return taken


def _require_no_others(parameters: Iterable[inspect.Parameter], taken: Mapping[str, int], name: str) -> None:
    variadic = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    missing = [
        f"'{p.name}'"
        for p in parameters
        if p.default is inspect.Parameter.empty and p.kind not in variadic and p.name not in taken
    ]
    if missing:
        raise ModelError(
            f"model '{name}': the factory asks for {' and '.join(missing)}; it is given num_classes and "
            "in_channels by name where it takes them, and nothing else: give the others a default"
        )


def _call(factory: Callable[..., Any], arguments: dict[str, int], name: str) -> nn.Module:
    from torch import nn

    try:
        model = factory(**arguments)
    except Exception as error:
        raise ModelError(f"model '{name}': the factory failed: {_where(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model '{name}': expected a torch.nn.Module, but got {type(model).__name__}")
    return model


def _where(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return f"{text} in {error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "importlib" not in f.filename and Path(f.filename) != Path(__file__)]
    return f"{text} in {own[-1].filename}, line {own[-1].lineno}" if own else text
