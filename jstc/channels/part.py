"""Analyse one part of a network, such as a detector's backbone, under the names of the whole."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from torch import nn

from jstc.channels.labels import Labels, named_tensors
from jstc.channels.proof import Proved
from jstc.errors import InputError

__all__ = ["completed", "holder", "shared_outside"]


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
