"""Where the channels of a network are: its layers in the order of the forward, and their groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jstc.channels.groups import Structure
from jstc.channels.labels import Ids, Recorder
from jstc.channels.patterns import layer_of

__all__ = ["Placed", "layout"]


@dataclass(frozen=True)
class Placed:
    """A parameter that the forward uses.

    `groups[d]` names the groups that dimension d has channels of, `sizes[d]` says at how many positions each.
    """

    layer: str
    parameter: str
    shape: tuple[int, ...]
    groups: tuple[tuple[str, ...], ...]
    sizes: tuple[tuple[int, ...], ...]


def layout(
    structure: Structure, record: Recorder, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Placed, ...]:
    """The parameters in the order in which the forward first uses them."""
    starts = np.array([group.start for group in structure.groups], np.int64)

    def placed(name: str) -> Placed:
        found = [_groups_of(numbers, starts) for numbers in structure.numbers[name]]
        groups = tuple(tuple(structure.groups[i].name for i in indices) for indices, _ in found)
        return Placed(layer_of(name), name, shapes[name], groups, tuple(tuple(sizes) for _, sizes in found))

    return tuple(placed(name) for name in record.used if name in shapes and name in structure.numbers)


def _groups_of(numbers: Ids | None, starts: Ids) -> tuple[list[int], list[int]]:
    """Indices of the groups along one dimension, and the positions of each."""
    if numbers is None:
        return [], []
    found = np.searchsorted(starts, numbers[numbers >= 0], side="right") - 1
    indices, sizes = np.unique(found, return_counts=True)
    return indices.tolist(), sizes.tolist()
