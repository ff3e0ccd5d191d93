"""Many names as a few patterns: `blocks.0.attn.qkv` to `blocks.11.attn.qkv` are `blocks.*.attn.qkv`."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Alike", "by_reason", "collapse"]

_DIGITS = re.compile(r"(\d+)")
_LEAST_POSITIONS = 4  # the places in a plain sequence (`features.3`) are parts of their own if they are few


@dataclass(frozen=True)
class Alike:
    """Names that differ in numbers only: their pattern, and their places in the list given."""

    pattern: str
    members: tuple[int, ...]


def collapse(names: Sequence[str], keys: Sequence[Hashable] | None = None, *, enough: int = 1) -> list[Alike]:
    """Names that differ in the number of a block become one pattern, at the place of the first.

    Numbers are taken from right to left, blocks before stages, until no more than `enough` patterns are left.
    Only names with equal `keys` are taken together. The number at the end of a name (`conv1`, `conv2`) tells
    parts of one block from each other and stays, as does every number in which no two names differ.
    """
    split = [_DIGITS.split(name) for name in names]
    keys = keys if keys is not None else [None] * len(names)
    found = _patterns(split, keys)
    for from_the_right in range(2, max(map(len, split), default=0), 2):
        if len(found) <= enough:
            break
        _star(split, keys, from_the_right)
        found = _patterns(split, keys)
    return found


def _patterns(split: Sequence[Sequence[str]], keys: Sequence[Hashable]) -> list[Alike]:
    found: dict[tuple[str, Hashable], list[int]] = {}
    for index, parts in enumerate(split):
        found.setdefault(("".join(parts), keys[index]), []).append(index)
    return [Alike(pattern, tuple(members)) for (pattern, _), members in found.items()]


def _star(split: list[list[str]], keys: Sequence[Hashable], from_the_right: int) -> None:
    """Replace one number of each name by `*` where names differ in it alone."""
    alike: dict[Hashable, list[int]] = {}
    for index, parts in enumerate(split):
        position = len(parts) - from_the_right
        if position > 0:
            rest = (*parts[:position], None, *parts[position + 1 :])
            alike.setdefault((rest, keys[index]), []).append(index)
    for members in alike.values():
        position = len(split[members[0]]) - from_the_right
        different = len({split[index][position] for index in members})
        if different >= _least(split[members[0]], position):
            for index in members:
                split[index][position] = "*"


def _least(parts: Sequence[str], position: int) -> float:
    """How many numbers must differ at `position` before they are taken together."""
    if "." in "".join(parts[position + 1 :]):
        return 2
    alone = parts[position - 1].endswith(".") and not "".join(parts[position + 1 :])
    return _LEAST_POSITIONS if alone else float("inf")


def by_reason(frozen: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Frozen channels with one `reason`, taken together; reasons that differ in numbers only are one."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for entry in frozen:
        found.setdefault(re.sub(r"\d+", "0", entry["reason"]), []).append(entry)
    return list(found.values())
