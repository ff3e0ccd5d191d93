"""Networks from the user's own code, `file.py:factory` or `package.module:factory`, and whose code may run.

A recipe comes from anywhere, alone or in a run directory, and may say `model: net.py:make`. So code is run
only after its user has named it on a command line of this machine. No torch here, until a network is built.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from jstc.core import files
from jstc.errors import ModelError
from jstc.models import user_names
from jstc.models.catalogue import ModelSpec, runs_user_code
from jstc.models.user_names import split_user_name

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Permissions", "constructor", "is_trusted", "made", "require_trusted", "trust"]

_T = TypeVar("_T")
_RUNNERS = {"OptimizedModule": "_orig_mod", "DistributedDataParallel": "module", "DataParallel": "module"}


def constructor(spec: ModelSpec) -> Callable[[], nn.Module]:
    """What builds the network: the user's factory, given `num_classes` and `in_channels` if it takes them.

    Raises `ModelError` when the code cannot be imported, has no such factory, or the factory fails or
    returns something else than a module.
    """
    factory = _factory(spec.name)
    arguments = _arguments(factory, spec)
    return lambda: _call(factory, arguments, spec.name)


def made(name: str) -> nn.Module:
    """The network that the factory `name` makes without arguments. Raises `ModelError` as above."""
    return _call(_factory(name), {}, name)


def _factory(name: str) -> Callable[..., Any]:
    location, function = split_user_name(name)
    module = _import(location, name)
    factory: Callable[..., Any] | None = getattr(module, function, None)
    if not callable(factory):
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        own = [n for n in known if getattr(getattr(module, n), "__module__", None) == module.__name__]
        raise user_names.no_factory(name, known, own)
    return factory


def _import(location: str, name: str) -> ModuleType:
    try:
        if location.endswith(".py"):
            return _import_file(Path(location))
        return _with_path(Path.cwd(), lambda: importlib.import_module(location))
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{location}.".startswith(f"{error.name}."):
            raise user_names.no_module(name) from error
        problem = f"model '{name}' cannot be imported: {_where(error)}"
        script = isinstance(error, SystemExit)  # one that reads its own command line, say
        raise ModelError(problem, _AS_SCRIPT if script else _as_module(error, location, name)) from error


_AS_SCRIPT = "put what the file does when it is run under `if __name__ == '__main__':`"


def _as_module(error: BaseException, location: str, name: str) -> str:
    """How to name a file whose relative imports cannot work, as it is loaded alone; else nothing."""
    frames = _own_frames(error)
    file = Path(location).resolve()
    if not frames or not isinstance(error, ImportError) or Path(frames[-1].filename) != file:
        return ""
    found = user_names.as_module(file, frames[-1].lineno or 0)
    if found is None:
        return ""
    module, folder = found
    where = "" if folder == Path.cwd() else f", and run jstc in {folder}"
    return f"relative imports need its package: name it {module}:{split_user_name(name)[1]}{where}"


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
    except (Exception, SystemExit) as error:
        raise ModelError(f"model '{name}': the factory failed: {_where(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model '{name}': expected a torch.nn.Module, but got {type(model).__name__}")
    return _unwrapped(model)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network itself, without what only runs it, or parts of it, faster or on several devices.

    A search calls hundreds of networks of other widths, each of which would be compiled.
    """
    network = _bare(model)
    for module in list(network.modules()):
        for name, inner in list(module.named_children()):
            if inner is not (bare := _bare(inner)):
                setattr(module, name, bare)
        written = getattr(type(module).forward, "_torchdynamo_orig_callable", None)
        if written is not None:  # under @torch.compile
            type(module).forward = written
    return network


def _bare(module: nn.Module) -> nn.Module:
    while type(module).__name__ in _RUNNERS:  # by name: importing torch.compile's class takes seconds
        module = getattr(module, _RUNNERS[type(module).__name__])
    return module


def _where(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return f"{text} in {error.filename}, line {error.lineno}"
    own = _own_frames(error)
    return f"{text} in {own[-1].filename}, line {own[-1].lineno}" if own else text


def _own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Where in the user's code an error came from, innermost last."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f for f in frames if "importlib" not in f.filename and Path(f.filename) != Path(__file__)]


# Trusted code: what the user has named is on record outside of all run directories, in the user's cache: a
# file for each name, with the place of the source and the SHA-256 that it had.


@dataclass(frozen=True)
class Permissions:
    """What only the person at the command line can allow, for that one command: no file can.

    `model`: the network whose code may be run; `pickle`: weights may be unpickled, which runs any code.
    """

    model: str | None = None
    pickle: bool = False


_trusted: set[tuple[str, str]] = set()
"""Names and hashes that this process knows, for where nothing can be written."""


def require_trusted(name: str, *, named: str | None = None) -> None:
    """Raise `ModelError` unless the network `name` may be built: its code is no user's, or the user's own.

    It is the user's own when `named`, by the command line at work, or an earlier one with the same source.
    """
    if not runs_user_code(name):
        return
    if named is not None:
        if _identity(named) != _identity(name):
            raise ModelError(f"--model {named}: the network of this run is '{name}'; name that one, or none")
        trust(name)
    if not is_trusted(name):
        raise ModelError(
            f"building this network runs code, '{name}', which no command of yours has named since it was "
            f"last changed; if you trust that code, add --model {name}"
        )


def trust(name: str) -> None:
    """Put on record that the user has named the network; nothing for one without code of a user."""
    if not runs_user_code(name):
        return
    key, digest = _identity(name), _digest(name)
    _trusted.add((key, digest))
    with contextlib.suppress(OSError):  # then the next command has to name it again
        files.write_json(_record(key), {"model": key, "sha256": digest})


def is_trusted(name: str) -> bool:
    """Whether the user has named the network, and its source is as it was then."""
    key, digest = _identity(name), _digest(name)
    if (key, digest) in _trusted:
        return True
    try:
        document = files.read_json(_record(key))
    except (OSError, ValueError):
        return False
    return bool(document == {"model": key, "sha256": digest})


def _record(key: str) -> Path:
    return files.cache_folder() / "models" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def _identity(name: str) -> str:
    """The place of the source and the factory in it: `/home/me/net.py:make`."""
    location, factory = split_user_name(name)
    return f"{_source(location) or location}:{factory}"


def _digest(name: str) -> str:
    source = _source(split_user_name(name)[0])
    return files.sha256(source) if source is not None and source.is_file() else ""


def _source(location: str) -> Path | None:
    """The file of a module, found without running anything; None for one that has none."""
    if location.endswith(".py"):
        return Path(location).resolve()
    places: list[str] | None = [str(Path.cwd()), *sys.path]
    spec, parts = None, location.split(".")
    for depth in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:depth]), places) if places else None
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or ())
    return Path(spec.origin).resolve() if spec is not None and spec.origin else None
