"""Patterns that name layers, as users write them in `channels.ignore` and `channels.groups`.

A pattern is a shell pattern over module names (`*` also spans dots) and stands for a module together with
all that is inside it: `layer4` and `layer4.*` both match `layer4.0.conv1`.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Sequence

from jstc.errors import InputError

__all__ = ["layer_of", "matches", "near", "require_matches"]


def layer_of(parameter: str) -> str:
    """The name of the module that holds a parameter; its own name for a parameter of the network itself."""
    return parameter.rpartition(".")[0] or parameter


def matches(name: str, pattern: str) -> bool:
    """Does the pattern stand for the module `name`, or for one that it is inside of?"""
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")


def require_matches(patterns: Iterable[str], parameters: Iterable[str]) -> None:
    """Raise `InputError`, with near names, for a pattern to ignore that matches no module with weights."""
    names = list(dict.fromkeys(layer_of(name) for name in parameters))
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            raise InputError(f"ignore: '{pattern}' matches no module with weights; {near(pattern, names)}")


def near(pattern: str, names: Sequence[str]) -> str:
    """Names, or modules around them, that the pattern may have been meant for, in words."""
    parts = [name.split(".") for name in names]
    known = dict.fromkeys(".".join(part[:depth]) for part in parts for depth in range(1, len(part) + 1))
    plain = pattern.removesuffix(".*")
    alike = [name for name in known if name.lower() == plain.lower()]
    alike = alike or difflib.get_close_matches(plain, known, n=3) or list(names[:3])
    return "names there are such as " + ", ".join(f"'{name}'" for name in alike)
