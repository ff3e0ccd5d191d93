"""Analyse one part of a network, such as a detector's backbone, under the names of the whole."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from jstc.channels.groups import Structure, layer_of
from jstc.channels.proof import Proved
from jstc.channels.trace.ids import Ids, Labels, Recorder, named_tensors
from jstc.errors import InputError

__all__ = ["Placed", "completed", "holder", "layout", "shared_outside"]


class _Holder(nn.Module):
    """Holds one module under a name, so that it is called as in the network that it is part of."""

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__()
        self._held = name
        self.add_module(name, module)

    def forward(self, *inputs: Any) -> Any:
        return self.get_submodule(self._held)(*inputs)


def holder(model: nn.Module, part: str) -> nn.Module:
    """A network that is the submodule `part` alone, with the names that its tensors have in `model`.

    Raises `InputError`, with near names, when there is no such submodule.
    """
    names = [name for name, _ in model.named_modules() if name]
    if part not in names:
        near = difflib.get_close_matches(part, names, n=3, cutoff=0.5) or names[:3]
        raise InputError(f"part: the network has no module '{part}'; there are such as {', '.join(near)}")
    held = model.get_submodule(part)
    for name in reversed(part.split(".")):
        held = _Holder(name, held)
    return held


def shared_outside(model: nn.Module, part: str) -> frozenset[str]:
    """Names, as in the part, of its tensors that the network has elsewhere too: those can't be cut."""
    inside: dict[int, str] = {}
    outside: set[int] = set()
    for name, tensor in (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ):
        if name.startswith(f"{part}."):
            inside.setdefault(id(tensor), name)
        else:
            outside.add(id(tensor))
    return frozenset(name for key, name in inside.items() if key in outside)


def completed(proved: Proved, model: nn.Module) -> Proved:
    """The channels of a part as those of the whole network, of which nothing else is cut."""
    uncut: dict[str, Labels] = {name: (None,) * t.dim() for name, t in named_tensors(model)}
    structure = dataclasses.replace(proved.structure, numbers={**uncut, **proved.structure.numbers})
    return dataclasses.replace(proved, structure=structure)


# Where the channels of a network are: its layers in the order of the forward, and their groups.


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
