"""Names of the user's own networks, `file.py:factory` or `package.module:factory`, and mistakes in them.

Files are parsed for what they define, and never run. No torch here.
"""

from __future__ import annotations

import ast
import keyword
from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path

from jstc.core import files
from jstc.errors import DamagedError, ModelError, near_names

__all__ = [
    "OF_WEIGHTS",
    "as_module",
    "check_user_name",
    "defined_in",
    "misnamed",
    "no_factory",
    "no_module",
    "split_user_name",
]

OF_WEIGHTS = (".safetensors", ".pt", ".pth", ".pth.tar", ".ckpt", ".bin")
"""How names of files of weights end."""

_FORMS = "'path/to/file.py:factory' or 'package.module:factory'"
_MOST_BYTES = 2_000_000  # of a file that is parsed for what it defines
_MOST_SHOWN = 5
_CUTOFF = 0.75
_MOST_FILES = 100  # of a folder, that are looked into


def split_user_name(name: str) -> tuple[str, str]:
    """Split `file.py:factory` or `package.module:factory` into what to load and the factory in it.

    Raises `ModelError` for other forms.
    """
    location, _, factory = name.rpartition(":")
    if not location or not factory.isidentifier() or keyword.iskeyword(factory):
        raise ModelError(
            f"model '{name}': expected {_FORMS}, with the name of a function after the colon"
            + _such_as(_candidates(location or name))
        )
    return location, factory


def check_user_name(name: str) -> None:
    """Raise `ModelError` when there is no such file, or no module could have the name; runs nothing."""
    location, factory = split_user_name(name)
    if Path(location).is_dir() and not location.isidentifier():
        raise _folder(name, Path(location))
    if location.endswith(".py"):
        if not Path(location).is_file():
            raise _no_file(name, location, factory)
    elif not all(part.isidentifier() for part in location.split(".")):
        problem = f"model '{name}': '{location}' is neither a .py file nor the name of a module"
        raise ModelError(problem, _meant([f"{near}:{factory}" for near in _near_files(location)]))


def misnamed(name: str) -> ModelError | None:
    """Error for the name of a file, a folder or a module without a factory; None for other names."""
    path = Path(name)
    if path.is_dir():
        return _folder(name, path)
    if found := _candidates(name):
        problem = f"model '{name}': say which function or class builds the network, after a colon"
        return ModelError(f"{problem}: {_or(found)}")
    if name.endswith(".py"):
        if path.is_file():
            return ModelError(f"model '{name}': expected {_FORMS}; the file defines no function and no class")
        return _no_file(name, name, "")
    return _other_file(name)


def _other_file(name: str) -> ModelError | None:
    build = "name the function that builds it, path/to/file.py:factory"
    if name.lower().endswith(".onnx"):
        problem = f"model '{name}' is a network after its export, and jstc cuts and trains it before"
        return ModelError(problem, f"{build}; 'jstc bench' and 'jstc eval' take ONNX files")
    if name.lower().endswith(OF_WEIGHTS):
        problem = f"model '{name}' is a file of weights, which does not say how the network is built"
        return ModelError(problem, f"{build}, and --weights {name} beside it")
    if Path(name).is_file():
        problem = f"model '{name}' is a file, and no Python file"
        return ModelError(problem, "a network goes by its name, and a file of its weights with --weights")
    return None


def no_module(name: str) -> ModelError:
    """Why the module of a name cannot be imported: there is none."""
    location, factory = split_user_name(name)
    problem = f"model '{name}': there is no module '{location}', neither in {Path.cwd()} nor installed"
    near = _near_files(location) or _near_files(location.replace(".", "/"))
    return ModelError(problem, _meant([f"{found}:{factory}" for found in near]))


