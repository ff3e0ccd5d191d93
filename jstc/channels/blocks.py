"""Channels that a view spread over several dimensions, before it is known which of these keeps them.

An attention views its projected tokens `[N, 3 * heads * width]` as `[N, 3, heads, width]`. Whether heads are
kept whole or each head is made narrower shows only later, where the products are taken. So a view gives its
dimensions one common `Block`, and the first operation that acts on one of them decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from jstc.channels.labels import FIXED, Ids

__all__ = ["Axis", "Block", "Raw", "Tying", "alone", "keep_axis", "moved"]


class Tying(Protocol):
    """What is needed of a labelling."""

    def tie(self, a: Ids | None, b: Ids | None) -> None: ...


class Block:
    """Channel ids over several dimensions at once; `labels` holds those of each once it is decided."""

    def __init__(self, ids: Ids, favourite: int | None = None) -> None:
        self.ids = ids
        self.labels: list[Ids] | None = None
        self.parted = False  # its parts, as of queries, keys and values, are decided each on its own
        self._favourite = favourite

    def decide(self, labelling: Tying, keep: int | None = None) -> list[Ids]:
        """Keep the ids on axis `keep` and tie them along the others; the first decision stands."""
        if self.labels is None:
            self.labels = keep_axis(labelling, self.ids, self._favourite if keep is None else keep)
        return self.labels

    def away_from(self, labelling: Tying, axes: Sequence[int]) -> None:
        """Decide for an axis that is none of `axes`, which an operation acts on as a whole."""
        others = [d for d in range(self.ids.ndim) if d not in axes]
        if others and self.labels is None:
            favourite = self._favourite if self._favourite in others else None
            widest = max(reversed(others), key=lambda d: self.ids.shape[d])
            self.decide(labelling, widest if favourite is None else favourite)


@dataclass(frozen=True)
class Axis:
    """The label of one dimension of a block."""

    block: Block
    index: int


Raw = tuple[Ids | Axis | None, ...]
"""Labels of a tensor, undecided dimensions as they are."""


def keep_axis(labelling: Tying, ids: Ids, keep: int | None = None) -> list[Ids]:
    """Labels of the dimensions of `ids` when `keep` keeps the channels and they are tied along the others.

    Without `keep` it is the dimension along which alone they vary, else the widest, of equals the last.
    """
    if keep is None:
        keep = alone(ids)
    if keep is None:
        keep = ids.ndim - 1 - int(np.argmax(ids.shape[::-1]))
    lines = np.moveaxis(ids, keep, -1).reshape(-1, ids.shape[keep])
    if len(lines) > 1 and (lines[1:] != lines[0]).any():
        labelling.tie(np.tile(lines[0], len(lines) - 1), lines[1:].reshape(-1))
    return [lines[0] if d == keep else np.full(n, FIXED) for d, n in enumerate(ids.shape)]


def alone(ids: Ids) -> int | None:
    """The dimension along which alone ids vary; None if there are several."""
    for d in range(ids.ndim):
        line = ids[tuple(slice(None) if o == d else slice(0, 1) for o in range(ids.ndim))]
        if (line != line.flat[0]).any() and (ids == line).all():
            return d
    return None


def moved(labelling: Tying, raw: Raw, dim: int, index: int) -> Raw:
    """Labels without dimension `dim`, an undecided one, of which position `index` is taken.

    All positions must stay equally wide for the view that made them, so they are tied to the first.
    """
    axis = raw[dim]
    assert isinstance(axis, Axis)
    axis.block.parted = True
    ids = np.take(axis.block.ids, index, axis=axis.index)
    labelling.tie(np.take(axis.block.ids, 0, axis=axis.index).reshape(-1), ids.reshape(-1))
    part = Block(ids) if ids.ndim > 1 else None
    out: list[Ids | Axis | None] = []
    for d, label in enumerate(raw):
        if d == dim:
            continue
        if isinstance(label, Axis) and label.block is axis.block:
            out.append(ids if part is None else Axis(part, label.index - (label.index > axis.index)))
        else:
            out.append(label)
    return tuple(out)
