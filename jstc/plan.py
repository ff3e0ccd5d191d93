"""A plan: the kept channels of every group. It determines a sub-network completely."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jstc.core import files
from jstc.errors import ChannelError

__all__ = ["Plan"]

_SCHEMA = 1


@dataclass(frozen=True)
class Plan:
    """Kept channel indices per group, and the full width of each group.

    `kept[g]` is sorted, without repetition, within `range(widths[g])` and never empty.
    Raises `ChannelError` when it is not so.
    """

    kept: Mapping[str, tuple[int, ...]]
    widths: Mapping[str, int]

    def __post_init__(self) -> None:
        if set(self.kept) != set(self.widths):
            odd = sorted(set(self.kept) ^ set(self.widths))
            raise ChannelError(f"plan: groups {odd} have kept channels or a width, but not both")
        for name, kept in self.kept.items():
            _check_kept(name, kept, self.widths[name])

    @classmethod
    def full(cls, widths: Mapping[str, int]) -> Plan:
        """The plan that keeps every channel."""
        return cls({name: tuple(range(width)) for name, width in widths.items()}, dict(widths))

    @property
    def counts(self) -> dict[str, int]:
        """Number of kept channels per group."""
        return {name: len(kept) for name, kept in self.kept.items()}

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON form, in hex; equal plans have equal hashes."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def overlap(self, other: Plan) -> float:
        """Mean over the groups of the Jaccard index of the two keep sets; 1.0 for equal plans."""
        scores = []
        for name, kept in self.kept.items():
            mine, theirs = set(kept), set(other.kept[name])
            scores.append(len(mine & theirs) / len(mine | theirs))
        return sum(scores) / len(scores) if scores else 1.0

    def to_dict(self) -> dict[str, Any]:
        """A JSON document."""
        groups = {n: {"width": self.widths[n], "kept": list(k)} for n, k in self.kept.items()}
        return {"schema": _SCHEMA, "groups": groups}

    @classmethod
    def from_dict(cls, document: Any) -> Plan:
        """The inverse of `to_dict`. Raises `ChannelError` for anything that is not a plan."""
        try:
            if document["schema"] != _SCHEMA:
                raise ChannelError(f"plan: schema {document['schema']!r} is not {_SCHEMA}")
            groups = document["groups"]
            kept = {str(n): tuple(g["kept"]) for n, g in groups.items()}
            widths = {str(n): g["width"] for n, g in groups.items()}
            extra = sorted({str(key) for g in groups.values() for key in g} - {"kept", "width"})
            if extra:
                raise ChannelError(f"plan: unknown keys {extra[:3]} of a group")
        except (KeyError, TypeError, AttributeError) as error:
            raise ChannelError(f"plan: not a plan document ({error!r})") from None
        return cls(kept, widths)

    def save(self, path: Path) -> None:
        """Write the plan as JSON."""
        files.write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read a plan. Raises `ChannelError` when the file is not one."""
        try:
            document = files.read_json(path)
        except (OSError, ValueError) as error:
            raise ChannelError(f"plan: cannot read {path}: {error}") from None
        return cls.from_dict(document)


def _check_kept(name: str, kept: tuple[int, ...], width: int) -> None:
    whole = set(map(type, kept)) == {int} and type(width) is int
    if not whole or list(kept) != sorted(set(kept)):
        raise ChannelError(f"plan: group '{name}' needs sorted, distinct whole channel indices")
    if kept[0] < 0 or kept[-1] >= width:
        raise ChannelError(f"plan: group '{name}' keeps channels outside its width {width}")
