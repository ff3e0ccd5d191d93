"""What a forward leaves in the modules of a network, so that no analysis and no cut depends on it.

A module may keep what its forward has computed: a cache of positions with the shape that it was made for,
hooks, a criterion. A network that has run before then does other things than a fresh one. So the forwards of
an analysis leave the modules as they were (`State`). A network that holds such a cache is first run on
another batch: then it fits neither the whole network nor a cut one (`unsettle`). And what a forward was seen
to keep is not carried into a cut network (`forget`).

What a forward in training has kept hangs on a graph, and torch does not copy it: `duplicate` does.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from jstc.channels.trace.ids import named_modules, tensors_in

__all__ = ["Kept", "State", "duplicate", "forget", "in_graph", "unsettle"]

Network = TypeVar("Network", bound=nn.Module)

_TORCHS_OWN = frozenset(name for name in vars(nn.Module()) if name != "_buffers" and "hooks" not in name)
_CONTAINERS = (dict, list, set, OrderedDict)


def in_graph(model: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """Tensors in attributes that came of parameters: module, attribute, and the tensor.

    Mostly a forward with gradients has left them: an attention map, features.
    """
    for path, module in named_modules(model):
        for name, value in vars(module).items():
            if name not in _TORCHS_OWN:
                yield from ((path, name, tensor) for tensor in tensors_in(value) if not tensor.is_leaf)


def duplicate(model: Network, memo: dict[int, Any] | None = None) -> Network:
    """A deep copy; what a forward has left in attributes comes along, without the graph that it hangs on.

    Raises whatever an attribute raises that cannot be copied.
    """
    memo = {} if memo is None else memo
    for _, _, tensor in in_graph(model):
        memo.setdefault(id(tensor), tensor.detach().clone())
    return copy.deepcopy(model, memo)


@dataclass(frozen=True)
class Kept:
    """An attribute that a forward has set, and what it was before; `absent` if there was none."""

    module: str
    name: str
    before: Any
    absent: bool


class State:
    """The attributes of all modules that their authors made, and hooks, at one moment."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = [(path, module, _attributes(module)) for path, module in named_modules(model)]

    def restore(self) -> None:
        """Put everything back, and take away what is new."""
        for _, module, before in self._modules:
            own = vars(module)
            for name in own.keys() - _TORCHS_OWN - before.keys():
                del own[name]
            own.update(before)

    def changed(self) -> Iterator[Kept]:
        """Attributes that are others now; hooks and buffers are none."""
        for path, module, before in self._modules:
            own = vars(module)
            for name in own.keys() - _TORCHS_OWN:
                yield from _compared(path, name, own[name], before)


def _compared(path: str, name: str, now: Any, before: dict[str, Any]) -> Iterator[Kept]:
    if name == "_buffers" or "hooks" in name:
        return
    if name not in before:
        yield Kept(path, name, None, absent=True)
    elif not _is_same(now, before[name]):
        yield Kept(path, name, before[name], absent=False)


def _is_same(a: Any, b: Any) -> bool:
    if type(a) is not type(b) or type(a) not in _CONTAINERS:
        return a is b or (isinstance(a, int | float | str) and a == b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(a[key] is b[key] for key in a)
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def _attributes(module: nn.Module) -> dict[str, Any]:
    own = vars(module)
    found = {name: own[name] for name in own.keys() - _TORCHS_OWN}
    for name, value in found.items():
        if type(value) in _CONTAINERS:
            found[name] = copy.copy(value)
    return found


def _is_computed(value: Any) -> bool:
    """Does it hold what a forward makes: a tensor outside of parameters and buffers, or its shape?"""
    return isinstance(value, torch.Size) or bool(tensors_in(value))


def unsettle(model: nn.Module, forward: Callable[[], Any]) -> None:
    """Let a cache that a forward has left in `model` belong to another batch, that of `forward`.

    A cache that is still empty stays so. Whatever `forward` raises is nobody's concern here.
    """
    owners = (vars(module).items() for _, module in named_modules(model))
    if not any(
        _is_computed(x) for own in owners for name, x in own if name not in _TORCHS_OWN | {"_buffers"}
    ):
        return
    state = State(model)
    try:
        with torch.inference_mode():
            forward()
        settled = {(kept.module, kept.name): kept for kept in state.changed()}
    except Exception:  # a forward that runs on no other batch has a cache for none
        settled = {}
    values = {
        key: vars(model.get_submodule(key[0]))[key[1]] for key, kept in settled.items() if _is_warm(kept)
    }
    state.restore()
    for (path, name), value in values.items():
        setattr(model.get_submodule(path), name, value)


def _is_warm(kept: Kept) -> bool:
    return not kept.absent and _is_computed(kept.before)


def forget(model: nn.Module, kept: Iterable[Kept]) -> None:
    """Give a copy of the network, in place, the attributes that it had before any forward.

    Those are known of a network that had none of its own when it was analysed; numbers are left alone, for
    they may count steps.
    """
    for each in kept:
        own = vars(model.get_submodule(each.module))
        if each.name not in own or isinstance(own[each.name], int | float | str):
            continue
        if each.absent:
            del own[each.name]
        elif not _is_computed(each.before):
            own[each.name] = copy.copy(each.before)