def no_factory(name: str, known: Sequence[str], own: Collection[str]) -> ModelError:
    """Why a factory is not found in its module, which has `known` callables; `own` are not imported ones."""
    location, factory = split_user_name(name)
    near = near_names(factory, known)
    problem = f"model '{name}': {location} has no function '{factory}'"
    if near or not own:
        return ModelError(problem, _meant([f"{location}:{one}" for one in near]))
    more = f" and {len(own) - _MOST_SHOWN} more" if len(own) > _MOST_SHOWN else ""
    return ModelError(problem, f"it has {', '.join(islice(own, _MOST_SHOWN))}{more}")


def defined_in(path: Path) -> list[str]:
    """Functions and classes at the top of a Python file, functions first; none where it cannot be read."""
    try:
        tree = ast.parse(files.read_bytes(path, limit=_MOST_BYTES))
    except (OSError, DamagedError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    functions = [one.name for one in tree.body if isinstance(one, ast.FunctionDef)]
    classes = [one.name for one in tree.body if isinstance(one, ast.ClassDef)]
    return [name for name in (*functions, *classes) if not name.startswith("_")]


def as_module(path: Path, line: int) -> tuple[str, Path] | None:
    """What a file whose relative import on `line` failed is called as a module, and where from; else None."""
    try:
        tree = ast.parse(files.read_bytes(path, limit=_MOST_BYTES))
    except (OSError, DamagedError, SyntaxError, ValueError):
        return None
    imports = [one for one in ast.walk(tree) if isinstance(one, ast.ImportFrom) and one.lineno == line]
    level = max((one.level for one in imports), default=0)
    parts, folder = [path.stem], path.parent
    while folder != folder.parent and (len(parts) <= level or (folder / "__init__.py").is_file()):
        parts.insert(0, folder.name)
        folder = folder.parent
    if not level or not all(part.isidentifier() for part in parts):
        return None
    return ".".join(parts), folder


# What may have been meant.


def _candidates(location: str) -> list[str]:
    """Whole names that a file or a module may stand for: `net.py:make` for `net.py`, or for `net`."""
    for file, said in (
        (location, location),
        (f"{location}.py", f"{location}.py"),
        (f"{location.replace('.', '/')}.py", location),
    ):
        if file.endswith(".py") and Path(file).is_file():
            return [f"{said}:{one}" for one in defined_in(Path(file))]
    return []


def _folder(name: str, folder: Path) -> ModelError:
    inside = [f"{path}:{one}" for path in islice(_python_files(folder), 10) for one in defined_in(path)[:1]]
    problem = f"model '{name}' is a folder; expected {_FORMS}"
    return ModelError(problem + _such_as(inside))


def _no_file(name: str, location: str, factory: str) -> ModelError:
    problem = f"model '{name}': there is no file {location} in {Path.cwd()}"
    near = _near_files(location)
    names = [f"{one}:{factory}" for one in near] if factory else [n for one in near for n in _candidates(one)]
    return ModelError(problem, _meant(names[:_MOST_SHOWN]))


def _near_files(location: str) -> list[str]:
    """Python files beside the place that are called much the same."""
    path = Path(location)
    beside = {one.name: one for one in _python_files(path.parent)}
    near = near_names(path.name, beside, cutoff=_CUTOFF)
    stems = {one.stem: one for one in beside.values()}
    found = [beside[one] for one in near]
    found += [stems[one] for one in near_names(path.stem, stems, cutoff=_CUTOFF)]
    return list(dict.fromkeys(map(str, found)))[:2]


def _python_files(folder: Path) -> list[Path]:
    try:
        return sorted(islice(folder.glob("[!_]*.py"), _MOST_FILES))
    except OSError:
        return []


def _meant(names: Sequence[str]) -> str:
    return "did you mean " + " or ".join(f"'{name}'" for name in names) + "?" if names else ""


def _such_as(names: Sequence[str]) -> str:
    return f", such as {_or(names)}" if names else ""


def _or(names: Sequence[str]) -> str:
    *first, last = names[:_MOST_SHOWN]
    more = f" ({len(names) - _MOST_SHOWN} more)" if len(names) > _MOST_SHOWN else ""
    return (f"{', '.join(first)} or {last}" if first else last) + more
