"""YAML text -> plain data, with the line of every key. Safe, bounded, and without YAML 1.1's surprises.

Numbers follow YAML 1.2: `1e-1` is a number, `010` is ten and `1:30` is text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from jstc.errors import RecipeError

__all__ = ["KeyPath", "Source", "parse", "scalar"]

KeyPath = tuple[str | int, ...]

_MAX_NODES = 10_000
_MAX_DEPTH = 20
_TOO_MUCH = f"more than {_MAX_NODES} values or {_MAX_DEPTH} levels deep"
_NULL = {"", "~", "null", "Null", "NULL"}
_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_WHOLE = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*")
_NUMBER = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")


@dataclass
class Source:
    """Plain data read from one place, and where in it each key stands."""

    name: str
    data: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """`file, line 7` for the nearest known ancestor of `path`; the file alone for none."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return f"{self.name}, line {self.lines[path[:length]]}"
        return self.name


def scalar(text: str) -> Any:
    """A plain (unquoted) YAML scalar as null, a boolean, a number or text."""
    if text in _NULL:
        return None
    if text in _BOOLS or (text.lower() in _BOOLS and text in {text.upper(), text.capitalize()}):
        return _BOOLS[text.lower()]
    if _WHOLE.fullmatch(text) and len(text) < 4000:  # Python refuses to read longer ones
        return int(text)
    if _NUMBER.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text


def parse(text: str, name: str) -> Source:
    """Read one YAML document. Raises `RecipeError` with the line of whatever is wrong."""
    try:
        root = yaml.compose(text, Loader=_Loader)
    except _TooMuchError as error:
        raise RecipeError(f"{name}, line {error}: {_TOO_MUCH}") from None
    except _TagError as error:
        line, tag = error.args
        raise RecipeError(f"{name}, line {line}: the tag {tag} is not allowed in a recipe") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark else ""
        problem = error.problem or ""
        reason = f"{error.context} {problem}" if problem.startswith("but") else problem
        raise RecipeError(f"{name}{line}: not valid YAML: {reason}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None
    source = Source(name)
    if root is not None:
        source.data = _Builder(source).build(root, ())
    return source


class _TooMuchError(Exception):
    """The line on which reading stopped."""


class _TagError(Exception):
    """The line of a tag, and the tag."""


class _Loader(yaml.SafeLoader):
    """Stops at tags, and at the limits while it reads: a large text of brackets would take seconds."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.nodes = self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """See PyYAML's composer, which calls this for every node."""
        self.nodes += 1
        self.depth += 1
        # Keys count as well here, and the depth is that of what is inside the outermost mapping.
        if self.nodes > 2 * _MAX_NODES or self.depth > _MAX_DEPTH + 1:
            raise _TooMuchError(self.get_mark().line + 1)
        event = self.peek_event()  # type: ignore[no-untyped-call]
        # Only here: in a node, a tag that was written looks like the one that a plain value has by itself.
        if getattr(event, "tag", None) is not None:
            raise _TagError(event.start_mark.line + 1, event.tag)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Builder:
    """Turns nodes into data. Counts them, so that nested aliases cannot grow without bound."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.nodes = 0

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        self.nodes += 1
        if self.nodes > _MAX_NODES or len(path) > _MAX_DEPTH:
            raise self._error(node, _TOO_MUCH)
        if isinstance(node, yaml.MappingNode):
            return {key: self.build(value, (*path, key)) for key, value in self._pairs(node, path)}
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node)

    def _item(self, node: yaml.Node, path: KeyPath) -> Any:
        self.source.lines[path] = node.start_mark.line + 1
        return self.build(node, path)

    def _pairs(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[tuple[str, yaml.Node]]:
        seen: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(key, "a key must be a plain word")
            line = key.start_mark.line + 1
            if key.value in seen:
                dotted = ".".join(map(str, (*path, key.value)))
                raise self._error(key, f"{dotted} is given twice (first on line {seen[key.value]})")
            seen[key.value] = line
            self.source.lines[(*path, key.value)] = line
            yield key.value, value

    def _scalar(self, node: yaml.Node) -> Any:
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        return scalar(node.value) if plain else node.value

    def _error(self, node: yaml.Node, text: str) -> RecipeError:
        return RecipeError(f"{self.source.name}, line {node.start_mark.line + 1}: {text}")
