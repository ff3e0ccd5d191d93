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
    """A parameter that the forward uses; `groups[d]` names the groups that dimension d has channels of."""

    layer: str
    parameter: str
    shape: tuple[int, ...]
    groups: tuple[tuple[str, ...], ...]


def layout(
    structure: Structure, record: Recorder, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Placed, ...]:
    """The parameters in the order in which the forward first uses them."""
    starts = np.array([group.start for group in structure.groups], np.int64)

    def groups_of(numbers: Ids | None) -> tuple[str, ...]:
        if numbers is None:
            return ()
        found = np.searchsorted(starts, np.unique(numbers[numbers >= 0]), side="right") - 1
        return tuple(structure.groups[i].name for i in np.unique(found).tolist())

    return tuple(
        Placed(layer_of(name), name, shapes[name], tuple(map(groups_of, structure.numbers[name])))
        for name in record.used
        if name in shapes and name in structure.numbers
    )
