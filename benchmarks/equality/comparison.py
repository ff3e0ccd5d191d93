"""Two recordings, file by file."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import contents
from .renames import Renames

__all__ = ["Found", "compared", "report"]

_LOCK, _DONE = ".lock", "done"
_SHOWN = 90
_NOTHING = Renames()

State = Literal["equal", "expected", "differs", "missing", "new"]


@dataclass(frozen=True)
class Found:
    """A file in both recordings or one: `missing` after, or `new` there; `first` is the first difference."""

    file: str
    state: State
    first: str = ""


def report(before: Path, after: Path, renames: Renames, *, every: bool = False) -> int:
    """Print a line for each file, equal ones only with `every`, and a summary. 1 when something differs."""
    states: Counter[State] = Counter()
    for found in compared(before, after, renames):
        states[found.state] += 1
        if every or found.state != "equal":
            print(f"{found.state:8} {found.file}{f'  {found.first}' if found.first else ''}", flush=True)
    names: tuple[State, ...] = ("equal", "expected", "differs", "missing", "new")
    print(f"{sum(states.values())} files: " + ", ".join(f"{states[name]} {name}" for name in names))
    same = states["differs"] + states["missing"] + states["new"] == 0 and states["equal"] > 0
    return 0 if same else 1


def compared(before: Path, after: Path, renames: Renames = _NOTHING) -> Iterator[Found]:
    """Every file of both recordings, by its name after `renames`, in the order of the names."""
    old = {renames.path(name): path for name, path in _files(before)}
    new = dict(_files(after))
    for name in sorted(old.keys() | new.keys()):
        if name not in new or name not in old:
            state: State = "missing" if name in old else "new"
            yield Found(name, "expected", state) if renames.is_expected(name) else Found(name, state)
            continue
        yield _found(name, old[name], new[name], renames)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != _LOCK and path.name not in (_LOCK, _DONE):
            yield path.relative_to(folder).as_posix(), path


def _found(name: str, old: Path, new: Path, renames: Renames) -> Found:
    first, second = contents.read(old, renames), contents.read(new, _NOTHING)
    pointers = [p for p in [*first, *(p for p in second if p not in first)] if first.get(p) != second.get(p)]
    left = [pointer for pointer in pointers if not renames.is_expected(name, pointer)]
    if left:
        more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
        return Found(name, "differs", _told(left[0], first.get(left[0]), second.get(left[0])) + more)
    if pointers:
        return Found(name, "expected", pointers[0])
    if list(first) != list(second):
        return Found(name, "expected" if renames.is_expected(name) else "differs", "order of keys")
    return Found(name, "equal")


def _told(pointer: str, old: str | None, new: str | None) -> str:
    """The two values around the first place where they differ; nothing for one that is not there."""
    if old is None or new is None:
        return f"{pointer}: {_short(old)} | {_short(new)}"
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False))
    begin = max(0, sum(1 for _ in alike) - _SHOWN // 3)
    return f"{pointer}: {_short(old[begin:])} | {_short(new[begin:])}"


def _short(value: str | None) -> str:
    if value is None:
        return "nothing"
    return value if len(value) <= _SHOWN else value[:_SHOWN] + "..."
